"""Which fused parts (many steps in one kernel) a run has, and why not the others.

Nothing here changes what is used. Each part asks whoever decides (torch, fairseq, a
module of this package), so that what is said is what happens.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch


@dataclass(frozen=True)
class Setting:
    """What the parts are asked for; by default BERT-base's attention.

    Args:
        device: where the model is.
        dtype: what its attention computes in.
        heads: attention heads.
        width: channels of a head.
        dropout: of attention, in training.
        biased: whether positions add a trained bias to the scores, as in DeBERTa and
            MPNet.
        optimizer: fairseq's name of it; '' where there is no run yet.
        searches: whether summaries are searched for.
        compares: whether a divergence is taken over a vocabulary.

    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    heads: int = 12
    width: int = 64
    dropout: float = 0.1
    biased: bool = False
    optimizer: str = ""
    searches: bool = True
    compares: bool = True


@dataclass(frozen=True)
class Part:
    """One fused part: whether it is in use, and how or why not."""

    name: str
    used: bool
    why: str

    def __str__(self) -> str:
        return f"{'in use' if self.used else 'not used':9}{self.name}: {self.why}"


# --- attention ------------------------------------------------------------------------

_KERNELS = {0: "math", 1: "flash", 2: "mem-efficient", 3: "cuDNN"}
#: What is asked about instead of each, to learn whether it keeps flash out.
_HALF = {torch.float32: torch.bfloat16}
_SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def kernel(setting: Setting, masked: bool, training: bool) -> str:
    """The kernel that torch's scaled_dot_product_attention would take.

    Args:
        setting: device, type and sizes.
        masked: whether the scores are masked at padding, or biased.
        training: whether there are dropout and gradients.

    """
    batch, length = 2, 16
    shape = (batch, setting.heads, length, setting.width)

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device=setting.device, dtype=setting.dtype)

    q = empty(*shape).requires_grad_(training)
    mask = None
    if masked and setting.biased:
        mask = empty(*shape[:3], length).requires_grad_(training)
    elif masked and setting.device.type == "cpu":
        mask = torch.empty(batch, 1, 1, length, dtype=torch.bool)
    elif masked:  # fairseq's attention turns padding into numbers
        mask = empty(batch, setting.heads, 1, length)
    rate = setting.dropout if training else 0.0
    chosen = torch._fused_sdp_choice(q, q, q, mask, rate)
    return _KERNELS.get(chosen, f"torch's kernel {chosen}")


def hindrances(setting: Setting) -> list[str]:
    """What has to go in training for torch to take flash; none if nothing helps.

    Found by asking again without each, and without several.
    """
    mask = "the position bias" if setting.biased else "the padding mask"
    removable = [mask] + ["dropout"] * (setting.dropout > 0)
    removable += [_SHORT[setting.dtype]] * (setting.dtype in _HALF)
    for count in range(1, len(removable) + 1):
        for gone in itertools.combinations(removable, count):
            asked = setting
            if "dropout" in gone:
                asked = replace(asked, dropout=0.0)
            if _SHORT[setting.dtype] in gone:
                asked = replace(asked, dtype=_HALF[setting.dtype])
            if kernel(asked, mask not in gone, True) == "flash":
                return list(gone)
    return []


def attention(setting: Setting) -> Part:
    """Torch's kernel, as the encoder calls it on a padded batch."""
    trained, unpadded = (kernel(setting, masked, True) for masked in (True, False))
    said = f"{trained} in training"
    if trained != "flash":
        found = " and ".join(hindrances(setting))
        said += f" (flash is kept out by {found})" if found else " (no flash here)"
    if not setting.biased and unpadded != trained:
        said += f", {unpadded} where nothing is padded"
    said += f", {kernel(setting, True, False)} in evaluation"
    place = "GPU" if setting.device.type == "cuda" else setting.device.type.upper()
    said += f"; {_SHORT[setting.dtype]} on the {place}"
    return Part("attention", trained != "math", said)


def varlen(setting: Setting) -> Part:
    """Attention over real tokens alone, by flash-attn."""
    from .models.attention import packs

    why = ""
    if setting.device.type != "cuda":
        why = "it is for a GPU"
    elif find_spec("flash_attn") is None:
        why = "flash-attn is not installed"
    elif setting.dtype == torch.float32:
        why = f"it takes fp16 and bf16, not {_SHORT[setting.dtype]}"
    elif setting.biased:
        why = "it takes no position bias"
    else:
        token = torch.empty(0, device=setting.device, dtype=setting.dtype)
        if not packs(token):
            why = "it does not load, or this GPU is older than Ampere"
    return Part("flash-attn's varlen", not why, why or "in batches with padding")


# --- optimizers -----------------------------------------------------------------------

#: Optimizers that step in one pass over memory.
FUSED = ("bert_adam", "sage")
#: Those that take an operation after the other, each over many parameters at once.
FOREACH = ("pats_adamax", "sage with adamax")


def adamw(setting: Setting) -> Part:
    """Torch's AdamW in one pass over memory."""
    name, chosen = "fused AdamW", setting.optimizer
    if chosen in ("", *FUSED):
        return Part(name, True, f"torch's, in {chosen or ' and '.join(FUSED)}")
    step = "torch's foreach" if chosen in FOREACH else "no fused step known here"
    return Part(name, False, f"{chosen} has {step}")


