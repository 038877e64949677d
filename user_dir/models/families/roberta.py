"""BERT and RoBERTa: encoders as fairseq's RoBERTa."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Required

import numpy as np
import torch
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import (
    RobertaClassificationHead,
    RobertaEncoder,
    base_architecture,
)
from pydantic import Field
from torch import Tensor, nn

from ...errors import UserError
from ..architectures import Count, Encoder, Epsilon, Layers, Positions, Rate
from .base import (
    ACTIVATIONS,
    ANGLES,
    BRACKETS,
    Config,
    Family,
    Imported,
    Kind,
    State,
    Weights,
    activation,
    activation_back,
    below,
    renamed,
    without_foreign_bounds,
)

#: Where fairseq's RoBERTa keeps its encoder.
STACK = "encoder.sentence_encoder"
_TYPES = "embeddings.token_type_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
#: What type 1 adds to type 0, beside the positions; see :mod:`..segments`.
SECOND = "embed_positions.second"
#: fairseq's id of <pad>.
_PAD = 1
#: fairseq counts positions from padding_idx + 1.
_BEFORE = _PAD + 1
#: Hugging Face's names in a layer of BERT and fairseq's; attention apart.
_ATTENTION = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
}
FEED_FORWARD = {
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    **FEED_FORWARD,
}
#: Names of RoBERTa's head.
HEAD = {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}


class EncoderConfig(Config, total=False):
    """config.json of BERT and RoBERTa."""

    num_hidden_layers: Required[Layers]
    hidden_size: Required[Count]
    intermediate_size: Required[Count]
    num_attention_heads: Required[Count]
    max_position_embeddings: Required[Positions]
    layer_norm_eps: Epsilon
    type_vocab_size: Annotated[int, Field(ge=0, le=1000)]
    hidden_dropout_prob: Rate
    attention_probs_dropout_prob: Rate
    classifier_dropout: Rate | None
    pad_token_id: int | None


class SteadyRoberta(RobertaModel):
    """RoBERTa and BERT without the language-model head, which fine-tuning never uses.

    Without it every parameter gets a gradient, so distributed training needs no
    ``--find-unused-parameters``.
    """

    #: what stands around an encoder of ours; None for fairseq's own
    around: type[RobertaEncoder] | None = None

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SteadyRoberta":
        """A model with random weights."""
        if cls.around is None:
            built: SteadyRoberta = super().build_model(args, task)
            return built
        base_architecture(args)
        return cls(args, cls.around(args, task.source_dictionary))

    def __init__(self, args: argparse.Namespace, encoder: nn.Module) -> None:
        super().__init__(args, encoder)
        self.encoder.lm_head = None

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        words: Tensor | None = None,
        **extra: Any,
    ) -> Any:
        """As fairseq's; its classification head reads the first position alone.

        With ``words`` the head is given them, too; see :class:`..words.WordsHead`.
        """
        if words is not None and classification_head_name is not None:
            features, more = self.forward(src_tokens, True, return_all_hiddens, **extra)
            head = self.classification_heads[classification_head_name]
            return head(features, words), more
        name, stack = classification_head_name, self.encoder.sentence_encoder
        stack.first_only = (
            name is not None
            and type(self.classification_heads[name]) is RobertaClassificationHead
        )
        try:
            return super().forward(
                src_tokens, features_only, return_all_hiddens, name, **extra
            )
        finally:
            stack.first_only = False

    def upgrade_state_dict_named(
        self, state_dict: dict[str, Tensor], name: str
    ) -> None:
        """Drop a language-model head from a checkpoint that has one."""
        upgrade = super().upgrade_state_dict_named
        without_foreign_bounds(self, state_dict, lambda: upgrade(state_dict, name))
        for key in [k for k in state_dict if ".lm_head." in f".{k}"]:
            del state_dict[key]


@dataclass(frozen=True, kw_only=True)
class EncoderFamily(Family):
    """Encoders whose weights are named as BERT's."""

    #: Hugging Face's names in a layer and fairseq's.
    layer: ClassVar[Mapping[str, str]] = _ATTENTION | LAYER
    #: what they call layer {}
    layers: ClassVar[str] = "encoder.layer.{}"

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        """Refuse positions that start at another row.

        Raises:
            UserError: names the setting.

        """
        number, kind = config.get("pad_token_id"), self.kinds[config["model_type"]]
        if number is not None:
            _check_padding(number, kind.first, f"{path}: pad_token_id")

    def read(
        self, weights: Weights, config: dict[str, Any], rows: np.ndarray, paired: bool
    ) -> Imported:
        """Hugging Face's weights as fairseq's; see :meth:`Family.read`."""
        kind = self.kinds[config["model_type"]]
        where = f"{weights.source}: the number of the tokeniser's <pad>,"
        _check_padding(int(rows[_PAD]), kind.first, where)
        form = self.arguments(config, kind.first)
        width = form["encoder_embed_dim"]
        narrow = form.get("embedding_size", width)
        positions = _read_positions(weights, config, kind.first, paired, narrow)
        if SECOND in positions:
            form["token_types"] = True
        order = torch.from_numpy(rows)
        words = weights(self.words, -1, narrow)[order.clamp(0)]
        state = {"embed_tokens.weight": words * order.ge(0)[:, None], **positions}
        state |= self.read_body(weights, form)
        named = {f"{STACK}.{name}": tensor for name, tensor in state.items()}
        return Imported(form, named, _read_pooler(weights, self.pooler, width))

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        """fairseq's arguments for a config.json whose positions start at this row."""
        dropout = config.get("hidden_dropout_prob", 0.1)
        own = config.get("classifier_dropout")
        return {
            "encoder_layers": config["num_hidden_layers"],
            "encoder_embed_dim": config["hidden_size"],
            "encoder_ffn_embed_dim": config["intermediate_size"],
            "encoder_attention_heads": config["num_attention_heads"],
            "activation_fn": ACTIVATIONS[activation(config, self.activates)],
            "max_positions": config["max_position_embeddings"] - first,
            "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
            "dropout": dropout,
            "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
            "pooler_dropout": dropout if own is None else own,
        }

    def read_body(self, weights: Weights, form: dict[str, Any]) -> State:
        """The embeddings' LayerNorm and the layers, by fairseq's names."""
        return renamed(weights, self.names(form))

    def names(self, form: dict[str, Any]) -> dict[str, str]:
        """Hugging Face's names of linear layers and LayerNorms, and fairseq's."""
        names = {"embeddings.LayerNorm": "layernorm_embedding"}
        for i in range(form["encoder_layers"]):
            prefix = self.layers.format(i)
            names |= {
                f"{prefix}.{theirs}": f"layers.{i}.{ours}"
                for theirs, ours in self.layer.items()
            }
        return names

    def write(
        self, ours: State, form: dict[str, Any], kind: Kind, rows: Tensor
    ) -> State:
        """The way back; see :meth:`Family.write`."""
        own = below(ours, f"{STACK}.")
        words = own["embed_tokens.weight"][rows]
        state = {self.words: words}
        if "embed_positions.weight" in own:
            state[_POSITIONS] = own["embed_positions.weight"][_BEFORE - kind.first :]
        if types := _types(form, kind):
            # Type 0 went into the positions when the model was imported.
            table = words.new_zeros(types, words.size(1))
            if SECOND in own:
                table[1] = own[SECOND]
            state[_TYPES] = table
        return state | self.write_body(own, form)

    def write_body(self, ours: State, form: dict[str, Any]) -> State:
        """The way back from :meth:`read_body`."""
        back = {own: theirs for theirs, own in self.names(form).items()}
        return renamed(ours.__getitem__, back)

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """What config.json says; see :meth:`Family.settings`."""
        return {
            "num_hidden_layers": form["encoder_layers"],
            "hidden_size": form["encoder_embed_dim"],
            "intermediate_size": form["encoder_ffn_embed_dim"],
            "num_attention_heads": form["encoder_attention_heads"],
            "hidden_act": activation_back(form),
            "max_position_embeddings": form["max_positions"] + kind.first,
            "type_vocab_size": _types(form, kind),
            "layer_norm_eps": form.get("layer_norm_eps", 1e-5),
            "hidden_dropout_prob": form["dropout"],
            "attention_probs_dropout_prob": form["attention_dropout"],
            "classifier_dropout": form["pooler_dropout"],
        }


