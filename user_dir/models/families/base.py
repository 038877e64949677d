"""What a model family is: all that one form of model needs, in one object.

Importing, exporting, checking, building and the layers that a method or an optimizer
counts ask the object; none of them knows a family by name.
"""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn
from typing_extensions import TypedDict

from ...errors import UserError
from ...regularizers.spectral import EXTRA

State = dict[str, Tensor]

#: Hugging Face's activation names and fairseq's for the same function. Not silu:
#: fairseq gives a class for its own name of it, and a layer that calls that fails.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "relu": "relu",
}
_BACK = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
#: Special tokens by fairseq's names, as BERT spells them and as fairseq does.
BRACKETS = {
    "<s>": "[CLS]",
    "<pad>": "[PAD]",
    "</s>": "[SEP]",
    "<unk>": "[UNK]",
    "<mask>": "[MASK]",
}
ANGLES = {name: name for name in BRACKETS}
_IDS = (("pad", "<pad>"), ("bos", "<s>"), ("eos", "</s>"))


class Config(TypedDict, total=False):
    """What is read of any model's config.json; a family's schema adds to it."""

    model_type: str
    architectures: list[str] | None
    id2label: dict[str, Any] | None
    problem_type: str | None
    license: str | None
    _name_or_path: str | None
    position_embedding_type: str | None
    is_decoder: bool | None
    quantization_config: dict[str, Any] | None
    hidden_act: str | None
    activation_function: str | None
    activation: str | None


class Weights(Protocol):
    """The tensors of a Hugging Face directory, each asked for by its name."""

    source: Path
    tensors: Mapping[str, Tensor]

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor that must be there, of this shape; -1 for any size."""

    def get(self, name: str, *shape: int) -> Tensor | None:
        """The same, or None where there is none."""


@dataclass(frozen=True)
class Kind:
    """One of transformers' model types.

    Args:
        classes: what the names of its classes in transformers begin with.
        prefix: what stands before the names of a body's weights under a head.
        special: the tokeniser's token for each of fairseq's
            ``<s> <pad> </s> <unk> <mask>``.
        vocabulary: what makes its tokeniser where there is no tokenizer.json:
            vocab.txt, or vocab.json and merges.txt, or transformers.
        head: names of a classification head's layers, ``dense``, ``out_proj`` and
            what else the family's has.
        first: row of the first position in an encoder's table of positions.
        types: rows of an encoder's table of token types where fairseq's model tells
            none apart.
        choice: names of the head where each of several texts gets a score, if others.

    """

    classes: str
    prefix: str
    special: Mapping[str, str]
    vocabulary: Literal["wordpiece", "byte-level", "transformers"]
    head: Mapping[str, str]
    first: int = 0
    types: int = 0
    choice: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Imported:
    """A model as a family reads it.

    Args:
        form: fairseq's arguments.
        state: fairseq's state dict.
        pooler: ``dense.weight`` and ``dense.bias`` of BERT's pooler, or what else a
            classification head may start from, by its names; or nothing.

    """

    form: dict[str, Any]
    state: State
    pooler: State


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """One form of model: its schemas, its fairseq model, the way in and the way out.

    Args:
        name: as manifests and checkpoints know it.
        kinds: the types of transformers that have this form, by ``model_type``.
        config: schema of their config.json.
        shares: settings of it, a width and the heads that have equal shares of it.
        architecture: schema of fairseq's arguments in a manifest.
        model: fairseq's class.
        complete: fills in the arguments that a manifest leaves out.
        stacks: dotted names, within the model, of what embeds tokens
            (``embed_tokens``, ``layernorm_embedding``: where perturbations enter) and
            holds ``layers``, in the order in which a token passes them. Layer decay
            counts their layers, and re-initialisation starts from the last of them.
        words: Hugging Face's name of the table of word embeddings.
        unmissed: beginnings of names of tensors that an import leaves behind without a
            word: heads of pretraining, buffers.
        pooler: its name of BERT's pooler's linear layer.
        activates: what config.json calls the activation; transformers looks at no other
            family's name of it.
        special_ids: special tokens whose numbers config.json has, by its names.
        pools: whether transformers' model without a head keeps the pooler.
        decodes: whether it is an encoder-decoder.
        typed: whether the second sentence of a pair may have a token type of its own.
        released: whether fairseq released models of this form, under its name.
        named_positions: whether transformers reads config.json's
            ``position_embedding_type``.

    """

    name: str
    kinds: Mapping[str, Kind]
    config: type[Any]
    architecture: type[Any]
    model: type[Any]
    complete: Callable[[argparse.Namespace], None]
    stacks: tuple[str, ...]
    words: str
    unmissed: tuple[str, ...]
    shares: tuple[tuple[str, str], ...] = (("hidden_size", "num_attention_heads"),)
    pooler: str = "pooler.dense"
    activates: str = "hidden_act"
    special_ids: tuple[tuple[str, str], ...] = _IDS
    pools: bool = True
    decodes: bool = False
    typed: bool = False
    released: bool = False
    named_positions: bool = True

    def kind(
        self, source: Mapping[str, Any], form: Mapping[str, Any], where: object
    ) -> Kind:
        """The type of transformers that a model goes out as.

        Args:
            source: what its manifest says of where it came from.
            form: fairseq's arguments.
            where: the model directory, for the error.

        Raises:
            UserError: it came from a type that this family does not have.

        """
        name = self.model_type(source, form)
        if name not in self.kinds:
            known = ", ".join(self.kinds)
            raise UserError(
                f"{where}: model_type {name!r} is none that family {self.name} has "
                f"({known}); import the model again"
            )
        return self.kinds[name]

    def model_type(self, source: Mapping[str, Any], form: Mapping[str, Any]) -> str:
        """Name of :meth:`kind`."""
        return str(source.get("model_type", self.name))

    def check_config(  # noqa: B027  most have nothing to refuse
        self, config: dict[str, Any], path: Path
    ) -> None:
        """Refuse a config.json that fits the schema and yet cannot be imported.

        Raises:
            UserError: names the setting.

        """

    def check_export(self, form: dict[str, Any]) -> None:  # noqa: B027
        """Refuse a model that transformers has no form for.

        Raises:
            UserError: says what it lacks.

        """

    def head_shapes(self, form: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of a classification head, by fairseq's name.

        -1 stands for the number of outputs.
        """
        width = form["encoder_embed_dim"]
        return {
            "dense.weight": (width, width),
            "dense.bias": (width,),
            "out_proj.weight": (-1, width),
            "out_proj.bias": (-1,),
        }

    @abstractmethod
    def read(
        self, weights: Weights, config: dict[str, Any], rows: np.ndarray, paired: bool
    ) -> Imported:
        """Hugging Face's weights as fairseq's.

        Args:
            weights: the source's.
            config: its checked config.json.
            rows: Hugging Face id of each fairseq id, -1 where fairseq has one more.
            paired: whether the tokeniser gives pairs two token types.

        Raises:
            UserError: a tensor is missing, or fairseq has no such form.

        """

    @abstractmethod
    def write(
        self, ours: State, form: dict[str, Any], kind: Kind, rows: Tensor
    ) -> State:
        """The way back, without prefix and head.

        Args:
            ours: fairseq's state dict.
            form: fairseq's arguments.
            kind: as :meth:`kind` gives it.
            rows: fairseq's id of each of Hugging Face's.

        """

    @abstractmethod
    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """What config.json says of a form, for this family alone."""