def apex_adam(setting: Setting) -> Part:
    """What fairseq's adam becomes where apex is."""
    from fairseq.optim.fused_adam import get_fused_adam_class

    why = ""
    if setting.optimizer not in ("", "adam"):
        why = "it is for --optimizer adam"
    elif setting.device.type != "cuda":
        why = "it is for a GPU"
    elif get_fused_adam_class() is None:
        why = "apex is not installed with its CUDA extensions"
    if why and setting.optimizer == "adam":
        why += "; adam steps parameter by parameter, bert_adam does not"
    return Part("apex Adam", not why, why or "with --optimizer adam")


def apex_norm(setting: Setting) -> Part:
    """LayerNorm in one kernel of apex's; torch's own is one kernel too."""
    from fairseq.modules.layer_norm import has_fused_layernorm

    why = ""
    if setting.device.type != "cuda":
        why = "it is for a GPU"
    elif not has_fused_layernorm:
        why = "apex is not installed"
    return Part("apex LayerNorm", not why, why and f"{why}; torch's own is used")


# --- the rest -------------------------------------------------------------------------


def ngram_blocker(setting: Setting) -> Part:
    """fairseq's kernel that keeps summaries from repeating themselves."""
    from fairseq import ngram_repeat_block

    why = ""
    if not setting.searches:
        why = "it is for summaries"
    elif setting.device.type != "cuda":
        why = "it is for a GPU"
    elif not ngram_repeat_block.EXTENSION_BUILT:
        why = "not built; with nvcc, FAIRSEQ_SOURCE=DIR bash scripts/setup.sh builds it"
    elif not ngram_repeat_block.is_cuda_extension_usable():
        why = "it was built for another torch or GPU"
    return Part("fairseq's n-gram blocker", not why, why or "in searching")


def divergence(setting: Setting) -> Part:
    """The symmetric KL over a vocabulary in one pass over memory.

    Asking compiles it on a GPU, so only a run that will use it asks.
    """
    from .regularizers.kernels import unavailable

    why = "it is for divergences over a vocabulary"
    if setting.compares:
        why = unavailable(setting.device)
    return Part("KL kernel", not why, why or "for divergences over a vocabulary")


def bf16(setting: Setting) -> Part:
    """Products of bf16 numbers by instructions made for it."""
    from .precision import unsupported

    why = unsupported(setting.device.type)
    if not why and setting.optimizer and setting.dtype != torch.bfloat16:
        why = "this run takes none; --steady-autocast bf16 does"
    return Part("bf16 instructions", not why, why or "with --steady-autocast bf16")


#: All of them, in the order in which they are said.
PARTS: tuple[Callable[[Setting], Part], ...] = (
    attention,
    varlen,
    adamw,
    apex_adam,
    apex_norm,
    ngram_blocker,
    divergence,
    bf16,
)


def parts(
    setting: Setting, asked: Sequence[Callable[[Setting], Part]] = PARTS
) -> list[Part]:
    """Every part; one that cannot be asked is not in use, and says so."""
    found = []
    for part in asked:
        try:
            found.append(part(setting))
        except Exception as error:  # saying what is fused must never stop a run
            name = part.__name__.replace("_", " ")
            found.append(Part(name, False, f"could not be asked: {error}"))
    return found


def said(setting: Callable[[], Setting]) -> list[str]:
    """A line for each part.

    Args:
        setting: gives what is asked for; it may fail too, and stops nothing either.

    """
    try:
        return [str(part) for part in parts(setting())]
    except Exception as error:  # a model that nobody here has seen
        return [f"fused parts could not be asked: {error}"]


# --- whose ----------------------------------------------------------------------------


def device(cpu: bool = False) -> torch.device:
    """The GPU, unless there is none or the CPU is asked for."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def of_run(cfg: Any, model: torch.nn.Module) -> Setting:
    """What a training run asks for.

    Args:
        cfg: fairseq's whole configuration.
        model: the one to train.

    """
    summarises = cfg.task._name == "summarization"
    setting = Setting(
        device(cfg.common.cpu),
        dtype=_dtype(cfg),
        optimizer=_optimizer(cfg.optimizer),
        searches=summarises,
        compares=summarises and cfg.criterion._name != "plain",
    )
    for module in model.modules():
        heads = getattr(module, "num_heads", getattr(module, "heads", 0))
        if heads and hasattr(module, "q_proj"):
            biased = any(hasattr(one, "relative") for one in model.modules())
            return replace(setting, **_sizes(module, heads), biased=biased)
    return setting


def _sizes(attention: Any, heads: int) -> dict[str, Any]:
    return {
        "heads": heads,
        "width": attention.q_proj.out_features // heads,
        "dropout": attention.dropout_module.p,
    }


def _optimizer(chosen: Any) -> str:
    adamax = getattr(chosen, "sage_base", "") == "adamax"
    return f"{chosen._name}{' with adamax' * adamax}"


def _dtype(cfg: Any) -> torch.dtype:
    """Half precision of fairseq's, on any device, or autocast's."""
    common, autocast = cfg.common, getattr(cfg.task, "steady_autocast", "none")
    if common.bf16 or common.memory_efficient_bf16 or autocast.startswith("bf16"):
        return torch.bfloat16
    half = common.fp16 or common.memory_efficient_fp16 or autocast == "fp16"
    amp = common.amp and device(common.cpu).type == "cuda"
    return torch.float16 if half or amp else torch.float32
