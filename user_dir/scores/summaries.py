"""What ROUGE does not see of summaries: copying, length, and sameness, as sums."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .metrics import each_once
from .rouge import NAMES

#: Lengths of the n-grams that may be novel.
SIZES = (1, 2, 3, 4)
#: Logged digests and scores of a split's summaries, each at its place.
SAID = "_said"
#: Scores of a summary, in the order in which they are logged; the last may be missing.
SCORES = (*NAMES, "bertscore")
#: What is logged besides, of no use to rank models by.
DESCRIBING = ("unique", "length_ratio", *(f"novel{n}" for n in SIZES))
#: Summaries that must be there before equal ones are remarkable, and the share of
#: different ones that is.
MANY, FEW = 10, 0.5


#: Scripts that write no blanks between words: of them each character is one.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


@cache
def _word() -> Any:
    import regex  # re knows no scripts, and no vowel signs

    return regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[\w--{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Its words in lower case, punctuation left out."""
    return list(map(str, _word().findall(text.lower())))


def novel_ngrams(summary: str, article: str) -> dict[str, int]:
    """N-grams of a summary, and how many of them its article does not have.

    Source: See et al. (arXiv 1704.04368), section 6, for n from 1 to 4.

    Returns:
        By name, ``novel1`` and ``ngrams1`` and so on: counts, each occurrence one.

    """
    said, known = words(summary), words(article)
    counts = {}
    for size in SIZES:
        there = set(_ngrams(known, size))
        found = list(_ngrams(said, size))
        counts[f"ngrams{size}"] = len(found)
        counts[f"novel{size}"] = sum(ngram not in there for ngram in found)
    return counts


def _ngrams(tokens: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(size)), strict=False)


def lengths(summary: str, references: Sequence[str]) -> dict[str, float]:
    """Words of a summary, and of its references in the mean."""
    counts = [len(words(reference)) for reference in references]
    return {"words": len(words(summary)), "reference_words": sum(counts) / len(counts)}


def measured(
    summary: str, references: Sequence[str], article: str | None
) -> dict[str, float]:
    """Counts of one summary, to be added up for :func:`shares`.

    Args:
        summary: what a model wrote.
        references: at least one.
        article: None where it is not known, so that nothing is novel.

    """
    counts: dict[str, float] = dict(lengths(summary, references))
    return counts | (novel_ngrams(summary, article) if article is not None else {})


def measured_sums(
    summaries: Sequence[str],
    references: Sequence[Sequence[str]],
    articles: Sequence[str] | None,
) -> dict[str, float]:
    """Sums of :func:`measured`, 0 of no summary; articles may not be known."""
    none = None if articles is None else ""
    sums = dict.fromkeys(measured("", [""], none), 0.0)
    for place, (summary, several) in enumerate(zip(summaries, references, strict=True)):
        article = None if articles is None else articles[place]
        for name, count in measured(summary, several, article).items():
            sums[name] += count
    return sums


def shares(sums: dict[str, float]) -> dict[str, float]:
    """What is reported of sums of :func:`measured`, where there is any.

    Returns:
        ``novel1`` and so on, in percent of the n-grams, and ``length_ratio``.

    """
    found = {
        f"novel{n}": 100 * sums[f"novel{n}"] / sums[f"ngrams{n}"]
        for n in SIZES
        if sums.get(f"ngrams{n}")
    }
    if sums.get("reference_words"):
        found["length_ratio"] = sums["words"] / sums["reference_words"]
    return found


# --- are they different? --------------------------------------------------------------


def digest(text: str) -> int:
    """A number below 2^49, which a float holds sixteen times, of a text."""
    whole = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(whole, "big") >> 15


def said(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    scores: Mapping[str, Sequence[float]],
    ids: Sequence[int],
    total: int,
) -> Tensor:
    """What is known of each summary, at its place in a data set, zero elsewhere.

    Added up over batches and workers this is each summary once.

    Args:
        texts: B of them, perhaps none: workers log the same names in every batch.
        references: theirs.
        scores: theirs, K lists in the order of :data:`SCORES`.
        ids: their indices in the data set.
        total: N, size of the data set.

    Returns:
        The text's digest, its K scores, the references' digest, and a 1 where there is
        a summary, shape (K + 3, N).

    """
    outputs = [digest(text) for text in texts]
    gold = [digest("\n".join(several)) for several in references]
    rows = [outputs, *map(list, scores.values()), gold, [1] * len(texts)]
    found = torch.zeros(len(rows), total, dtype=torch.float64)
    places = torch.tensor(ids, dtype=torch.long)
    found[:, places] = torch.tensor(rows, dtype=torch.float64)
    return found


def mean_score(summed: Tensor, place: int) -> float:
    """The mean of one score.

    Args:
        summed: :func:`said`, added up.
        place: of the score in :data:`SCORES`.

    """
    table = each_once(summed)
    return float(table[1 + place].sum() / table[-1].sum())


def by_summary(summed: Tensor) -> dict[str, Any]:
    """:func:`said`, added up, as it is recorded.

    Returns:
        ``scores``, by name N numbers, and ``gold``, N digests of the references, by
        which articles are known again; nothing if one was not summarised.

    """
    table = each_once(summed)
    if not table[-1].all():
        return {}
    scores = zip(SCORES, table[1:-2].tolist(), strict=False)
    return {
        "scores": {name: [round(one, 6) for one in found] for name, found in scores},
        "gold": table[-2].tolist(),
    }


def distinct(summed: Tensor) -> tuple[int, int]:
    """How many different outputs there are, and how many outputs.

    Args:
        summed: :func:`said`, added up; fairseq repeats some to fill up workers.

    """
    table = each_once(summed)
    known = table[-1] > 0
    return len(table[0, known].unique()), int(known.sum())


def few_outputs(different: int, count: int) -> str | None:
    """What is to be said where many articles get the same summary; None else."""
    if count < MANY or different >= FEW * count:
        return None
    return f"{_counted(different, count)}: {_FEW}"


_FEW = (
    "the model hardly reads what it summarises; train it longer or on more articles, "
    "and see --steady-new-lr-scale for BERT2BERT"
)


def _counted(different: int, count: int) -> str:
    share = 100 * different / count
    return f"{different} different summaries of {count} articles ({share:.0f} %)"


class Sameness:
    """Counts summaries and different ones as they pass.

    Args:
        most: summaries that are compared, so that memory does not grow for ever.

    """

    def __init__(self, most: int = 100_000) -> None:
        self.most = most
        self.count = 0
        self._digests: set[int] = set()

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts."""
        for text in texts:
            self.count += 1
            if self.count <= self.most:
                self._digests.add(digest(text))
            yield text

    def report(self) -> Iterator[str]:
        """A line with how many there were, and what to do where they are few."""
        count, different = min(self.count, self.most), len(self._digests)
        if count > 1:
            yield few_outputs(different, count) or _counted(different, count)
