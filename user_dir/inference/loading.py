"""Fine-tuned checkpoints, ready for texts: what predicting and summarising share."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from torch import Tensor

from ..data.batching import in_batches
from ..data.forms import ONE_ROW, Form
from ..data.readers import Example, shown
from ..data.tokenizing import SentenceTokenizer
from ..errors import UserError
from ..model_dir import (
    BERT2BERT,
    DICTIONARY,
    MANIFEST,
    ModelDirectory,
    other_dictionary,
)
from ..models.building import build
from ..models.steady import load_pretrained, take_head
from ..patches.checkpoints import KEPT_FILES, no_file

logger = logging.getLogger(__name__)

Text = TypeVar("Text")
Answer = TypeVar("Answer")
#: The model of a model directory, and a task without data.
OfDirectory = Callable[[ModelDirectory], tuple[Any, Any]]


def load_classifier(directory: ModelDirectory) -> tuple[Any, Any]:
    """The model of a directory with its own head, and a task of the head's classes.

    Raises:
        UserError: it has no head.

    """
    from ..tasks.text import of_model

    if directory.manifest.head is None:
        raise UserError(
            f"{directory.path} is a model directory without a head for labels or "
            "scores: name a checkpoint that was trained from it"
        )
    task = of_model(directory, directory.manifest.head)
    model = build(directory.manifest, task.dictionary)
    task.add_head(model)
    load_pretrained(model, directory)
    take_head(model, directory)
    return model.eval(), task


def load_summarizer(directory: ModelDirectory) -> tuple[Any, Any]:
    """The model of a directory that was trained to summarise elsewhere, and a task.

    Where its source did not say how it searches, that it may know nothing is said.

    Raises:
        UserError: it has no decoder, or is BERT2BERT, whose decoder nothing trained.

    """
    from ..tasks.summarization import of_model

    source, head = directory.manifest.source, directory.manifest.head
    if head is not None:
        raise UserError(
            f"{directory.path} has a head for labels or scores: fairseq-steady predict "
            "predicts with it"
        )
    if source.get("name") == BERT2BERT:
        raise UserError(
            f"{directory.path} is two copies of an encoder, which no summary has "
            "trained yet: name a checkpoint that was trained from it"
        )
    task = of_model(directory)
    if directory.manifest.search is None:
        logger.warning(
            "%s does not say how it searches for summaries: if nothing has trained it "
            "to summarise, name a checkpoint that was trained from it",
            directory.path,
        )
    model = build(directory.manifest, task.dictionary)
    load_pretrained(model, directory)
    return model.eval(), task


def load_trained(
    checkpoint: Path,
    model: str | Path | None = None,
    head: str | None = None,
    of_directory: OfDirectory = load_classifier,
) -> tuple[Any, Any]:
    """The model of a fine-tuned checkpoint, in evaluation mode, and its task.

    Args:
        checkpoint: of a task of this plugin, or a model directory.
        model: its model directory, where that has moved.
        head: which task of glue_multitask; None for checkpoints of one task.
        of_directory: loads a model directory.

    Raises:
        UserError: the checkpoint or the model directory is missing, or the head.

    """
    from ..tasks._steady import SteadyTask  # registers everything

    if (checkpoint / MANIFEST).is_file():
        if model:
            raise UserError(f"{checkpoint} is itself a model directory; omit --model")
        found, task = of_directory(ModelDirectory.open(checkpoint))
        return found, _part(task, head, checkpoint)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} {no_file(checkpoint)}")
    moved = {"steady_model": str(model)} if model else {}
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), moved)
    _check_model(state, checkpoint, model)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides=moved, state=state
    )
    if not isinstance(task, SteadyTask):
        raise UserError(
            f"{checkpoint} is of fairseq's task {task.cfg._name}; the tasks of this "
            "plugin leave checkpoints that are read here"
        )
    return models[0].eval(), _part(task, head, checkpoint)


def train_nothing(cfg: Any) -> None:
    """Take the flags of a training for those of what only evaluates.

    No length is counted, by a recipe either, and no folder made that a log could go to.

    Args:
        cfg: fairseq's configuration, changed in place.

    """
    cfg.optimization.max_update, cfg.optimization.max_epoch = 1, 0
    for recipe in ("steady_updates", "steady_epochs"):
        if hasattr(cfg.task, recipe):
            setattr(cfg.task, recipe, 0)
    cfg.checkpoint.no_save = True


def _check_model(state: Any, checkpoint: Path, model: str | Path | None) -> None:
    """Say which flag names a model directory that has moved, or is another."""
    if model:
        ModelDirectory.open(model)
    named = OmegaConf.select(state.get("cfg") or {}, "task.steady_model")
    if named and not os.path.isfile(os.path.join(str(named), MANIFEST)):
        found = _seen_from(checkpoint, str(named)) or "DIR"
        raise UserError(
            f"{checkpoint} was trained from the model directory {named}, which is not "
            f"there; name it: --model {found}"
        )
    kept = (state.get("extra_state") or {}).get(KEPT_FILES, {})
    if named and (problem := other_dictionary(kept, Path(named) / DICTIONARY)):
        raise UserError(f"{checkpoint} {problem}; name its own with --model")


def _seen_from(checkpoint: Path, named: str) -> str | None:
    """A model directory that is where it was, from a folder above the checkpoint."""
    places = [folder / named for folder in checkpoint.resolve().parents]
    return next((str(p) for p in places if os.path.isfile(p / MANIFEST)), None)


def _part(task: Any, head: str | None, checkpoint: Path) -> Any:
    parts = getattr(task, "parts", {None: task})
    if head not in parts:
        known = ", ".join(str(name) for name in parts if name)
        if head is None:
            raise UserError(
                f"{checkpoint} has several heads; --head names one: {known}"
            )
        mend = f"name one of {known}" if known else "leave --head out, it has one task"
        raise UserError(f"{checkpoint} has no head {head}: {mend}")
    return parts[head]


class Trained:
    """A fine-tuned checkpoint that answers texts.

    Args:
        checkpoint: of one of this plugin's tasks.
        model: its model directory, where that has moved.
        cpu: stay on the CPU where there is a GPU.
        head: the task, for checkpoints of glue_multitask.

    Raises:
        UserError: the checkpoint is missing, damaged or of another task.

    """

    #: of texts, as in training
    tokenizer: SentenceTokenizer
    #: rows of tokens that a text becomes
    form: Form = ONE_ROW
    #: loads a model directory in a checkpoint's place
    of_directory: OfDirectory = staticmethod(load_classifier)

    def __init__(
        self,
        checkpoint: str | Path,
        model: str | Path | None = None,
        cpu: bool = False,
        head: str | None = None,
    ) -> None:
        given = Path(checkpoint), model, head, self.of_directory
        self.model, task = load_trained(*given)
        self.task: Any = task
        self.check(Path(checkpoint))
        self.cuda = torch.cuda.is_available() and not cpu
        if self.cuda:
            self.model = self.model.cuda()
        #: texts so far that were longer than the model reads
        self.truncated = 0

    def check(self, checkpoint: Path) -> None:
        """Refuse checkpoints of other tasks.

        Raises:
            UserError: names the task, and the command that reads such checkpoints.

        """
        raise NotImplementedError

    def parts(self, text: Any) -> tuple[str, ...]:
        """A text as training reads it: its one or two sentences, no blanks around."""
        raise NotImplementedError

    def _encode(self, texts: Sequence[Any]) -> Sequence[Sequence[np.ndarray]]:
        given = [
            text if isinstance(text, Example) else Example(self.parts(text), "", 0)
            for text in texts
        ]
        ids, truncated = self.form.encode("the input", given, self.tokenizer)
        self.truncated += sum(truncated)
        return ids

    def answers(
        self,
        texts: Iterable[Text],
        run: Callable[[dict[str, Tensor]], Sequence[Answer]],
        max_tokens: int,
        decoder_input: bool = False,
    ) -> Iterator[Answer]:
        """What ``run`` makes of each text, in order.

        Args:
            texts: any number of them.
            run: gives the answers of a batch.
            max_tokens: of a batch, padding included.
            decoder_input: as :func:`..data.batching.padded` has it.

        Raises:
            UserError: a batch has no tokens, or the texts are one string.

        """
        if isinstance(texts, str):
            raise UserError(f"{shown(texts)} is one text; give a list of them")
        if max_tokens < 1:
            raise UserError(f"max_tokens {max_tokens} is not a number from 1")

        def on_device(net_input: dict[str, Tensor]) -> Sequence[Answer]:
            if self.cuda:
                net_input = {name: tensor.cuda() for name, tensor in net_input.items()}
            return run(net_input)

        pad = self.task.dictionary.pad()
        yield from in_batches(
            *(texts, self._encode, on_device, pad, max_tokens, self.form),
            decoder_input,
        )
