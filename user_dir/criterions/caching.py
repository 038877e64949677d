"""Criterions whose perturbations are found by an ascent, and may be kept."""

import logging
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..errors import UserError
from ..regularizers import find_encoder
from ..regularizers.ascent import Ascent
from ..regularizers.cached import PerturbationCache, packed_for
from .penalty import PenaltyCriterion

logger = logging.getLogger(__name__)

_GB = 1e9


class AscentCriterion(PenaltyCriterion):
    """A penalty whose perturbation is sought, with the flags of a cache for it."""

    ascends: ClassVar = True
    #: which columns of a pair's two lengths count, by side
    _columns: ClassVar = {"encoder": [0], "decoder": [1], "both": [0, 1]}

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        uses, onward = (self._flag(name) for name in ("cache", "cache_refresh"))
        if onward and not uses:
            raise UserError(
                f"--{self.method}-cache-refresh is for kept perturbations: give "
                f"--{self.method}-cache too, or leave it out"
            )
        form = packed_for(self.ascent())
        # Made for every head at once: workers exchange them in this order.
        self._caches = {
            head or "": PerturbationCache(uses, form, onward)
            for head in (self.kinds if uses else ())
        }
        self._checked = False

    def _flag(self, name: str) -> Any:
        return getattr(self.cfg, f"{self.method}_{name}")

    def ascent(self) -> Ascent:
        """How the perturbation is sought, as the flags say."""
        raise NotImplementedError

    def cache_of(self, sample: dict[str, Any]) -> PerturbationCache | None:
        """That of the batch's head; nothing is learnt from a batch of no effect."""
        cache = self._caches.get(sample.get("head") or "")
        return cache.frozen() if cache and sample.get("dummy") else cache

    def before_update(self, model: nn.Module, update: int) -> None:
        """Before the first, say what the cache will take.

        Raises:
            UserError: more memory than ``--<method>-cache-gb``.

        """
        super().before_update(model, update)
        for cache in self._caches.values():
            cache.forget()
        if self._caches and not self._checked:
            self._checked = True
            self._check_memory(model)

    def _check_memory(self, model: nn.Module) -> None:
        data: Any = getattr(self.task, "datasets", {}).get("train")
        if getattr(data, "sizes", None) is None:
            return
        sizes = torch.from_numpy(np.reshape(data.sizes, (len(data), -1)))
        columns = self._columns[self.terms.side] if sizes.shape[1] > 1 else [0]
        width: Any = find_encoder(model).embed_tokens.embedding_dim  # type: ignore[union-attr]
        rows, cache = getattr(data, "rows", 1), next(iter(self._caches.values()))
        tokens = sizes[:, columns].sum(1) * rows
        needed, most = cache.memory(tokens * width) / _GB, self._flag("cache_gb")
        flag = f"--{self.method}-cache-gb"
        if needed > most:
            raise UserError(
                f"the perturbations of {len(data):,} sentences take {needed:.2f} GB on "
                f"every worker, more than {flag} {most:g}: raise it to "
                f"{math.ceil(100 * needed) / 100:g}, or leave out --{self.method}-cache"
            )
        logger.info(
            "%s keeps the perturbations of %s sentences: %.3g GB of %s %g",
            *(self.method, f"{len(data):,}", needed, flag, most),
        )

    def after_update(self, model: nn.Module, update: int) -> None:
        """Share what was found."""
        super().after_update(model, update)
        for cache in self._caches.values():
            cache.exchange()

    def kept_state(self) -> dict[str, Any]:
        """The perturbations, by head."""
        found = {head: cache.state_dict() for head, cache in self._caches.items()}
        return super().kept_state() | ({"perturbations": found} if found else {})

    def restore_kept(self, state: dict[str, Any]) -> None:
        """Go on with the checkpoint's perturbations."""
        super().restore_kept(state)
        for head, found in state.get("perturbations", {}).items():
            if head in self._caches:
                self._caches[head].load_state_dict(found)
