"""Summarization: raw articles in, a fine-tuned encoder-decoder and ROUGE out."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from fairseq.logging import metrics
from fairseq.tasks import register_task
from torch import Tensor

from ..data import Encoded, SentenceTokenizer
from ..data.noticing import noticing
from ..data.pair_dataset import PairDataset, encode_pairs, fingerprint
from ..data.pairs import (
    CUSTOM,
    Columns,
    Pair,
    by_list,
    find_pairs,
    of_all_splits,
    read_pairs,
)
from ..data.sampling import parse_size, stratified_subset
from ..errors import UserError
from ..flags import NOT_NEGATIVE, one_of, option
from ..inference.embedding import BertScores, Embedder, check_encoder
from ..inference.searching import (
    DECODINGS,
    REFERENCES,
    BeamSearch,
    Decoding,
    select,
)
from ..model_dir import BERT2BERT, ModelDirectory
from ..patches.announcing import DETAIL
from ..regularizers import unwrap
from ..scores.rouge import HOW, NAMES, best_or_mean
from ..scores.summaries import (
    DESCRIBING,
    SAID,
    SCORES,
    distinct,
    few_outputs,
    mean_score,
    measured_sums,
    said,
    shares,
)
from ._classes import check_logged
from ._steady import SteadyTask, SteadyTaskConfig

logger = logging.getLogger(__name__)

#: Columns of articles and summaries, as each data set is published in tables.
COLUMNS = {
    "cnn_dm": Columns("article", (("highlights",),)),
    "gigaword": Columns("document", (("summary",),)),
    "reddit_tifu": Columns("documents", (("tldr",),)),
    "reddit_tifu_long": Columns("selftext_without_tldr", (("tldr",),), partial=True),
    "reddit_tifu_short": Columns(
        "selftext_without_tldr", (("trimmed_title",),), partial=True
    ),
    "xsum": Columns("document", (("summary",),)),
    "dialogsum": Columns(
        "dialogue", (("summary",), ("summary1", "summary2", "summary3"))
    ),
    "scitldr": Columns("source", (("target",),), sentences=True),
    "custom": CUSTOM,
}
#: Logged sums of what is counted in summaries.
_MEASURED = "_rouge_of_"


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
    summarization_target_column: Optional[str] = option(
        None, "column of the summaries; several, with commas, are references"
    )
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
    summarization_references: Optional[str] = option(
        None,
        "ROUGE with several references: of the best by ROUGE-1, or their mean; "
        "default: the form's",
        one_of(*HOW),
    )
    summarization_bertscore: Optional[str] = option(
        None, "model directory of an encoder, whose BERTScore is logged too"
    )
    summarization_no_stem: bool = option(False, "ROUGE without Porter stemming")
    summarization_beam: Optional[int] = _searching("beam")
    summarization_length_penalty: Optional[float] = _searching("length_penalty")
    summarization_min_length: Optional[int] = _searching("min_length")
    summarization_max_length: Optional[int] = _searching("max_length")
    summarization_no_repeat: Optional[int] = _searching("no_repeat")


_PREFIX = "--summarization-"


def changes_of(cfg: Any) -> dict[str, Any]:
    """What flags change of the form's decoding."""
    names = ("beam", "length_penalty", "min_length", "max_length", "no_repeat")
    given = {name: getattr(cfg, f"summarization_{name}") for name in names}
    return {name: value for name, value in given.items() if value is not None}


