"""What a fine-tuned encoder still knows: linear probes of frozen features.

    python -m fairseq_steady.inference.probing DATA --task cola --steady-model DIR \\
        --finetune-from-model CHECKPOINT --steady-record OUT

The flags are those of fairseq-train. The encoder comes from the checkpoint, its head is
left behind; without ``--finetune-from-model`` it is the model directory's own. A linear
model is fitted to the features of the training set and scored on ``--valid-subset``.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.utils import move_to_cuda
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from .. import tasks as plugin  # noqa: F401  registers everything
from ..criterions.kinds import Classes, likely
from ..data import SentenceDataset
from ..data.forms import OneRow
from ..data.readers import shown
from ..errors import UserError, install_excepthook
from ..models.steady import HEAD
from ..patches.checkpoints import load_safely
from ..scores.metrics import (
    CLASSIFICATION,
    SCATTERED,
    label_counts,
    scattered_scores,
    scores_of,
)
from .loading import train_nothing

logger = logging.getLogger(__name__)

_BATCH = 64
#: Inverse penalties that five-fold cross-validation on the training set chooses from.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Sentences that a class must have, or a label hold for and not, to be cross-validated.
_FEWEST = 5
_HEADS = "classification_heads."


def take_encoder(model: nn.Module, checkpoint: str) -> None:
    """Load everything but the heads of a checkpoint.

    Raises:
        UserError: it is not a checkpoint of such a model.

    """
    state = load_safely(Path(checkpoint))["model"]
    body = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    wanted = {name for name in model.state_dict() if not name.startswith(_HEADS)}
    if different := wanted.symmetric_difference(body):
        raise UserError(
            f"{checkpoint} is of another model than --steady-model: "
            f"{min(different)} is in one of them only"
        )
    try:
        nn.Module.load_state_dict(model, body, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{checkpoint} is of another size than --steady-model: {reason}"
        ) from None


@torch.no_grad()
def sentence_features(model: nn.Module, dataset: SentenceDataset) -> np.ndarray:
    """What the head would see of each sentence, dropout off.

    Args:
        model: with a head of this plugin's tasks.
        dataset: N sentences.

    Returns:
        Features of shape (N, C): the first token's last hidden state (RoBERTa form)
        or the last token's (BART form).

    """
    model.eval()
    kind, seen = Classes(HEAD, 0), []
    heads: Any = model.classification_heads
    hook = heads[HEAD].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    order = dataset.ordered_indices()
    cuda = next(model.parameters()).is_cuda
    try:
        for start in range(0, len(order), _BATCH):
            rows = [dataset[int(i)] for i in order[start : start + _BATCH]]
            sample = dataset.collater(rows)
            kind.logits(model, move_to_cuda(sample) if cuda else sample)
    finally:
        hook.remove()
    batches = [_first_token(inputs[0]).float().cpu().numpy() for inputs in seen]
    features = np.empty((len(order), batches[0].shape[1]), np.float32)
    features[order] = np.concatenate(batches)
    return features


def _first_token(hidden: Tensor) -> Tensor:
    return hidden[:, 0] if hidden.dim() == 3 else hidden


def linear(metrics: Sequence[str], classes: int, several: bool = False) -> Pipeline:
    """Logistic or, without metrics, ridge regression on standardised features.

    Fitting it chooses the penalty by cross-validation on the same data, by the mean of
    the metrics; of several labels, that of each by its own F1.

    Raises:
        UserError: classes cannot be judged by that metric.

    """
    if several:
        model = MultiOutputClassifier(_logistic("f1"))
    else:
        model = _logistic(_scorer(metrics, classes)) if metrics else _ridge()
    return make_pipeline(StandardScaler(), model)


def _ridge() -> RidgeCV:
    return RidgeCV(alphas=[1 / penalty for penalty in _PENALTIES])


def _scorer(metrics: Sequence[str], classes: int) -> Callable[..., float]:
    """What a classifier is chosen by, as scikit-learn calls it."""
    for metric in metrics:
        if metric not in CLASSIFICATION:
            raise UserError(
                f"--best-checkpoint-metric {metric} cannot choose a linear probe of "
                f"classes; choose from {', '.join(CLASSIFICATION)}"
            )

    def scorer(fitted: Any, features: np.ndarray, targets: np.ndarray) -> float:
        given = torch.from_numpy(fitted.predict(features))
        found = scores_of(given, torch.from_numpy(targets), classes)
        return sum(found[metric] for metric in metrics) / len(metrics)

    return scorer


def _logistic(scoring: str | Callable[..., float]) -> LogisticRegressionCV:
    return LogisticRegressionCV(
        Cs=list(_PENALTIES),
        cv=5,
        max_iter=1000,
        scoring=scoring,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        random_state=0,
    )


def outputs(fitted: Any, features: np.ndarray, classes: int) -> Tensor:
    """Log-probabilities of K classes, (N, K), logits of labels, or scores, (N, 1).

    A class that the probe was not shown has the smallest. ``classes`` is 1 for scores.
    """
    if classes == 1:
        return torch.from_numpy(fitted.predict(features)).view(-1, 1)
    if isinstance(fitted[-1], MultiOutputClassifier):
        scaled = fitted[:-1].transform(features)
        found = [each.decision_function(scaled) for each in fitted[-1].estimators_]
        return torch.from_numpy(np.stack(found, 1))
    of_all = np.full((len(features), classes), np.log(np.finfo(float).tiny))
    of_all[:, fitted[-1].classes_] = fitted.predict_log_proba(features)
    return torch.from_numpy(of_all)


def check_labels(targets: np.ndarray, labels: Sequence[str] | None) -> None:
    """Refuse classes, or labels of several, that cannot be cross-validated.

    Raises:
        UserError: one class alone is there, or none has five sentences; or names the
            first label that is too rare or too common.

    """
    if targets.dtype.kind == "i" and targets.ndim == 1:
        _, found = np.unique(targets, return_counts=True)
        if len(found) < 2 or found.max() < _FEWEST:
            raise UserError(
                f"a probe needs two classes, and {_FEWEST} sentences of one of them, "
                f"and was given {len(targets)} sentences of {len(found)}: take more"
            )
    counts = targets.sum(0) if targets.ndim == 2 else ()
    for label, n in zip(labels or (), counts, strict=False):
        if not _FEWEST <= n <= len(targets) - _FEWEST:
            raise UserError(
                f"a probe cannot learn label {shown(label)}, which holds for {n} of "
                f"{len(targets)} sentences: take more, or leave it out"
            )


def score(predicted: Tensor, targets: np.ndarray, classes: int) -> dict[str, float]:
    """The metrics of a task; ``classes`` is 1 for scores."""
    gold = torch.from_numpy(targets)
    if gold.dim() == 2:
        return scores_of(likely(predicted), gold, classes)
    given = predicted.argmax(1) if classes > 1 else predicted[:, 0]
    return scores_of(given, gold, classes)


def _table(predicted: Tensor, gold: Tensor) -> Tensor:
    ids = torch.arange(len(gold))
    return scattered_scores(predicted, gold, ids, len(gold))[SCATTERED]


def _check(task: Any) -> None:
    """Refuse a task whose answers a linear model of sentences cannot give.

    Raises:
        UserError: it has no classes or scores, or its rows hold more than a text or
            pair.

    """
    if not hasattr(task, "num_classes"):
        raise UserError(
            f"--task {task.cfg._name} has no classes or scores of its own to probe "
            "for; name a task that has, such as glue with --glue-task"
        )
    if not isinstance(task.form, OneRow):
        raise UserError(
            "a probe reads one text or pair, and these rows hold more: choices, or "
            "words of a sentence; name another task"
        )


def _metrics(task: Any, metric: str) -> Sequence[str]:
    """What chooses a classifier's penalty: a metric, or those that ``score`` means."""
    if task.regression:
        return ()
    return (metric == "score" and task.score_of("valid")) or [metric]