def completing(**own: Any) -> Callable[[argparse.Namespace], None]:
    """What fills in RoBERTa's arguments, and before them a family's own."""

    def complete(args: argparse.Namespace) -> None:
        for name, value in own.items():
            if getattr(args, name, None) is None:
                setattr(args, name, value)
        base_architecture(args)

    return complete


def _check_padding(number: int, first: int, what: str) -> None:
    """Refuse positions that do not start at this row of their table.

    Source: transformers' RoBERTa counts them from the number of its padding on.
    """
    if first and number != first - 1:
        raise UserError(
            f"{what} {number} cannot be imported: positions are counted from it on, "
            f"and fairseq's from {first - 1}"
        )


def _types(form: dict[str, Any], kind: Kind) -> int:
    """Rows of the table of token types."""
    return 2 if form.get("token_types", False) else kind.types


def _read_positions(
    weights: Weights, config: dict[str, Any], first: int, paired: bool, width: int
) -> State:
    """fairseq's table of absolute positions, and what a pair's second sentence adds.

    Args:
        weights: the source's.
        config: its configuration.
        first: row of the first position in the source's table.
        paired: whether its tokeniser gives pairs two token types.
        width: of embeddings.

    Returns:
        Nothing where there are no absolute positions.

    """
    if not config.get("position_biased_input", True):
        return {}
    rows = config["max_position_embeddings"]
    table = weights(_POSITIONS, rows, width)[first:]
    types = weights.get(_TYPES, config.get("type_vocab_size", -1), width)
    state = {}
    if types is not None and len(types):
        # Type-0 rows are the same for every token, so the positions can carry them.
        table = table + types[0]
        if paired and len(types) > 1 and not torch.equal(types[0], types[1]):
            state[SECOND] = types[1] - types[0]
    table = torch.cat([torch.zeros(_BEFORE, width), table])
    return {"embed_positions.weight": table, **state}