def decoding_of(cfg: Any) -> Decoding:
    """The form's decoding with what flags change.

    Raises:
        UserError: a flag is out of range.

    """
    found = replace(DECODINGS[str(cfg.summarization_form)], **changes_of(cfg))
    found.check(_PREFIX)
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
        #: where it is from, for errors
        self.decoding_of = f"--summarization-form {cfg.summarization_form}"
        self.tokenizers = tuple(
            SentenceTokenizer(
                directory, self.dictionary, length, cfg.steady_special_tokens
            )
            for length in self._lengths(cfg, directory)
        )
        self._summarizer: tuple[Any, BeamSearch] | None = None
        self._pairs: dict[str, list[Pair]] = {}
        self._embedder: Embedder | None = None
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
                "needs BART, or two copies of an encoder of BERT's or RoBERTa's form: "
                "fairseq-steady import ENCODER OUT --bert2bert"
            )
        super().check(cfg, directory)

    def check_built(self, model: Any) -> None:
        """Refuse a model, of an ``--arch`` of its own, without a decoder.

        Raises:
            UserError: it has none.

        """
        if not hasattr(model, "decoder"):
            raise UserError(
                "--arch: this architecture has no decoder, which summarization needs; "
                "leave --arch out, or name bart_base or bart_large"
            )

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """As every task's; what holds a new decoder where it begins is said."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        name, source = cfg._name, self.directory.manifest.source.get("name")
        at_once = getattr(cfg, f"{name}_lambda", 0) and not getattr(
            cfg, f"{name}_warmup", 1
        )
        if at_once and source == BERT2BERT and self._trains:
            logger.warning(
                "BERT2BERT's decoder has yet to learn, and a divergence from the first "
                "update on can keep it from that: --%s-warmup 0.5 lets lambda rise "
                "(not needed if this goes on from a trained checkpoint)",
                name.replace("_", "-"),
            )
        return criterion

    @property
    def tables(self) -> Columns:
        """Columns of articles and of summaries."""
        found, cfg = COLUMNS[str(self.cfg.summarization_form)], self.cfg
        if cfg.summarization_source_column:
            found = replace(found, source=cfg.summarization_source_column)
        if cfg.summarization_target_column:
            names = cfg.summarization_target_column.split(",")
            named = tuple(name.strip() for name in names)
            found = replace(found, targets=(named,))
        return found

    @property
    def references(self) -> str:
        """What is made of several: one of :data:`..scores.rouge.HOW`."""
        form = str(self.cfg.summarization_form)
        return str(self.cfg.summarization_references or REFERENCES.get(form, HOW[0]))

    def _read(self, split: str) -> tuple[list[Path], np.ndarray | None, Encoded]:
        """The files of a split, the rows of them that it has, and its pairs."""
        files = find_pairs(Path(self.cfg.data), split)
        encoded = self._encode(files, split)
        rows = None
        if of_all_splits(files, split):
            rows = self._part(split, len(encoded))
        elif split == "train":
            rows = self._subset(np.arange(len(encoded)))
        return files, rows, encoded if rows is None else encoded.take(rows)

    def _encode(self, files: list[Path], split: str) -> Encoded:
        """Tokenised and cached; once in a run, however often they are asked for."""
        known = (*files, Path(split)) if by_list(files) else tuple(files)
        if known not in self._encoded:
            digests = [fingerprint(file) for file in files]
            for file, digest in zip(files, digests, strict=True):
                self.reads(file, digest)
            self._encoded[known] = encode_pairs(
                files,
                partial(self._noticed, files, split),
                f"pairs {self.tables} {split if by_list(files) else ''}",
                (self.tokenizers[0], self.tokenizers[1]),
                self.cache_dir,
                digests,
            )
        return self._encoded[known]

    def models(self) -> list[ModelDirectory]:
        """The encoder of ``--summarization-bertscore``, too."""
        encoder = self.cfg.summarization_bertscore
        return super().models() + ([ModelDirectory.open(encoder)] if encoder else [])

    def _noticed(self, files: list[Path], split: str) -> Iterator[Pair]:
        """The pairs; what is doubtful in them is said."""
        return noticing(
            read_pairs(files, self.tables, split),
            lambda pair: (pair.path, pair.line),
            lambda pair: (pair.source, pair.target),
        )

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
        """Refuse what evaluations could not do."""
        if self.cfg.summarization_bertscore:
            check_encoder(ModelDirectory.open(self.cfg.summarization_bertscore))
        self.check_room(_PREFIX, changes_of(self.cfg))
        root: Any = getattr(self.cfg, "_get_root", dict)()
        logged = SCORES if self.cfg.summarization_bertscore else NAMES
        check_logged(root.checkpoint.best_checkpoint_metric, logged, DESCRIBING)
        if "train" in root.dataset.valid_subset.split(","):
            # fairseq would take one iterator for both, and mix up what is trained on.
            raise UserError(
                "--valid-subset train: summarization does not evaluate what it trains "
                "on; put a table of some of its rows beside it, as seen.jsonl, and "
                "name that: --valid-subset valid,seen"
            )

    def check_room(self, prefix: str, changes: Mapping[str, Any]) -> None:
        """Refuse summaries that the decoder has no positions for.

        A form's own maximum is a bound that a smaller model cuts short; a minimum
        that it cannot reach, or a maximum that was asked for, is an error.

        Args:
            prefix: what the flags begin with.
            changes: what they changed of :attr:`decoding`.

        Raises:
            UserError: names the flag and how many tokens there is room for.

        """
        form = self.directory.manifest.architecture
        tokens = self.tokenizers[1].form()
        most = form.get("max_target_positions") or form["max_positions"]
        room = most - tokens.index(self.dictionary.eos()) - 1
        asked = {"min": self.decoding.min_length}
        if "max_length" in changes:
            asked["max"] = self.decoding.max_length
        for which, length in asked.items():
            if length > room:
                own = f" (of {self.decoding_of})"
                said = f"{which}_length" not in changes
                raise UserError(
                    f"{prefix}{which}-length {length}{own * said} is more "
                    f"than the {room} tokens that this model's {most} positions leave "
                    f"a summary: give {prefix}{which}-length {room} or less"
                )

    def training_set(self) -> PairDataset:
        """Pairs to train on."""
        return self._dataset(self._read("train")[2], training=True)

    def _dataset(self, encoded: Encoded, training: bool) -> PairDataset:
        start, seed = self.tokenizers[1].form()[-1], self.cfg.seed
        return PairDataset(encoded, self.dictionary, start, seed if training else None)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Read a split and make it a data set."""
        files, rows, encoded = self._read(split)
        sources, count = ", ".join(map(str, files[:2])), len(encoded)
        if not count:
            raise UserError(f"the {split} set is empty: {sources} has nothing for it")
        training = split == "train"
        self.datasets[split] = self._dataset(encoded, training)
        self.described[split] = f"{count:,} articles with summaries"
        if not training:
            self._pairs[split] = self._compared(files, split, rows)
            if len(self._pairs[split]) < count:
                most = self.cfg.summarization_decode
                said = (
                    f", ROUGE of the first {most:,} (--summarization-decode 0: of all)"
                )
                self.described[split] += said
        logger.info("%s: %s: %s", split, sources, self.described[split], extra=DETAIL)

    def _compared(
        self, files: list[Path], split: str, rows: np.ndarray | None
    ) -> list[Pair]:
        """The first pairs of a split, as many as are decoded."""
        pairs = read_pairs(files, self.tables, split)
        most = self.cfg.summarization_decode or None
        if rows is None:
            return list(islice(pairs, most))
        wanted = dict.fromkeys(rows[:most].tolist())
        found = {n: pair for n, pair in enumerate(pairs) if n in wanted}
        return [found[row] for row in wanted]

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
        texts = []
        if rows:
            texts = self.summarizer(model)(select(sample["net_input"], rows))
        return loss, size, logged | self._measured(texts, [ids[r] for r in rows], most)

    def _measured(
        self, texts: Sequence[str], ids: Sequence[int], most: int
    ) -> dict[str, Any]:
        """Sums over summaries of these articles, and what is known of each."""
        pairs = [self._pairs[self.evaluated][index] for index in ids]
        references = [pair.references for pair in pairs]
        scores = self._scores(texts, references)
        counts = measured_sums(texts, references, [pair.source for pair in pairs])
        found = {f"{_MEASURED}{name}": count for name, count in counts.items()}
        return {**found, SAID: said(texts, references, scores, ids, most)}

    def _scores(
        self, texts: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, list[float]]:
        """ROUGE of each, and BERTScore if it is asked for, in percent."""
        how, stem = self.references, not self.cfg.summarization_no_stem
        both = zip(texts, references, strict=True)
        found = [best_or_mean(text, several, how, stem) for text, several in both]
        scores = {name: [one[name] for one in found] for name in NAMES}
        if self.cfg.summarization_bertscore:
            scores["bertscore"] = self._similar(texts, references)
        return {name: [100 * x for x in values] for name, values in scores.items()}

    def _similar(
        self, texts: Sequence[str], references: Sequence[Sequence[str]]
    ) -> list[float]:
        """BERTScore of each, by the encoder of ``--summarization-bertscore``."""
        if self._embedder is None:
            directory = ModelDirectory.open(str(self.cfg.summarization_bertscore))
            with torch.random.fork_rng([]):  # building draws weights
                cpu = not next(self._model.parameters()).is_cuda
                self._embedder = Embedder(directory, cpu=cpu)
        return BertScores(self._embedder, references, how=self.references)(texts)

    def reduce_metrics(
        self, logging_outputs: list[dict[str, Any]], criterion: Any
    ) -> None:
        """ROUGE and the rest over the decoded examples of all workers."""
        ours = [
            {n: log.pop(n) for n in list(log) if n.startswith(_MEASURED) or n == SAID}
            for log in logging_outputs
        ]
        super().reduce_metrics(logging_outputs, criterion)
        names = dict.fromkeys(name for log in ours for name in log)
        sums = {name: sum(log.get(name, 0) for log in ours) for name in names}
        for name, found in sums.items():
            metrics.log_scalar_sum(name, found)
        if not sums:
            return
        bertscore = bool(self.cfg.summarization_bertscore)
        for row, name in enumerate(SCORES if bertscore else NAMES):
            metrics.log_derived(name, partial(_mean, row))
        metrics.log_derived("unique", _unique)
        for name in _shares(sums):
            metrics.log_derived(name, partial(_share, name))

    def remarkable(self, agg: Mapping[str, Any]) -> str | None:
        """That many articles get the same summary."""
        summed = agg[SAID].sum if SAID in agg else None
        return few_outputs(*distinct(summed)) if isinstance(summed, Tensor) else None


