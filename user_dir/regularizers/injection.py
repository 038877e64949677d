"""Where a perturbation enters an encoder: named points, reached by hooks.

Hooks leave the encoder's own forward untouched, so positions, padding mask and
pooling still come from the token ids. They live only inside the context managers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UserError

#: ``word``: word embeddings, before scale, positions and normalisation; ``norm``: their
#: sum with the positions, before the embedding LayerNorm. Both of shape (B, T, C).
InjectionPoint = Literal["word", "norm"]

Edit = Callable[[Tensor], Tensor]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside any number of distributed wrappers."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return cast(nn.Module, inner)


def _stack(model: nn.Module, index: int) -> Any:
    """The encoder (0) or decoder (1), by the names in ``stacks`` or by fairseq's."""
    inner: Any = unwrap(model)
    if stacks := getattr(inner, "stacks", ()):
        return inner.get_submodule(stacks[index]) if index < len(stacks) else None
    outer = getattr(inner, ("encoder", "decoder")[index], None)
    return getattr(outer, "sentence_encoder", outer)


def find_encoder(model: nn.Module) -> nn.Module:
    """The transformer encoder of a RoBERTa-shaped or BART-shaped model.

    Raises:
        UserError: the model has no encoder that embeds tokens.

    """
    encoder = _stack(model, 0)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "embed_tokens"):
        raise UserError(
            f"{type(unwrap(model)).__name__} has no encoder that embeds tokens; "
            "use a RoBERTa-shaped or BART-shaped model"
        )
    return encoder


def find_decoder(model: nn.Module) -> nn.Module:
    """The transformer decoder of an encoder-decoder.

    Raises:
        UserError: the model has none.

    """
    decoder = _stack(model, 1)
    if not isinstance(decoder, nn.Module) or not hasattr(decoder, "embed_tokens"):
        raise UserError(
            f"{type(unwrap(model)).__name__} has no decoder that embeds tokens; "
            "perturb its encoder"
        )
    return decoder


def _site(encoder: nn.Module, point: InjectionPoint) -> nn.Module:
    name = "embed_tokens" if point == "word" else "layernorm_embedding"
    site = getattr(encoder, name, None)
    if not isinstance(site, nn.Module):
        raise UserError(
            f"{type(encoder).__name__} has no {name}, so nothing can be injected at "
            f"'{point}'; pre-norm and plain transformer encoders lack it: use a "
            "post-norm one (RoBERTa, BERT or BART form)"
        )
    return site


def _hook_words(encoder: nn.Module, site: nn.Module, edit: Edit) -> ExitStack:
    """Edit the encoder's look-ups only: BART's decoder shares the table."""
    inside = False

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = False

    def on_lookup(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return edit(output) if inside else output

    return _handles(
        encoder.register_forward_pre_hook(enter),
        site.register_forward_hook(on_lookup),
        encoder.register_forward_hook(leave, always_call=True),
    )


def _handles(*handles: RemovableHandle) -> ExitStack:
    stack = ExitStack()
    for handle in handles:
        stack.callback(handle.remove)
    return stack


def _hook(encoder: nn.Module, point: InjectionPoint, edit: Edit) -> ExitStack:
    site = _site(encoder, point)
    if point == "word":
        return _hook_words(encoder, site, edit)
    return _handles(
        site.register_forward_pre_hook(lambda _, inputs: (edit(inputs[0]),))
    )


@contextmanager
def capture(encoder: nn.Module, point: InjectionPoint) -> Iterator[list[Tensor]]:
    """Collect what flows through ``point`` in each forward, unchanged.

    Raises:
        UserError: the encoder does not have the point.

    """
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with _hook(encoder, point, keep):
        yield seen


@contextmanager
def substitute(
    encoder: nn.Module, point: InjectionPoint, value: Tensor
) -> Iterator[None]:
    """Let ``value`` flow through ``point``, cast to the type it replaces.

    It may hold several rows of a batch side by side, as multiple choice has them.

    Raises:
        UserError: the encoder does not have the point.

    """
    with _hook(encoder, point, lambda old: value.to(old.dtype).reshape(old.shape)):
        yield


@contextmanager
def shift(encoder: nn.Module, point: InjectionPoint, delta: Tensor) -> Iterator[None]:
    """Add ``delta`` to what flows through ``point``, in fp32; rows as above.

    Raises:
        UserError: the encoder does not have the point.

    """

    def edit(old: Tensor) -> Tensor:
        return (old.float() + delta.reshape(old.shape)).to(old.dtype)

    with _hook(encoder, point, edit):
        yield