def _read_pooler(weights: Weights, name: str, width: int) -> State:
    """BERT's, both parts of it or nothing."""
    weight = weights.get(f"{name}.weight", width, width)
    bias = weights.get(f"{name}.bias", width)
    if weight is None or bias is None:
        return {}
    return {"dense.weight": weight, "dense.bias": bias}


def _as_roberta(classes: str, vocabulary: Any) -> Kind:
    """RoBERTa's form under another name, and with another tokeniser."""
    return Kind(classes, "roberta.", ANGLES, vocabulary, HEAD, first=2, types=1)


FAMILY = EncoderFamily(
    name="roberta",
    kinds={
        "bert": Kind(
            "Bert",
            prefix="bert.",
            special=BRACKETS,
            vocabulary="wordpiece",
            head={"dense": "bert.pooler.dense", "out_proj": "classifier"},
            types=2,
        ),
        "roberta": _as_roberta("Roberta", "byte-level"),
        "xlm-roberta": _as_roberta("XLMRoberta", "transformers"),
        "camembert": _as_roberta("Camembert", "transformers"),
    },
    config=EncoderConfig,
    architecture=Encoder,
    model=SteadyRoberta,
    complete=base_architecture,
    stacks=(STACK,),
    words="embeddings.word_embeddings.weight",
    unmissed=(
        *("cls.", "lm_head.", "lm_predictions.", "mask_predictions.", "pooler."),
        *("embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    typed=True,
    released=True,
)
