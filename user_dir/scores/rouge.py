"""ROUGE by rouge-score, of one or several references."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

#: What is reported: unigrams, bigrams, and the longest common subsequence of
#: sentences, each as F1.
NAMES = ("rouge1", "rouge2", "rougeLsum")
#: What is made of several references.
HOW = ("best", "mean")


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # a slow import

    return RougeScorer(list(NAMES), use_stemmer=stem)


@cache  # once
def _say_what_is_read() -> None:
    logger.warning(
        "ROUGE reads a to z and 0 to 9 alone, as rouge-score counts it: a reference in "
        "another script scores 0 whatever the summary; BERTScore, with an encoder that "
        "knows the script, can tell (--bertscore, --summarization-bertscore)"
    )


def as_lines(text: str) -> str:
    """A sentence a line, as ROUGE-Lsum reads it.

    Text that has lines keeps them; other text is split after ``.``, ``!`` and ``?``,
    and what ends sentences in Chinese, Japanese and the scripts of India.
    """
    if "\n" in text.strip():
        return text
    return re.sub(r"(?<=[.!?।॥])\s+|(?<=[。！？])\s*(?=.)", "\n", text.strip())


def rouge(prediction: str, reference: str, stem: bool = True) -> dict[str, float]:
    """F1 of each of :data:`NAMES`, in [0, 1].

    Args:
        prediction: a summary.
        reference: what it is compared with.
        stem: Porter stemming, as published figures have it.

    """
    if not re.search(r"[a-zA-Z0-9]", reference) and re.search(r"\w", reference):
        _say_what_is_read()
    scores = _scorer(stem).score(as_lines(reference), as_lines(prediction))
    return {name: float(scores[name].fmeasure) for name in NAMES}


def best_or_mean(
    prediction: str, references: Sequence[str], how: str = "best", stem: bool = True
) -> dict[str, float]:
    """:func:`rouge` where there are several references.

    Source: SciTLDR's evaluate.py (Cachola et al., arXiv 2004.15011) for ``best``: all
    scores are of the reference with the largest ROUGE-1.

    Args:
        prediction: a summary.
        references: at least one.
        how: ``best``, or ``mean`` for the mean over references.
        stem: as in :func:`rouge`.

    """
    found = [rouge(prediction, reference, stem) for reference in references]
    if how == "best":
        return max(found, key=lambda scores: scores["rouge1"])
    return {name: sum(one[name] for one in found) / len(found) for name in NAMES}