def _mean(row: int, meters: Any) -> float:
    """One of the scores; NaN where no summary was made since the meter was reset."""
    summed = meters[SAID].sum
    return mean_score(summed, row) if isinstance(summed, Tensor) else math.nan


def _unique(meters: Any) -> float:
    """Different summaries, in percent of all."""
    summed = meters[SAID].sum
    different, count = distinct(summed) if isinstance(summed, Tensor) else (0, 0)
    return 100 * different / count if count else math.nan


def _share(name: str, meters: Any) -> float:
    """One of :func:`..scores.summaries.shares`; NaN where there is none."""
    found = {n: m.sum for n, m in meters.items() if n.startswith(_MEASURED)}
    return _shares(found).get(name, math.nan)


def _shares(found: Mapping[str, Any]) -> dict[str, float]:
    """:func:`..scores.summaries.shares` of sums as they are logged."""
    start = len(_MEASURED)
    return shares({n[start:]: float(v) for n, v in found.items() if n != SAID})


def of_model(directory: ModelDirectory) -> SummarizationTask:
    """The task of a model directory that was trained elsewhere; it has no data."""
    cfg = SummarizationConfig(_name="summarization", data=str(directory.path))
    SummarizationTask.check(cfg, directory)
    task = SummarizationTask(cfg, directory)
    if search := directory.manifest.search:
        task.decoding, task.decoding_of = Decoding(**search), "its manifest.json"
    return task