def probe(cfg: Any) -> dict[str, dict[str, float]]:
    """Metrics by subset, written to ``--steady-record`` if that is given.

    Raises:
        UserError: the checkpoint does not fit the model directory, the task has no
            classes or scores, or the metric that picks checkpoints is none of classes.

    """
    train_nothing(cfg)
    if hasattr(cfg.task, "steady_new_head"):  # a probe's is its own
        cfg.task.steady_new_head = True
    task: Any = tasks.setup_task(cfg.task)
    _check(task)
    metric = cfg.checkpoint.best_checkpoint_metric
    fitted = linear(_metrics(task, metric), task.num_classes, task.several)
    model = task.build_model(cfg.model)
    if cfg.checkpoint.finetune_from_model:
        take_encoder(model, cfg.checkpoint.finetune_from_model)
    if torch.cuda.is_available() and not cfg.common.cpu:
        model.cuda()
    task.load_dataset("train")
    train = task.datasets["train"]
    check_labels(train.encoded.targets, task.labels)
    fitted.fit(sentence_features(model, train), train.encoded.targets)
    found = {}
    for subset in cfg.dataset.valid_subset.split(","):
        task.load_dataset(subset)
        dataset = task.datasets[subset]
        features = sentence_features(model, dataset)
        predicted = outputs(fitted, features, task.num_classes)
        gold = dataset.encoded.targets
        found[subset] = score(predicted, gold, task.num_classes)
        logger.info("probe on %s: %s", subset, found[subset])
        if task.recorder:
            _record(task, subset, found[subset], predicted, torch.from_numpy(gold))
    return found


def _record(
    task: Any, subset: str, scores: dict[str, float], predicted: Tensor, gold: Tensor
) -> None:
    sums = {SCATTERED: _table(predicted, gold)}
    if task.several:
        sums |= label_counts(likely(predicted), gold)
    labels = task.labels if task.several else None
    task.recorder.evaluation(subset, {**scores, "num_updates": 0}, sums, labels)


def main() -> None:
    """Probe, with the flags of fairseq-train."""
    install_excepthook()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)
    parser = options.get_training_parser()
    probe(convert_namespace_to_omegaconf(options.parse_args_and_arch(parser)))


if __name__ == "__main__":
    main()
