"""The thin layer between fairseq and our optimizers."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, List  # noqa: UP035  fairseq reads List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from omegaconf import II
from torch import Tensor

from ..errors import UserError
from ..flags import NOT_NEGATIVE, Flags, option, read_flags
from ..optim import tag_of

logger = logging.getLogger(__name__)


def decay(default: float) -> Any:
    """Weight decay."""
    text = "decoupled weight decay; never of biases and LayerNorms"
    return option(default, text, NOT_NEGATIVE)


def anchor() -> Any:
    """Decay towards the pretrained weights."""
    return option(
        0.0,
        "decay towards the pretrained weights, beside the weight decay, to 0; not of "
        "the head",
        NOT_NEGATIVE,
    )


@dataclass
class SteadyOptimizerConfig(Flags, FairseqDataclass):
    """What every optimizer reads from the rest of the configuration."""

    lr: List[float] = II("optimization.lr")  # noqa: UP006
    seed: int = II("common.seed")
    fp16: bool = II("common.fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")
    ddp_backend: Any = II("distributed_training.ddp_backend")
    tensorboard_logdir: Any = II("common.tensorboard_logdir")


def parameter_groups(
    params: Iterable[Tensor], scoped: bool = False
) -> list[dict[str, Any]]:
    """Group by learning-rate scale, decay, origin and, if asked, place.

    Biases and LayerNorms (one dimension) do not decay; a new head has no pretrained
    values to be pulled to. ``scoped`` tells the weights and biases of layers from
    embeddings, norms and head.
    """
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    for p in params:
        tag = tag_of(p)
        scale, head = (tag.lr_scale, tag.head) if tag else (1.0, False)
        inside = (tag.in_layer if tag else p.dim() > 1) if scoped else False
        groups.setdefault((scale, p.dim() > 1, not head, inside), []).append(p)
    return [
        {
            "params": members,
            "names": [tag.name if (tag := tag_of(p)) else "" for p in members],
            "lr_scale": float(key[0]),
            "decay_scale": float(key[1]),
            "anchor_scale": float(key[2]),
            **({"in_scope": key[3]} if scoped else {}),
        }
        for key, members in groups.items()
    ]


#: What a group has of its run, not of the command line.
_SAVED = ("params", "lr", "initial_lr")
#: What decides whether a parameter's state has something.
_SETS = {"anchor": "anchor", "exp_avg_sq": "base", "exp_inf": "base"}


def _check_groups(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a state of parameters that were grouped in another way."""
    known = all("names" in group for group in then)
    key = (lambda g: g["names"]) if known else (lambda g: len(g["params"]))
    if [key(group) for group in then] != [key(group) for group in now]:
        raise UserError(
            f"the run of this checkpoint had its parameters in {len(then)} groups by "
            f"learning rate and decay, and the command line makes {len(now)}: give "
            "--steady-layer-decay and --steady-new-lr-scale as that run had them, or "
            "leave its optimizer behind with --reset-optimizer"
        )


class SteadyOptimizer(FairseqOptimizer):
    """Builds a pure optimizer from its config's fields."""

    #: as on the command line
    name = ""
    #: whether the method is about the layers of a model only
    scoped = False
    #: whether a layer's factor on the learning rate, as of --steady-layer-decay, counts
    scales_layers: ClassVar[bool] = True
    #: whether a learning rate that suits Adam does here, so that it is the default
    adams_rates: ClassVar[bool] = True
    cfg: SteadyOptimizerConfig

    def __init__(self, cfg: Any, params: Iterable[Tensor]) -> None:
        super().__init__(read_flags(cfg, getattr(type(self), "__dataclass")))
        self._refuse()
        members = list(params)
        if self.scoped and not any(tag_of(p) for p in members):
            logger.warning(
                "%s: these parameters carry no tags, as with fairseq's own tasks; "
                "every matrix is taken for a layer's, embeddings and head too",
                self.name,
            )
        groups = parameter_groups(members, self.scoped)
        self._optimizer = self.build(groups, **self.optimizer_config)

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> Any:
        """The pure optimizer."""
        raise NotImplementedError

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        raise NotImplementedError

    def load_state_dict(
        self, state_dict: dict[str, Any], optimizer_overrides: Any = None
    ) -> None:
        """Go on from a state, with the settings that the command line has now.

        The learning rate alone is the state's: some schedules keep it nowhere else.

        Raises:
            UserError: the state is of other groups, or lacks what a setting needs.

        """
        now = self._optimizer.param_groups
        _check_groups(state_dict["param_groups"], now)
        own = [{k: v for k, v in g.items() if k not in _SAVED} for g in now]
        super().load_state_dict(state_dict)
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group.update(settings | (optimizer_overrides or {}))
        for missing in sorted(self._optimizer.lacking()):
            flag = self._flag_of(_SETS.get(missing, missing))
            raise UserError(
                f"{flag} needs what the run of this checkpoint did not keep (an "
                f"optimizer state with '{missing}'): give it as that run had it, or "
                "start anew with --finetune-from-model and another --save-dir"
            )

    def _flag_of(self, setting: str) -> str:
        """The flag of a constructor argument, with its value."""
        for name, value in vars(self.cfg).items():
            if name.endswith(f"_{setting}"):
                return f"--{name.replace('_', '-')} {value}"
        return f"--optimizer {self.name}"

    def _refuse(self) -> None:
        cfg = self.cfg
        if str(cfg.ddp_backend) == "fully_sharded":
            raise UserError(
                f"--optimizer {self.name} needs whole matrices, which --ddp-backend "
                "fully_sharded cuts up; use legacy_ddp or pytorch_ddp"
            )
        if cfg.memory_efficient_fp16 or cfg.memory_efficient_bf16:
            raise UserError(
                f"--optimizer {self.name} needs fp32 weights; leave out "
                "--memory-efficient-fp16 and --memory-efficient-bf16"
            )
        if cfg.fp16 and not cfg.fp16_no_flatten_grads:
            raise UserError(
                f"--optimizer {self.name} needs one tensor per matrix; with --fp16 add "
                "--fp16-no-flatten-grads"
            )

    @property
    def supports_flat_params(self) -> bool:
        """One flat tensor has no biases, norms or layers to tell apart."""
        return False
