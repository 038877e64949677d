"""Changes to pretrained weights before the first update. Pure torch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import UserError
from ..optim.tags import Tag, layer_counts, tag_of
from ..seeds import seed_of

#: Standard deviation of BERT's initialisation.
STD = 0.02


def _generator(seed: int, name: str) -> torch.Generator:
    """Depends on the parameter, so that L = 2 and L = 3 agree where both re-draw."""
    return torch.Generator().manual_seed(seed_of(seed, *name.encode()))


def _normal(parameter: Tensor, seed: int, name: str) -> None:
    drawn = torch.empty(parameter.shape).normal_(generator=_generator(seed, name))
    parameter.copy_(drawn * STD)


def reinitialise(model: nn.Module, layers: int, head: bool, seed: int) -> list[str]:
    """Give the top layers, and the head, BERT's initialisation again, in place.

    Linear weights from N(0, 0.02^2), their biases 0, LayerNorms to the identity.
    Embeddings and the layers below stay bit-equal. For BART the top layers are the
    decoder's.

    Source: Zhang et al. (arXiv 2006.05987), re-initialisation of the top layers.

    Args:
        model: tagged (see :func:`..optim.tag_parameters`).
        layers: L, from 0 to the number of layers.
        head: whether to re-draw the head's dense layer and output too.
        seed: of the draws.

    Returns:
        Names of the parameters changed.

    Raises:
        UserError: there are fewer than ``layers``.

    """
    top = _check_layers(model, layers)
    changed = []
    for name, parameter in model.named_parameters():
        tag = tag_of(parameter)
        if tag is None:
            continue
        if not (top - layers < tag.depth <= top or (tag.head and head)):
            continue
        changed.append(name)
        with torch.no_grad():
            _redraw(parameter, tag, seed, name)
    return changed


def _check_layers(model: nn.Module, layers: int) -> int:
    """Refuse more layers than the topmost stack has; how many there are in all."""
    counts = layer_counts(model)
    topmost = [stack for stack, count in counts.items() if count][-1:] or ["encoder"]
    most = counts.get(topmost[0], 0)
    if not 0 <= layers <= most:
        raise UserError(
            f"--steady-reinit-layers {layers} is not in 0 to {most}, the layers of "
            f"this model's {topmost[0].partition('.')[0]}"
        )
    return sum(counts.values())


def _redraw(parameter: Tensor, tag: Tag, seed: int, name: str) -> None:
    """BERT's initialisation of one parameter."""
    if tag.norm:
        parameter.fill_(float(name.endswith("weight")))
    elif parameter.dim() < 2:
        parameter.zero_()
    else:
        _normal(parameter, seed, name)


def noisy_tune(model: nn.Module, intensity: float, seed: int) -> None:
    """Perturb every pretrained matrix once: W += U(-intensity / 2, +) * std(W).

    The head, which is not pretrained, and constants are left alone.

    Source: NoisyTune (arXiv 2202.12024), its one formula.

    Args:
        model: tagged.
        intensity: lambda, >= 0; the paper's best is 0.15.
        seed: of the draws.

    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tag = tag_of(parameter)
            if (tag and tag.head) or parameter.numel() < 2:
                continue
            drawn = torch.empty(parameter.shape)
            drawn.uniform_(-0.5, 0.5, generator=_generator(seed, name))
            parameter.add_(drawn * (intensity * float(parameter.std())))


class Mixout(nn.Module):
    """Each weight is its pretrained value with probability p, in training.

    The mean over masks is kept: (mask ? w0 : w) - p * w0, over 1 - p.

    Source: Mixout (arXiv 1909.11299), its estimator.

    Args:
        start: pretrained value.
        p: probability, in [0, 1).

    """

    start: Tensor

    def __init__(self, start: Tensor, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("start", start.detach().clone(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The mixed weight."""
        if not self.training or self.p == 0:
            return weight
        start = self.start.to(weight.dtype)
        kept = torch.rand_like(weight) >= self.p
        mixed = torch.where(kept, weight, start)
        return (mixed - self.p * start) / (1 - self.p)


_INNER = "parametrizations.weight.original"


def _save(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    state[prefix + "weight"] = state.pop(prefix + _INNER)


def _load(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    if prefix + "weight" in state:
        state[prefix + _INNER] = state.pop(prefix + "weight")


def mix_out(model: nn.Module, p: float) -> None:
    """Put Mixout on every pretrained linear layer; checkpoints stay plain.

    Args:
        model: with its pretrained weights loaded.
        p: probability, in [0, 1).

    """
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, nn.Linear) or "classification_heads." in name:
            continue
        mixing = Mixout(linear.weight, p)
        tag = getattr(linear.weight, "param_group", None)
        parametrize.register_parametrization(linear, "weight", mixing)
        original = linear.parametrizations.weight.original  # type: ignore[union-attr]
        original.param_group = tag  # type: ignore[union-attr]
        linear.register_state_dict_post_hook(_save)
        linear.register_load_state_dict_pre_hook(_load)
