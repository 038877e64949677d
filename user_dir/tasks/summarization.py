"""Summarization: raw articles in, a fine-tuned encoder-decoder and ROUGE out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
from fairseq.logging import metrics
from fairseq.tasks import register_task

from ..data import Encoded, SentenceTokenizer
from ..data.pair_dataset import PairDataset, encode_pairs
from ..data.pairs import find_pairs, named_after_split, read_pairs
from ..data.readers import is_table
from ..data.sampling import parse_size, stratified_subset
from ..errors import UserError
from ..flags import NOT_NEGATIVE, one_of, option
from ..inference.searching import DECODINGS, BeamSearch, Decoding, select
from ..model_dir import ModelDirectory
from ..patches.announcing import DETAIL
from ..regularizers import unwrap
from ..scores.rouge import NAMES, rouge_sums
from ._steady import SteadyTask, SteadyTaskConfig

logger = logging.getLogger(__name__)

#: Columns of articles and summaries, as each data set is published in tables.
COLUMNS = {
    "cnn_dm": ("article", "highlights"),
    "gigaword": ("document", "summary"),
    "reddit_tifu": ("documents", "tldr"),
    "custom": ("source", "target"),
}
#: Logged sums of ROUGE, and of the summaries they are over.
_ROUGE, _DECODED = "_rouge_", "_rouge_decoded"


def _searching(name: str) -> Any:
    """An option of the search, which replaces the form's."""
    meant = Decoding.__dataclass_fields__[name].metadata
    return option(None, f"{meant['help']}; default: the form's")


@dataclass
class SummarizationConfig(SteadyTaskConfig):
    """Flags of summarization."""

    summarization_form: str = option(
        "custom", "column names and decoding settings", one_of(*DECODINGS)
    )
    summarization_source_column: Optional[str] = option(
        None, "column of the articles in a table; default: as the form has it"
    )
    summarization_target_column: Optional[str] = option(None, "column of the summaries")
    summarization_source_length: Optional[int] = option(
        None, "tokens kept of an article; default: the model's positions"
    )
    summarization_target_length: Optional[int] = option(
        None, "tokens kept of a summary; default: the model's positions"
    )
    summarization_decode: int = option(
        200,
        "examples of each evaluated split that are decoded for ROUGE; 0: all of them",
        NOT_NEGATIVE,
    )
    summarization_no_stem: bool = option(False, "ROUGE without Porter stemming")
    summarization_beam: Optional[int] = _searching("beam")
    summarization_length_penalty: Optional[float] = _searching("length_penalty")
    summarization_min_length: Optional[int] = _searching("min_length")
    summarization_max_length: Optional[int] = _searching("max_length")
    summarization_no_repeat: Optional[int] = _searching("no_repeat")


def decoding_of(cfg: Any) -> Decoding:
    """The form's decoding with what flags change.

    Raises:
        UserError: a flag is out of range.

    """
    names = ("beam", "length_penalty", "min_length", "max_length", "no_repeat")
    given = {name: getattr(cfg, f"summarization_{name}") for name in names}
    changed = {name: value for name, value in given.items() if value is not None}
    found = replace(DECODINGS[str(cfg.summarization_form)], **changed)
    found.check("--summarization-")
    return found


