"""ELECTRA: BERT's form, perhaps with narrower embeddings, and a head of its own."""

from dataclasses import dataclass
from typing import Any

from ..architectures import Count, Encoder
from ..packed import roberta_around
from ..projected import ProjectedEncoder
from .base import BRACKETS, Kind
from .roberta import FAMILY as BERT
from .roberta import HEAD, EncoderConfig, EncoderFamily, SteadyRoberta, completing


class ElectraConfig(EncoderConfig, total=False):
    """config.json of ELECTRA."""

    embedding_size: Count


class Electra(Encoder, total=False):
    """fairseq's arguments of an ELECTRA."""

    embedding_size: Count


class SteadyElectra(SteadyRoberta):
    """ELECTRA with RoBERTa's interface and classification head."""

    around = roberta_around(ProjectedEncoder)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> SteadyRoberta:
        """A model with random weights; of BERT's form where nothing is projected."""
        narrow = getattr(args, "embedding_size", args.encoder_embed_dim)
        if narrow == args.encoder_embed_dim:
            return SteadyRoberta.build_model(args, task)
        return super().build_model(args, task)


@dataclass(frozen=True, kw_only=True)
class ElectraFamily(EncoderFamily):
    """BERT's names, and a projection after the embeddings."""

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        """An encoder's, and the embeddings' width."""
        own = {"embedding_size": config.get("embedding_size", 128)}
        return super().arguments(config, first) | own

    def names(self, form: dict[str, Any]) -> dict[str, str]:
        """An encoder's, and the projection where there is one."""
        projected = form["embedding_size"] != form["encoder_embed_dim"]
        own = {"embeddings_project": "projection"} if projected else {}
        return super().names(form) | own

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """An encoder's, and the embeddings' width."""
        own = {"embedding_size": form["embedding_size"]}
        return super().settings(form, kind) | own


FAMILY = ElectraFamily(
    name="electra",
    kinds={
        "electra": Kind(
            "Electra",
            prefix="electra.",
            special=BRACKETS,
            vocabulary="wordpiece",
            head=HEAD,
            types=2,
            choice={"dense": "sequence_summary.summary", "out_proj": "classifier"},
        )
    },
    config=ElectraConfig,
    architecture=Electra,
    model=SteadyElectra,
    complete=completing(pooler_activation_fn="gelu"),
    stacks=BERT.stacks,
    words=BERT.words,
    unmissed=(
        *("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
        *("embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    typed=True,
)
