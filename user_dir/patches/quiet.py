"""Silence: what is said at every start, that no user can mend.

``FAIRSEQ_STEADY_VERBOSE=1`` lets all of it be heard.
"""

import logging
import os
import warnings

#: Messages of warnings, each from its start.
_MESSAGES = (
    # of Hydra, about how fairseq calls it
    r"hydra\.experimental\.(initialize|compose)\(\) is no longer experimental",
    r"\s*The version_base parameter is not specified",
    r"In '.*': Usage of deprecated keyword in package header",
    r"\s*'.*' is validated against ConfigStore schema",
    r"\s*The strict flag in the compose API is deprecated",
    r"Future Hydra versions will no longer change working directory",
    # of torch, about fairseq
    r"Support for mismatched key_padding_mask and attn_mask",
    r".*torch\.cuda\.amp\.",
    r".*'pin_memory' argument is set",
)
#: Logs, the least of them that is of use to anybody, and what is below that.
_LOGS = {
    "fairseq.tasks.text_to_speech": logging.WARNING,  # install tensorboardX
    "hydra": logging.INFO,  # names of jobs
    "matplotlib": logging.WARNING,  # fonts
}


def verbose() -> bool:
    """Whether nothing is to be silenced."""
    return os.environ.get("FAIRSEQ_STEADY_VERBOSE", "0") not in ("", "0")


def hush() -> None:
    """Silence what is known to be of no use."""
    if verbose():
        return
    for message in _MESSAGES:
        for kind in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", message, kind)
    for name, level in _LOGS.items():
        logging.getLogger(name).setLevel(level)


def before_fairseq(logs: bool = False) -> None:
    """The same where fairseq is not imported yet, whose modules set up logging.

    Args:
        logs: the program that is about to start sets up logging itself.

    """
    hush()
    if not (logs or verbose()):
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


def only_the_first(rank: int) -> None:
    """Of workers that train together the first one speaks; errors come from each."""
    if rank > 0 and not verbose():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
