"""The command ``fairseq-steady``: one file per subcommand, see :mod:`.page`."""

import importlib
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import install_excepthook, visible
from ..patches.quiet import before_fairseq
from .page import did_you_mean

#: By what a person is about to do: each subcommand, its module, and what it does.
GROUPS = {
    "before training": {
        "check": ("check", "is this environment fit to train?"),
        "get-data": ("get_data", "fetch a data set"),
        "import": ("import_hf", "make a model directory from a Hugging Face one"),
        "list": ("listing", "tasks, criterions, optimizers, architectures; flags"),
    },
    "training": {
        "train": ("train", "fairseq-train with this plugin"),
        "hydra-train": ("hydra_train", "the same from YAML"),
        "compare": ("compare", "which method helps on my task, and at what price?"),
        "probe": ("probe", "does fine-tuning make the encoder forget?"),
    },
    "a trained checkpoint": {
        "predict": ("predict", "labels or scores of new texts"),
        "summarize": ("summarize", "summaries of articles"),
        "export": ("export_hf", "make a Hugging Face directory of it"),
        "submission": ("submission", "files for GLUE's leaderboard"),
        "sensitivity": ("sensitivity", "draw what pats_adamax and sage measured"),
    },
    "results": {"rouge": ("rouge", "score summaries against references")},
}
#: The module of each subcommand.
COMMANDS = {n: module for group in GROUPS.values() for n, (module, _) in group.items()}


def overview() -> str:
    """What there is, a line each."""
    lines = [
        "usage: fairseq-steady COMMAND ...",
        "",
        "Regularised fine-tuning of pretrained encoders, on fairseq.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:12} {what}" for name, (_, what) in group.items()]
    return "\n".join([*lines, "", _END])


_END = """\
fairseq-steady COMMAND --help has examples and every flag of a command;
fairseq-steady --version says which release this is. Exit status: 0 if all went
well, 1 after an error (one line on standard error), 2 for a command line that
cannot be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that the command line names; its exit status."""
    install_excepthook()
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in COMMANDS:
        before_fairseq(logs=name == "train")
        module = importlib.import_module(f".{COMMANDS[name]}", __name__)
        return int(module.main(rest))
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"fairseq-steady {__version__}")
        return 0
    advice = did_you_mean(name, COMMANDS, "see fairseq-steady --help")
    problem = f"no command {name}; {advice}" if name else f"no command; {advice}"
    print(visible(f"error: {problem}"), file=sys.stderr)
    return 2
