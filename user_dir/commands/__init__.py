"""The command ``fairseq-steady``: one file per subcommand."""

import importlib
import sys
from difflib import get_close_matches

from ..errors import install_excepthook
from ..patches.later import sklearn_later
from ..patches.quiet import before_fairseq

#: Name of each subcommand: its module, and what it does.
COMMANDS = {
    "train": ("train", "fairseq-train with this plugin"),
    "hydra-train": ("hydra_train", "the same from YAML"),
    "compare": ("compare", "which method helps on my task, and at what price?"),
    "probe": ("probe", "does fine-tuning make the encoder forget?"),
    "predict": ("predict", "labels or scores of new texts"),
    "summarize": ("summarize", "summaries of articles"),
    "import": ("import_hf", "a model directory from a Hugging Face checkpoint"),
    "export": ("export_hf", "a Hugging Face directory from a trained checkpoint"),
    "get-data": ("get_data", "fetch a data set"),
    "submission": ("submission", "files for the GLUE server"),
    "rouge": ("rouge", "score summaries"),
    "sensitivity": ("sensitivity", "draw the sensitivities that an optimizer keeps"),
    "list": ("listing", "every component with its flags"),
    "check": ("check", "is this environment fit to train?"),
}


def overview() -> str:
    """What there is, a line each."""
    lines = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    usage = "usage: fairseq-steady COMMAND ...; COMMAND --help says more"
    return "\n".join([usage, "", *lines])


def main() -> int:
    """Run the subcommand that the command line names; its exit status."""
    install_excepthook()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(overview())
        return 0 if len(sys.argv) > 1 else 2
    name = sys.argv[1]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else "fairseq-steady --help"
        print(f"error: no command {name}; {advice}", file=sys.stderr)
        return 2
    before_fairseq(logs=name == "train")
    if name in ("predict", "summarize"):
        with sklearn_later():
            importlib.import_module("fairseq")
    module = importlib.import_module(f".{COMMANDS[name][0]}", __name__)
    sys.argv = [f"fairseq-steady {name}", *sys.argv[2:]]
    return int(module.main() or 0)