def activation(config: Mapping[str, Any], setting: str) -> str:
    """Hugging Face's name of a configuration's activation; see ``Family.activates``."""
    return config.get(setting) or "gelu"


def activation_back(form: Mapping[str, Any]) -> str:
    """Hugging Face's name of a form's activation.

    Raises:
        UserError: it has none.

    """
    name: str = form["activation_fn"]
    if name not in _BACK:
        raise UserError(f"activation '{name}' has no name in transformers")
    return _BACK[name]


def renamed(tensor: Callable[[str], Tensor], names: Mapping[str, str]) -> State:
    """Weights and biases by other names.

    Args:
        tensor: the tensor of a name.
        names: of linear layers and LayerNorms there, and the new ones.

    """
    return {
        f"{new}.{part}": tensor(f"{old}.{part}")
        for old, new in names.items()
        for part in ("weight", "bias")
    }


def below(state: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


# --- what fairseq's models need to be told ---


def set_layer_norm_eps(model: nn.Module, eps: float | None) -> None:
    """Fairseq hard-codes 1e-5; BERT was trained with 1e-12, DeBERTa with 1e-7."""
    for module in model.modules():
        if eps is not None and "LayerNorm" in type(module).__name__:
            module.eps = eps  # type: ignore[assignment]


def without_foreign_bounds(
    model: nn.Module, state: State, upgrade: Callable[[], None]
) -> None:
    """Upgrade a state dict; r4f's vectors stay where it and the model have them.

    fairseq fills in whatever a checkpoint lacks of a head, which would put the model's
    own matrix beside the checkpoint's.
    """
    bounds = [key for key in model.state_dict() if key.endswith(EXTRA)]
    held = set(state)
    upgrade()
    for key in [key for key in state if key.endswith(EXTRA)]:
        if key not in held or key not in bounds:
            del state[key]
