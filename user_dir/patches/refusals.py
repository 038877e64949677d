"""What is typed on a command line: one line for what cannot be meant, defaults for the
rest.

fairseq answers a misspelt flag with pages of usage, and has no batch size, optimizer or
length of its own.
"""

import argparse
import difflib
import functools
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

from ..errors import UserError
from ..flags import at_least
from ..presets import paper_of
from .durable import check_writable
from .quiet import only_the_first

#: As what is announced, however the plugin was imported.
logger = logging.getLogger("fairseq_steady")

_LENGTH = "use --steady-max-length"
_LOGGED = (
    "leave it out: the metrics that go with the task are always logged, and "
    "--best-checkpoint-metric names the one that picks checkpoints"
)
_TEMPLATE = "leave it out: the model directory's tokeniser adds the special tokens"
#: Model that --steady-model describes; used when --arch is not given.
_ARCH = "steady"
#: Flags that people bring along, from fairseq's sentence_prediction and from other
#: programs, and what stands in their place here.
BROUGHT = {
    "--num-classes": "leave it out: the task takes the classes from its data",
    "--init-token": _TEMPLATE,
    "--separator-token": _TEMPLATE,
    "--add-prev-output-tokens": "leave it out: the model directory says what it needs",
    "--no-shuffle": "leave it out: training is shuffled each epoch, by --seed",
    "--shorten-method": _LENGTH,
    "--shorten-data-split-list": _LENGTH,
    "--truncate-sequence": _LENGTH,
    "--max-positions": _LENGTH,
    "--max-length": _LENGTH,
    "--max-seq-length": _LENGTH,
    "--report-mcc": _LOGGED,
    "--report-acc-and-f1": _LOGGED,
    "--report-accuracy-and-f1": _LOGGED,
    "--report-pearson-and-spearman": _LOGGED,
    "--learning-rate": "use --lr",
    "--epochs": "use --max-epoch, or --steady-epochs for the whole recipe",
    "--num-epochs": "use --max-epoch, or --steady-epochs for the whole recipe",
    "--num-train-epochs": "use --max-epoch, or --steady-epochs for the whole recipe",
    "--max-steps": "use --max-update, or --steady-updates for the whole recipe",
    "--warmup-steps": "use --warmup-updates",
    "--gradient-accumulation-steps": "use --update-freq",
    "--model": "use --steady-model",
    "--output-dir": "use --save-dir",
}
#: Names that other programs have for what is called otherwise here.
_ELSEWHERE = {
    "adamw": "bert_adam",
    "linear": "polynomial_decay",
    "constant": "fixed",
    "classification": "text_classification",
    "regression": "text_regression",
}

# --- one line -------------------------------------------------------------------------


