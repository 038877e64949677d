"""How long a training is, counted before it begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Trainer
from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.iterators import GroupedIterator
from fairseq.tasks import FairseqTask
from fairseq_steady.data import Encoded, Ragged, SentenceDataset
from fairseq_steady.data.mixture import Mixture
from fairseq_steady.errors import UserError
from fairseq_steady.patches.checkpoints import check_checkpoint
from fairseq_steady.patches.resuming import restoring
from fairseq_steady.tasks._recipe import count_updates
from fairseq_steady.tasks._steady import _check_dropped
from helpers import checkpoint, cola
from tiny import build, make_criterion


def varied(size: int, seed: int) -> SentenceDataset:
    lengths = np.random.default_rng(seed).integers(3, 30, size)
    tokens = [np.arange(length, dtype=np.int32) for length in lengths]
    encoded = Encoded((Ragged.of(tokens),), np.arange(size), (0,))
    return SentenceDataset(encoded, Dictionary(), shuffle_seed=1)


def trained(data: FairseqDataset, root: Any, epoch: int) -> int:
    """Updates of one epoch, by what fairseq trains with."""
    workers = root.distributed_training.distributed_world_size
    each = root.optimization.update_freq
    skips = root.optimization.skip_remainder_batch
    batches = FairseqTask(SimpleNamespace()).get_batch_iterator(
        data,
        max_tokens=root.dataset.max_tokens,
        max_sentences=root.dataset.batch_size,
        required_batch_size_multiple=8,
        num_shards=workers,
        epoch=epoch,
        skip_remainder_batch=skips,
    )
    freq = each[epoch - 1] if epoch <= len(each) else each[-1]
    return len(GroupedIterator(batches.next_epoch_itr(), freq, skips))


@pytest.mark.parametrize(
    ("batch", "tokens", "workers", "each"),
    [
        (8, None, 1, [1]),
        (5, None, 2, [1]),
        (5, None, 2, [3]),
        (8, 100, 1, [1]),
        (None, 100, 2, [2]),
        (8, None, 1, [2, 1]),
    ],
)
@pytest.mark.parametrize(
    ("mixed", "skips"), [(False, False), (True, False), (False, True)]
)
def test_updates_are_counted_as_fairseq_makes_batches(
    batch: int | None,
    tokens: int | None,
    workers: int,
    each: list[int],
    mixed: bool,
    skips: bool,
) -> None:
    """With --max-tokens each epoch's order has a number of batches of its own."""
    data: FairseqDataset = varied(203, 0)
    if mixed:
        parts = {"a": varied(101, 1), "b": varied(39, 2)}
        data = Mixture(parts, {"a": 90, "b": 50})
    root = SimpleNamespace(
        dataset=SimpleNamespace(batch_size=batch, max_tokens=tokens),
        distributed_training=SimpleNamespace(distributed_world_size=workers),
        optimization=SimpleNamespace(update_freq=each, skip_remainder_batch=skips),
    )
    found = [trained(data, root, epoch) for epoch in (1, 2, 3)]
    endless = count_updates(1e8, data, root)  # with --max-update, say
    assert endless == pytest.approx(1e8 * found[2], rel=0.1)
    assert count_updates(3, data, root) == sum(found)
    assert count_updates(1, data, root) == found[0]
    assert count_updates(2.5, data, root) == round(2.5 * sum(found) / 3)


def test_a_decay_and_a_rise_end_with_a_training_in_batches_of_tokens(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """After two epochs, long before --max-update."""
    done = fairseq_train(
        *cola(models, cola_data, "r3f"),
        *("--disable-validation", "--r3f-warmup=0.5", f"--save-dir={tmp_path}"),
        *("--batch-size=16", "--max-tokens=60", "--max-epoch=2", "--max-update=200"),
        *("--lr-scheduler=polynomial_decay", "--lr=1e-4"),
    )
    saved = checkpoint(tmp_path)
    made = saved["optimizer_history"][-1]["num_updates"]
    assert made > 2 * 64 // 16
    assert saved["cfg"]["lr_scheduler"]["total_num_update"] == made
    assert f"over the first {round(made / 2)} updates" in done.stderr
    assert "is before --max-update" not in done.stderr


def test_a_rise_of_its_own_accord_without_an_end_says_that_it_is_none(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, made = build(models["roberta"]), make_criterion("sift", **{"lambda": 2.5})
    made.check_model(model)
    made.prepare_model(model)
    made.task = SimpleNamespace(updates_in_all=lambda: 0)
    made.before_update(model, 0)
    assert made.strength == 2.5
    (said,) = (r.getMessage() for r in caplog.records if "lambda" in r.getMessage())
    assert said.startswith("sift: lambda is 2.5 from the first update, for this train")


@pytest.mark.parametrize(
    "name",
    [
        *("steady_reinit_layers", "steady_reinit_head", "steady_noisytune"),
        *("steady_mixout", "steady_pooler"),
    ],
)
def test_from_scratch_there_is_nothing_pretrained_to_change(name: str) -> None:
    cfg = SimpleNamespace(
        steady_from_scratch=True, steady_mixout=0.0, finetune_from_model=None
    )
    root: Any = SimpleNamespace(checkpoint={})
    _check_dropped(cfg, root)
    setattr(cfg, name, 1)
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag} .* with --steady-from-scratch"):
        _check_dropped(cfg, root)
    cfg.steady_from_scratch = False
    _check_dropped(cfg, root)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"share": 0.3}, r"warmup\.updates' is missing"),
        ({"share": 1.5, "updates": 3}, r"warmup\.share': .* equal to 1, not 1\.5"),
        ({"share": 0.3, "updates": -1}, r"warmup\.updates': .* equal to 0, not -1"),
    ],
)
def test_a_damaged_rise_is_the_checkpoints_fault(
    kept: dict[str, Any], said: str
) -> None:
    state = {"model": {}, "extra_state": {"fairseq_steady": {"warmup": kept}}}
    with pytest.raises(UserError, match=rf"^c\.pt: field '.*{said}"):
        check_checkpoint(state, "c.pt")


def test_what_a_criterion_cannot_take_back_is_the_checkpoints_fault() -> None:
    def refuse(kept: Any) -> None:
        raise KeyError(kept["share"])

    criterion = SimpleNamespace(restore_kept=refuse)
    trainer = SimpleNamespace(
        get_num_updates=lambda: 3,
        get_criterion=lambda: criterion,
        cfg=SimpleNamespace(ema=SimpleNamespace(store_ema=False)),
    )
    load = restoring(lambda *_: {"fairseq_steady": {"share": 7}})
    with pytest.raises(UserError, match=r"^c\.pt cannot be made use of \(KeyError: 7"):
        load(trainer, "c.pt", True)
