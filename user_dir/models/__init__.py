"""Models registered with fairseq."""

import os

# Else every gradient of a table of words is paid for by the page, a twentieth of an
# update's time. torch looks when it makes its first tensor on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
