"""Tiny models in memory, and RoBERTa's forward pass written out by hand."""

import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_steady.tasks  # noqa: F401  registers the criterions
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq_steady.data import Encoded, Ragged, SentenceDataset
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models import building
from fairseq_steady.models.families import FAMILIES as KNOWN
from fairseq_steady.models.steady import HEAD
from torch import Tensor, nn

FAMILIES = list(KNOWN)
CLASSES = 3


def in_turn(rows: Iterable[str]) -> list[tuple[str, str]]:
    """Each row with the first family, and with every second of the others in turn."""
    return [
        (row, family)
        for i, row in enumerate(rows)
        for j, family in enumerate(FAMILIES)
        if j == 0 or (i + j) % 2
    ]


def build(path: Path, dropout: float = 0.0, outputs: int = CLASSES) -> Any:
    """A tiny model with a head whose logits are not flat."""
    directory = ModelDirectory.open(path)
    rates = dict.fromkeys(("dropout", "attention_dropout", "pooler_dropout"), dropout)
    model = building.build(directory.manifest, directory.dictionary(), **rates)
    torch.manual_seed(2)
    model.register_classification_head(HEAD, num_classes=outputs)
    state, _ = directory.weights()
    model.load_state_dict(dict(state), strict=True)
    torch.manual_seed(3)
    for linear in (model.classification_heads[HEAD].dense,):
        nn.init.normal_(linear.weight, std=0.5)
    nn.init.normal_(model.classification_heads[HEAD].out_proj.weight, std=0.5)
    return model.train()


LENGTHS = (4, 9, 6, 11, 5)


def make_dataset(path: Path, regression: bool = False) -> SentenceDataset:
    directory = ModelDirectory.open(path)
    rng = torch.Generator().manual_seed(5)
    tokens = [
        torch.cat(
            [
                torch.tensor([0]),
                torch.randint(5, 60, (n - 2,), generator=rng),
                torch.tensor([2]),
            ]
        )
        for n in LENGTHS
    ]
    targets = torch.arange(len(LENGTHS)) % CLASSES
    encoded = Encoded(
        (Ragged.of(tokens),),
        (targets.double() / 2 if regression else targets).numpy(),
        (0,),
    )
    bart = directory.manifest.family == "bart"
    return SentenceDataset(encoded, directory.dictionary(), decoder_input=bart)


def batch(dataset: SentenceDataset, *rows: int) -> dict[str, Any]:
    return dataset.collater([dataset[i] for i in rows or range(len(dataset))])


def make_criterion(
    method: str, outputs: int = CLASSES, choices: int = 0, **flags: Any
) -> Any:
    """A criterion in training mode, its flags without their prefix."""
    task = SimpleNamespace(
        regression=outputs == 1,
        num_classes=choices or outputs,
        target_dictionary=None,
        choices=choices,
    )
    cfg = CRITERION_DATACLASS_REGISTRY[method](
        **{f"{method}_{name}": value for name, value in flags.items()}
    )
    cfg.sentence_avg = False
    cfg.max_update = 100
    return CRITERION_REGISTRY[method](cfg, task).train()


def loss_of(made: Any, model: Any, sample: dict[str, Any]) -> dict[str, float]:
    """Total loss and everything logged, from a fixed seed."""
    torch.manual_seed(11)
    loss, _, log = made(model, sample)
    return {"total": float(loss)} | {
        k: float(v) for k, v in log.items() if not k.startswith("_")
    }


class Reference:
    """RoBERTa with a head in float64, layer by layer, sharing no code with fairseq.

    ``norm`` is the value before the embedding LayerNorm, ``word`` the word embeddings.
    """

    def __init__(self, model: Any, sample: dict[str, Any]) -> None:
        self.encoder = model.encoder.sentence_encoder
        self.head = model.classification_heads[HEAD]
        tokens = sample["net_input"]["src_tokens"]
        self.pad = tokens.eq(1)
        position = torch.where(self.pad, 1, (~self.pad).long().cumsum(1) + 1)
        self.word = self.encoder.embed_tokens.weight[tokens]
        self.position = self.encoder.embed_positions.weight[position]
        self.norm = self.word + self.position

    @staticmethod
    def layer_norm(x: Tensor, norm: Any) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias

    def attention(self, x: Tensor, a: Any) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], 2, -1).transpose(1, 2)

        q, k, v = (heads(p(x)) for p in (a.q_proj, a.k_proj, a.v_proj))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(self.pad[:, None, None, :], -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return a.out_proj(mixed)

    def logits(self, norm: Tensor, layers: list[Any] | None = None) -> Tensor:
        """From the value before the embedding LayerNorm.

        ``layers`` is their noise, or what makes it of the hidden states.
        """
        h = self.layer_norm(norm, self.encoder.layernorm_embedding)
        h = h * ~self.pad.unsqueeze(-1)
        for i, layer in enumerate(self.encoder.layers):
            if layers is not None:
                h = h + (layers[i](h) if callable(layers[i]) else layers[i])
            h = self.layer_norm(
                h + self.attention(h, layer.self_attn), layer.self_attn_layer_norm
            )
            inner = layer.fc1(h)
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            h = self.layer_norm(h + layer.fc2(inner), layer.final_layer_norm)
        return self.out(torch.tanh(self.dense(h[:, 0])))

    def dense(self, x: Tensor) -> Tensor:
        return x @ self.head.dense.weight.T + self.head.dense.bias

    def out(self, x: Tensor) -> Tensor:
        return x @ self.head.out_proj.weight.T + self.head.out_proj.bias

    def from_words(self, delta: Tensor, detach: bool = True) -> Tensor:
        word = self.word.detach() if detach else self.word
        return self.logits(word + delta + self.position)


def sym(a: Tensor, b: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), by its definition."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (p.exp() * (p - q) + q.exp() * (q - p)).sum(-1)
