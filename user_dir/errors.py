"""Errors that a user can mend, shown in one line instead of a traceback."""

import re
import sys
from collections.abc import Callable
from types import TracebackType

#: What fairseq, Hydra and torch raise for what was typed (``module.Type: text``), and
#: the line shown instead. Whatever is not here is a bug and keeps its traceback.
_KNOWN = tuple(
    (re.compile(pattern, re.DOTALL), said)
    for pattern, said in (
        (
            r"The dataset is empty",
            "no sentence fits into a batch: raise --max-tokens, or use --batch-size",
        ),
        (
            r"Sentences lengths should not exceed max_tokens=(\d+)",
            r"a sentence is longer than --max-tokens \1: raise it, or use --batch-size",
        ),
        (
            r"Must specify batch size",
            "--batch-size is missing: give it, or --max-tokens; or name a --task of "
            "this plugin, which has a default",
        ),
        (
            r"optimizer is required",
            "--optimizer is missing: for example --optimizer bert_adam",
        ),
        (r"Seed must be between", "--seed is not in 0 to 4294967295"),
        (
            r"world size is (\d+) but have (\d+) available devices",
            r"--distributed-world-size \1 on a machine with \2 GPUs: start CPU workers "
            r"with scripts/launch/local.sh \1, or leave it out",
        ),
        (
            r"uninitialized 'dummy' batch",
            "there are fewer batches than workers: lower --batch-size or "
            "--distributed-world-size",
        ),
        (
            r"has no attribute 'xla_device'",
            "--bf16 and --tpu of fairseq-train are for TPUs and need torch_xla: leave "
            "them out, or train in bf16 on this machine from YAML, with fairseq-steady "
            "hydra-train ... common.bf16=true",
        ),
        (
            r"Torch not compiled with CUDA|No CUDA GPUs are available|no NVIDIA driver",
            "a flag needs a GPU, and there is none here: leave out --fp16, "
            "--memory-efficient-fp16 and --profile; a CPU trains in fp32 or, from "
            "YAML, in bf16 (common.bf16=true)",
        ),
        (
            r"Cannot combine --fp16 and --tpu",
            "--fp16 and --bf16 (or --tpu): give one of them",
        ),
        (r"Cannot use fp16 and AMP together", "--fp16 and --amp: give one of them"),
        (
            r"--fp16-scale-window must be given",
            "--fp16-scale-window is missing: with --fp16 and several values of "
            "--update-freq fairseq wants it, for example 128",
        ),
        (
            r"does not support flat params",
            "this optimizer needs one tensor per matrix: with --fp16 add "
            "--fp16-no-flatten-grads",
        ),
        (
            r"--cpu-offload requires",
            "--cpu-offload goes with --ddp-backend fully_sharded, on GPUs: leave it "
            "out",
        ),
        (
            r"install fairscale",
            "--ddp-backend fully_sharded and --zero-sharding need fairscale and "
            "several GPUs: leave them out, or use --ddp-backend pytorch_ddp",
        ),
        (
            r"--pipeline-\w+ is currently required",
            "--pipeline-model-parallel is for models that fairseq cuts up over GPUs, "
            "and none of this plugin's is: leave it out",
        ),
        (
            r"megatron submodule",
            "--model-parallel-size is for Megatron's models: leave it out",
        ),
        (
            r"'PlasmaStore' object has no attribute",
            "--use-plasma-view needs plasma, which pyarrow no longer has: leave it out",
        ),
        (
            r"Please install (apex|DeepSpeed)",
            r"this --optimizer needs \1, which is not installed: --optimizer bert_adam "
            "needs nothing",
        ),
        (
            r"please specify steps or phase_ratio",
            "--lr-scheduler tri_stage needs --phase-ratio and --max-update, or "
            "--warmup-steps, --hold-steps and --decay-steps",
        ),
        (
            r"Key Tag\(.* is incompatible with",
            "--optimizer composite wants models that name its groups, and these do "
            "not: use one optimizer, for example bert_adam",
        ),
        (
            r"Cannot combine manual lr and relative_step",
            "--relative-step is for a rate that adafactor finds itself, and fairseq "
            "always gives it --lr: leave it out",
        ),
        (
            r"Pass-through schedule can only",
            "--lr-scheduler pass_through goes with --optimizer composite only: use "
            "polynomial_decay or fixed",
        ),
        (
            r"--finetune-from-model can not be set together",
            "--finetune-from-model resets everything but the weights: leave out "
            "--reset-optimizer, --reset-lr-scheduler, --reset-meters and "
            "--reset-dataloader",
        ),
        (
            r"--finetune-from-model and --restore-file",
            "--finetune-from-model and --restore-file: give one of them",
        ),
        (
            r"Criterion does not match; please reset",
            "the checkpoint is of another --criterion: add --reset-optimizer, or name "
            "another --save-dir",
        ),
        (
            r"Optimizer does not match; please reset",
            "the checkpoint is of another --optimizer, or of another precision "
            "(--fp16, --bf16, --amp): add --reset-optimizer, or name another "
            "--save-dir",
        ),
        (
            r"Cannot resume training due to dataloader mismatch",
            "the checkpoint is further in its epoch than this one is long: there are "
            "fewer batches than then (--steady-train-size, --batch-size, the number of "
            "workers, the data?): give what it began with, add --reset-dataloader, or "
            "name another --save-dir",
        ),
        (
            r"Dataset not loaded: ([\w.]+)",
            r"the split '\1' is not loaded: --combine-valid-subsets evaluates one "
            "split only; leave it out, or name one --valid-subset",
        ),
        (
            r"^omegaconf\.errors\.(?:Grammar|Interpolation)\w+: ([^\n]*)",
            "a value with '${' in it is taken for a reference to another one "
            r"(\1): rename the file or folder",
        ),
        (
            r"^hydra\.errors\.\w+: Could not override '(\w+\.[^']*)'\.\s+"
            r"To append to your config use (\+[^\n]*)",
            r"the configuration has no \1: check its spelling; what its file leaves "
            r"out begins with a plus, \2",
        ),
        (
            r"^(?:hydra\.errors\.\w+"
            r"|omegaconf\.errors\.(?:Missing|Validation)\w+): ([^\n]*)",
            r"the configuration: \1",
        ),
    )
)


class UserError(ValueError):
    """Bad input or a bad flag: says what is wrong, where, and what mends it."""


#: What is said after Ctrl-C: by a training run, what it keeps.
_farewell: list[Callable[[], str]] = [lambda: "interrupted"]


def on_interrupt(farewell: Callable[[], str]) -> None:
    """Say this after Ctrl-C; nothing if it is empty."""
    _farewell[0] = farewell


def explanation(error: BaseException) -> str | None:
    """The line to show for an error of the user's; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename} cannot be read or written ({error.strerror})"
    kind = type(error)
    told = f"{kind.__module__}.{kind.__name__}: {error}"
    for pattern, said in _KNOWN:
        found = pattern.search(told)
        if found:
            return found.expand(said)
    return None


def visible(text: str) -> str:
    r"""One line: control characters and the like as escapes, as ``\n`` and ``\x1b``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _show(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    said = _farewell[0]() if interrupted else explanation(error)
    if said is None:
        sys.__excepthook__(kind, error, trace)
    elif said:
        print(said if interrupted else f"error: {visible(said)}", file=sys.stderr)


def install_excepthook() -> None:
    """Print an uncaught :class:`UserError` as one line; the exit status stays 1.

    After Ctrl-C it stays what Python makes of it: ended by SIGINT, 130 in a shell.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show
