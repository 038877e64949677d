"""Evaluations as files: every metric at full precision, and every prediction."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf
from torch import Tensor

from ..data import Encoded
from ..files import write_json
from ..model_dir import DICTIONARY
from ..scores.metrics import (
    COUNTS,
    LABELED,
    SCATTERED,
    each_class,
    each_once,
    f1_of,
)
from ..scores.summaries import SAID, by_summary

logger = logging.getLogger(__name__)

CONFIG = "config.json"


class Recorder:
    """Writes ``config.json`` and one ``<subset>-<updates>.json`` per evaluation.

    The first worker writes; the others have the same sums and keep silent.

    Args:
        folder: where to.
        root: fairseq's whole configuration.
        files: digests of what is read, kept up to date by the task.
        models: digests of model directories' weights.

    """

    def __init__(
        self,
        folder: str,
        root: Any,
        files: Mapping[str, str],
        models: Mapping[str, str],
    ) -> None:
        self.folder = Path(folder)
        self.files, self.models = files, models
        self.master = distributed_utils.is_master(root.distributed_training)
        #: subsets of which was said that they are not evaluated to their end
        self._cut: set[str] = set()
        self._peak = 0.0
        if self.master:
            config = OmegaConf.to_container(root, resolve=True, enum_to_str=True)
            write_json(self.folder / CONFIG, config)

    def measure(self) -> None:
        """Look at the peak of a GPU's memory, which fairseq forgets at each update."""
        if torch.cuda.is_available():
            now = torch.cuda.max_memory_allocated() / 2**20
            self._peak = max(self._peak, now)

    def evaluation(
        self,
        subset: str,
        stats: dict[str, Any],
        sums: Mapping[str, Tensor],
        labels: Sequence[str] | None = None,
        encoded: Encoded | None = None,
        score_of: Sequence[str] = (),
    ) -> None:
        """One evaluation.

        Args:
            subset: its name.
            stats: fairseq's statistics, with ``num_updates``.
            sums: by name, of counts and of scattered scores, those that there are.
            labels: the classes, if the task has them.
            encoded: the sentences, if they may be in groups.
            score_of: the metrics whose mean is ``score``, if that is logged.

        """
        if not self.master:
            return
        self.measure()
        metrics = {
            name: float(value)
            for name, value in stats.items()
            if isinstance(value, int | float) and not name.startswith("best_")
        }
        for counts in (sums.get(COUNTS), sums.get(LABELED)):
            if labels and counts is not None:
                metrics |= each_class(counts, labels)
        content: dict[str, Any] = {
            "subset": subset,
            "updates": int(stats["num_updates"]),
            "metrics": metrics,
            "files": {**self.models, **self._data()},
            **({"peak_gpu_mb": self._peak} if self._peak else {}),
        }
        if labels:
            content |= {"labels": list(labels)}
            content |= {} if LABELED in sums else {"f1_of": f1_of(labels)}
        content |= self._each(sums, labels or (), subset)
        content |= _made_of(encoded, score_of)
        name = f"{subset}-{content['updates']}.json"
        write_json(self.folder / name, content)

    def _data(self) -> dict[str, str]:
        """Without the dictionary, which is the model's."""
        return {k: v for k, v in self.files.items() if k != DICTIONARY}

    def _each(
        self, sums: Mapping[str, Tensor], labels: Sequence[str], subset: str
    ) -> dict[str, Any]:
        """What is known of each sentence or summary, if all of them were judged."""
        found = None
        if SCATTERED in sums:
            found = predictions(sums[SCATTERED], len(labels) if LABELED in sums else 0)
        elif SAID in sums:
            found = by_summary(sums[SAID])
        if found == {} and subset not in self._cut:
            self._cut.add(subset)
            logger.warning(
                "%s was not evaluated to its end, so --steady-record keeps its metrics "
                "and no outputs; leave --max-valid-steps out",
                subset,
            )
        return found or {}


def _made_of(encoded: Encoded | None, score_of: Sequence[str]) -> dict[str, Any]:
    """What metrics are of, beside the sentences: their groups, and other metrics."""
    found: dict[str, Any] = {"score_of": list(score_of)} if score_of else {}
    if encoded and encoded.groups is not None:
        found |= {"groups": list(encoded.names), "group": encoded.groups.tolist()}
    return found


def predictions(scattered: Tensor, several: int = 0) -> dict[str, Any]:
    """Outputs and gold labels in the order of the data set.

    Args:
        scattered: summed :func:`scattered_scores`, shape (K + 2, N), or (2 L + 1, N).
        several: L, where any number of labels hold for a sentence.

    Returns:
        ``outputs``, N lists of K logits or scores, and ``gold``, N numbers, or N lists
        of a 0 or 1 for each label; nothing if a sentence was not judged.

    """
    table = each_once(scattered)
    if not table[-1].all():
        return {}
    if several:
        gold = table[several:-1].T.int().tolist()
        return {"outputs": _shortest(table[:several].T), "gold": gold}
    return {"outputs": _shortest(table[:-2].T), "gold": table[-2].tolist()}


def _shortest(numbers: Tensor) -> list[list[float]]:
    """Numbers that were computed in fp32, with no more digits than those have."""
    rows = numbers.numpy().astype(np.float32)
    return [[float(str(number)) for number in row] for row in rows]
