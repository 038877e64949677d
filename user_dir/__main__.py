"""``python -m fairseq_steady``: the folder for --user-dir, or ``fairseq-steady``."""

import sys
from pathlib import Path

if len(sys.argv) == 1:
    print(Path(__file__).parent)
else:
    from .commands import main

    sys.exit(main())