@register_task("summarization", dataclass=SummarizationConfig)
class SummarizationTask(SteadyTask):
    """Articles with summaries, tokenised once and read from disk.

    Splits: train, valid and test, as :func:`..data.pairs.find_pairs` finds them; a
    table named after none of them is split 80 : 10 : 10 by ``--steady-subset-seed``.
    """

    metric: ClassVar[str] = "rouge1"
    cuts: ClassVar[str] = "--summarization-source-length and -target-length"
    next: ClassVar[str] = "summarize {checkpoint} FILE"
    cfg: SummarizationConfig

    def __init__(self, cfg: SummarizationConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        self.decoding = decoding_of(cfg)
        self.tokenizers = tuple(
            SentenceTokenizer(
                directory, self.dictionary, length, cfg.steady_special_tokens
            )
            for length in self._lengths(cfg, directory)
        )
        self._summarizer: tuple[Any, BeamSearch] | None = None
        self._references: dict[str, list[str]] = {}
        self._encoded: dict[tuple[Path, ...], Encoded] = {}

    @staticmethod
    def _lengths(cfg: Any, directory: ModelDirectory) -> list[int]:
        form = directory.manifest.architecture
        sides = {"source": "max_source_positions", "target": "max_target_positions"}
        lengths = []
        for side, name in sides.items():
            most = form.get(name) or form["max_positions"]
            wanted = getattr(cfg, f"summarization_{side}_length") or most
            if not 3 <= wanted <= most:
                raise UserError(
                    f"--summarization-{side}-length {wanted} is not in 3 to {most}, "
                    "what this model has positions for"
                )
            lengths.append(wanted)
        return lengths

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The model must have a decoder."""
        if not directory.family.decodes:
            raise UserError(
                f"{directory.path} is an encoder without a decoder; summarization "
                "needs BART, or two copies: fairseq-steady import "
                f"{directory.path} OUT --bert2bert"
            )
        super().check(cfg, directory)

    @property
    def columns(self) -> tuple[str, str]:
        """Of articles and of summaries."""
        source, target = COLUMNS[str(self.cfg.summarization_form)]
        cfg = self.cfg
        return (
            cfg.summarization_source_column or source,
            cfg.summarization_target_column or target,
        )

    def _read(self, split: str) -> tuple[list[Path], np.ndarray | None, Encoded]:
        """The files of a split, the rows of them that it has, and its pairs."""
        files = find_pairs(Path(self.cfg.data), split)
        encoded = self._encode(files)
        rows = None
        if is_table(files[0]) and not named_after_split(files[0]):
            rows = self._part(split, len(encoded))
        elif split == "train":
            rows = self._subset(np.arange(len(encoded)))
        return files, rows, encoded if rows is None else encoded.take(rows)

    def _encode(self, files: list[Path]) -> Encoded:
        """Tokenised and cached; once in a run, however often they are asked for."""
        known = tuple(files)
        if known not in self._encoded:
            for file in files:
                self.reads(file)
            self._encoded[known] = encode_pairs(
                files,
                partial(read_pairs, files, *self.columns),
                f"pairs {self.columns}",
                (self.tokenizers[0], self.tokenizers[1]),
                self.cache_dir,
            )
        return self._encoded[known]

    def _part(self, split: str, count: int) -> np.ndarray:
        order = np.random.default_rng(self.cfg.steady_subset_seed).permutation(count)
        parts = dict(
            zip(
                ("train", "valid", "test"),
                np.split(order, [count * 8 // 10, count * 9 // 10]),
                strict=True,
            )
        )
        rows = np.sort(parts[split])
        return self._subset(rows) if split == "train" else rows

    def _subset(self, rows: np.ndarray) -> np.ndarray:
        size = self.cfg.steady_train_size
        if not size:
            return rows
        wanted = parse_size(size, len(rows), "--steady-train-size")
        seed = self.cfg.steady_subset_seed
        chosen: np.ndarray = rows[
            stratified_subset(rows.astype(float), wanted, seed)[0]
        ]
        return chosen

    def settle_data(self) -> None:
        """Refuse summaries that the decoder has no positions for.

        A form's own maximum is a bound that a smaller model cuts short; a minimum
        that it cannot reach, or a maximum that was asked for, is an error.
        """
        form = self.directory.manifest.architecture
        tokens = self.tokenizers[1].form()
        most = form.get("max_target_positions") or form["max_positions"]
        room = most - tokens.index(self.dictionary.eos()) - 1
        asked = {"min": self.decoding.min_length}
        if self.cfg.summarization_max_length is not None:
            asked["max"] = self.decoding.max_length
        for which, length in asked.items():
            if length > room:
                own = f" (of --summarization-form {self.cfg.summarization_form})"
                said = getattr(self.cfg, f"summarization_{which}_length") is None
                raise UserError(
                    f"--summarization-{which}-length {length}{own * said} is more "
                    f"than the {room} tokens that this model's {most} positions leave "
                    f"a summary: give --summarization-{which}-length {room} or less"
                )

    def train_size(self) -> int:
        """Pairs to train on."""
        return len(self._read("train")[2])

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Read a split and make it a data set."""
        files, rows, encoded = self._read(split)
        sources, count = ", ".join(map(str, files[:2])), len(encoded)
        if not count:
            raise UserError(f"the {split} set is empty: {sources} has nothing for it")
        start = self.tokenizers[1].form()[-1]
        training = split == "train"
        self.datasets[split] = PairDataset(
            encoded, self.dictionary, start, self.cfg.seed if training else None
        )
        if not training:
            texts = [pair.target for pair in read_pairs(files, *self.columns)]
            chosen = range(len(texts)) if rows is None else rows
            self._references[split] = [texts[row] for row in chosen]
        self.described[split] = f"{count:,} articles with summaries"
        logger.info("%s: %s: %s", split, sources, self.described[split], extra=DETAIL)

    def max_positions(self) -> tuple[int, int]:
        """Tokens an article and a summary may have."""
        return self.tokenizers[0].max_length, self.tokenizers[1].max_length

    def summarizer(self, model: Any) -> BeamSearch:
        """Beam search with this task's settings."""
        model = unwrap(model)
        if self._summarizer is None or self._summarizer[0] is not model:
            made = BeamSearch(model, self.dictionary, self.tokenizers[1], self.decoding)
            self._summarizer = model, made
        return self._summarizer[1]

    def valid_step(
        self, sample: dict[str, Any], model: Any, criterion: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """The loss, and ROUGE of the examples that are decoded."""
        loss, size, logged = super().valid_step(sample, model, criterion)
        # Idle workers are given a training batch, whose results do not count.
        known = len(self._evaluated)
        most = min(self.cfg.summarization_decode or known, known)
        ids = sample["id"].tolist()
        rows = [row for row, index in enumerate(ids) if index < most]
        sums = dict.fromkeys(NAMES, 0.0)
        if rows:
            texts = self.summarizer(model)(select(sample["net_input"], rows))
            sums = self._score(texts, [ids[row] for row in rows])
        logged |= {f"{_ROUGE}{name}": value for name, value in sums.items()}
        return loss, size, logged | {_DECODED: len(rows)}

    def _score(self, texts: Sequence[str], ids: Sequence[int]) -> dict[str, float]:
        references = [self._references[self.evaluated][index] for index in ids]
        return rouge_sums(texts, references, not self.cfg.summarization_no_stem)

    def reduce_metrics(
        self, logging_outputs: list[dict[str, Any]], criterion: Any
    ) -> None:
        """ROUGE over the decoded examples of all workers, in percent."""
        ours = [
            {name: log.pop(name) for name in list(log) if name.startswith(_ROUGE)}
            for log in logging_outputs
        ]
        super().reduce_metrics(logging_outputs, criterion)
        count = sum(float(log.get(_DECODED, 0)) for log in ours)
        for name in NAMES if count else ():
            total = sum(float(log[f"{_ROUGE}{name}"]) for log in ours)
            metrics.log_scalar(name, 100 * total / count, count, round=None)