def _like(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?``, or nothing."""
    near = difflib.get_close_matches(word.replace("_", "-"), list(known), 1, 0.7)
    near = near or difflib.get_close_matches(word, list(known), 1, 0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _owners() -> dict[str, list[str]]:
    """Flags of tasks, criterions, optimizers and schedules, and whose they are."""
    found: dict[str, list[str]] = {}
    kinds = {name: known["dataclass_registry"] for name, known in REGISTRIES.items()}
    for kind, configs in {"task": TASK_DATACLASS_REGISTRY, **kinds}.items():
        for name, config in configs.items():
            for field in getattr(config, "__dataclass_fields__", {}):
                flag, owner = _spelt(field), f"{_spelt(kind)} {name}"
                found.setdefault(flag, []).append(owner)
    return found


def _spelt(name: str) -> str:
    return "--" + name.replace("_", "-")


def _of_others(flag: str) -> str:
    owners = _owners().get(flag, [])
    # Every task has some flags in common: five are enough to see that.
    few = ", ".join(owners[-5:]) + (" and others" if len(owners) > 5 else "")
    return f" goes with {few}" if owners else ""


def unrecognised(flag: str, known: Iterable[str]) -> str:
    """What to say of a flag that the parser does not know."""
    if flag in BROUGHT:
        return f"{flag} is no flag of this task: {BROUGHT[flag]}"
    if whose := _of_others(flag):
        return f"{flag}{whose}; give that too, or leave {flag} out"
    near = _like(flag, known) or _like(flag, _owners())
    return f"there is no flag {flag}{near or '; see fairseq-steady list'}"


def _no_such_choice(flag: str, value: str, choices: Sequence[str]) -> str:
    name = flag.split("/")[0]
    if _ELSEWHERE.get(value) in choices:
        return f"{name} has no '{value}'; here it is {_ELSEWHERE[value]}"
    near = _like(value, choices)
    if not near and len(choices) <= 20:
        near = "; choose from " + ", ".join(choices)
    return f"{name} has no '{value}'{near or '; see fairseq-steady list'}"


_TYPES = {"int": "a whole number", "float": "a number", "<lambda>": "numbers"}


def in_one_line(message: str, known: Sequence[str]) -> str:
    """argparse's message, with a mend.

    Args:
        message: of the parser.
        known: flags that it has.

    """
    if message.startswith("unrecognized arguments: "):
        flags = re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", message)
        if not flags:
            return f"{message}: only the data folder has no flag"
        return unrecognised(flags[0], known)
    if found := re.match(r"argument (\S+): invalid choice: '(.*?)' \(ch", message):
        choices = re.findall(r"[\w.@-]+", message[found.end() :].partition(" from ")[2])
        return _no_such_choice(found[1], found[2], choices)
    if found := re.match(r"argument (\S+): invalid (\S+) value: '(.*)'", message):
        if found[3] == "???":
            return f"{found[1]} is missing"
        kind = _TYPES.get(found[2], found[2])
        return f"{found[1].split('/')[0]} '{found[3]}': {kind} wanted"
    if message == "the following arguments are required: data":
        return "the data folder is missing: fairseq-train FOLDER --user-dir ..."
    return message.removeprefix("argument ")


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(1, f"error: {in_one_line(message, list(_flags(parser)))}\n")


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Where the value of each flag goes."""
    return {flag: a.dest for a in parser._actions for flag in a.option_strings}


# --- what nobody says -----------------------------------------------------------------

#: Warm-up when nobody says anything: a tenth of the training.
A_TENTH = -(10**9)
BATCH_SIZE, RATE, EPOCHS = 32, 5e-5, 3
#: fairseq's optimizers for which that is a rate; its default of 0.25 is for SGD.
_ADAMS = ("adam", "adamax")
#: Whatever ends a training, or means to.
ENDS = {"max_update", "max_epoch", "stop_time_hours", "stop_min_lr", "patience"}
ENDS |= {"steady_updates", "steady_epochs", "total_num_update"}


def unsaid(said: set[str], optimizer: str | None) -> dict[str, Any]:
    """Defaults that train.

    Args:
        said: what the command line sets.
        optimizer: the one it names.

    """
    new: dict[str, Any] = {}
    if not said & {"batch_size", "max_tokens"}:
        new["batch_size"] = BATCH_SIZE
    if not said & ENDS:
        new["max_epoch"] = EPOCHS
    if "optimizer" not in said:
        new |= {"optimizer": "bert_adam", "bert_adam_bias_correction": True}
    if "lr" not in said and _like_adam(new.get("optimizer", optimizer)):
        new["lr"] = str(RATE)
    return new | _schedule(said, {*said, *new})


def _like_adam(optimizer: str | None) -> bool:
    """Whether an optimizer's rates are Adam's; this plugin's say so themselves."""
    made = OPTIMIZER_REGISTRY.get(optimizer)
    return optimizer in _ADAMS or getattr(made, "adams_rates", False)


def _schedule(said: set[str], known: set[str]) -> dict[str, Any]:
    """Linear decay where nothing is said of rates and the updates can be counted.

    Args:
        said: what the command line sets.
        known: that, and what else was chosen.

    """
    if said & {"optimizer", "lr_scheduler", "steady_updates", "steady_epochs"}:
        return {}
    if "max_update" not in said and not {"batch_size", "max_epoch"} <= known:
        return {}
    warm_up = {} if "warmup_updates" in said else {"warmup_updates": A_TENTH}
    return {"lr_scheduler": "polynomial_decay", **warm_up}


def of_papers(names: Mapping[str, str | None], said: Collection[str]) -> dict[str, Any]:
    """The papers' values of what nobody says.

    Args:
        names: of the criterion and the optimizer, where they are named.
        said: what the command line sets.

    Raises:
        UserError: the criterion is of no paper that is known here.

    """
    found: dict[str, Any] = {}
    for kind, name in names.items():
        paper = paper_of(REGISTRIES[kind]["registry"].get(name))
        if paper and name:
            found |= paper.unsaid(name, said)
        elif kind == "criterion":
            raise UserError(
                f"--steady-preset paper knows no values for --criterion {name}; leave "
                "it out, and give them flag by flag"
            )
    return found


def _set_defaults(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> dict[str, Any]:
    """Give a training with this plugin's tasks what nobody says; returns it."""
    flags = _flags(parser)
    given = parser.parse_known_args(list(words))[0]
    config = TASK_DATACLASS_REGISTRY.get(getattr(given, "task", None))
    if "steady_model" not in getattr(config, "__dataclass_fields__", {}):
        return {}
    parser.set_defaults(criterion="plain")
    if "max_update" not in flags.values():  # an evaluation
        return {}
    # Flags of the task are not known yet in the first pass.
    typed = [word.split("=")[0] for word in words if word.startswith("-")]
    said = {flags.get(flag, flag.strip("-").replace("-", "_")) for flag in typed}
    optimizer = given.optimizer if "optimizer" in said else None
    new = unsaid(said, optimizer)
    if getattr(given, "steady_preset", None) == "paper":
        named = {"criterion": given.criterion, "optimizer": optimizer}
        new |= of_papers(named, said)
    parser.set_defaults(**new)
    return new


def _shown(new: dict[str, Any]) -> str:
    def one(name: str, value: Any) -> str:
        if value == A_TENTH:
            value = "(a tenth)"
        return _spelt(name) if value is True else f"{_spelt(name)} {value}"

    return " ".join(one(name, value) for name, value in new.items())


def parsing(parse: Callable[..., Any]) -> Callable[..., Any]:
    """fairseq's parsing, with defaults that train and errors of one line."""

    @functools.wraps(parse)
    def parse_args_and_arch(
        parser: argparse.ArgumentParser,
        input_args: Sequence[str] | None = None,
        *rest: Any,
        modify_parser: Callable[[argparse.ArgumentParser], None] | None = None,
        **options: Any,
    ) -> Any:
        words = sys.argv[1:] if input_args is None else input_args
        new: dict[str, Any] = {}

        # Called before each of fairseq's two passes: the first one finds out whose
        # flags there are, by what is chosen or default.
        def modify(parser: argparse.ArgumentParser) -> None:
            if modify_parser is not None:
                modify_parser(parser)
            new.update(_set_defaults(parser, words))

        parser.error = functools.partial(_refuse, parser)  # type: ignore[method-assign]
        parsed = parse(parser, input_args, *rest, modify_parser=modify, **options)
        only_the_first(getattr(parsed, "distributed_rank", 0))
        if new:
            logger.info("not given, so chosen: %s", _shown(new))
        if isinstance(parsed, argparse.Namespace) and hasattr(parsed, "max_update"):
            check_launch(parsed)
        return parsed

    return parse_args_and_arch


def check_launch(args: Any) -> None:
    """Refuse what stops fairseq, or makes it train nothing, before any task is there.

    Raises:
        UserError: names the flag and the mend.

    """
    at_least(1).check("--distributed-world-size", args.distributed_world_size)
    if args.write_checkpoints_asynchronously:
        raise UserError(
            "--write-checkpoints-asynchronously: this plugin writes each checkpoint "
            "whole before it goes on; leave it out"
        )
    if args.log_file:
        check_writable(Path(args.log_file).parent, "--log-file")


def with_an_architecture(add: Callable[..., Any]) -> Callable[..., Any]:
    """A default of --arch; without one fairseq stops with an empty RuntimeError."""

    @functools.wraps(add)
    def add_model_args(parser: argparse.ArgumentParser) -> Any:
        group = add(parser)
        parser.set_defaults(arch=_ARCH)
        return group

    return add_model_args


def of_numbers(parse: Callable[..., Any]) -> Callable[..., Any]:
    """A ValueError for a list that is none: argparse reports it as a wrong flag.

    fairseq raises a SyntaxError, and of 1.5 for a whole number it makes 1.
    """

    @functools.wraps(parse)
    def eval_str_list(text: Any, *args: Any) -> Any:
        try:
            values = parse(text, *args)
            if isinstance(text, str) and int in args and values != parse(text, float):
                raise ValueError(text)
        except SyntaxError:
            raise ValueError(text) from None
        return values

    return eval_str_list
