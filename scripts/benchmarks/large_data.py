"""A large data set from file to first batch: CPU seconds and memory, by rows.

    python scripts/benchmarks/large_data.py MODEL PAIRS [--rows 100000 400000]

MODEL is a model directory; PAIRS is a table of real pairs, as XNLI's dev.jsonl, whose
sentences are put together anew until there are as many rows as wanted (400,000 is
MNLI's size). text_classification then reads, tokenises and batches them, once without
a cache, once with one, and last with WORKERS processes at once and no cache, each in
a process of its own that has a model in memory.

Shown of each: CPU seconds of all its threads and seconds on the clock, without imports
and model; the peak of its resident memory above the model's; and, at the end, what is
its own alone (USS) and its share of what several map (PSS), both above the model's.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fairseq_steady.tasks  # noqa: F401  registers everything
from fairseq_steady.data.tables import columns_of, read_named
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models import building
from fairseq_steady.tasks.text import TextClassificationConfig, TextClassificationTask
from peaks import begin

_COLUMNS = ("premise", "hypothesis", "label")
_BATCHES = 20
_MEGABYTE = 1024  # kB, as /proc has them


def write(pairs: Path, rows: int, path: Path) -> None:
    """So many pairs of real sentences, most of them put together by chance."""
    found = [row for _, row in read_named(pairs, columns_of(pairs))]
    sides = [[str(row[name]) for row in found] for name in _COLUMNS]
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("\t".join(_COLUMNS) + "\n")
        for _ in range(rows):
            cells = [" ".join(rng.choice(side).split()) for side in sides]
            file.write("\t".join(cells) + "\n")


def memory() -> dict[str, float]:
    """Megabytes: the peak, and what is this process's own and its share."""
    wanted = {"VmHWM": "peak", "Pss": "pss", "Private_Clean": "", "Private_Dirty": ""}
    found = dict.fromkeys(wanted, 0.0)
    for name in ("status", "smaps_rollup"):
        for line in Path("/proc/self", name).read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in wanted:
                found[key] = int(rest.split()[0]) / _MEGABYTE
    own = found["Private_Clean"] + found["Private_Dirty"]
    return {"peak": found["VmHWM"], "uss": own, "pss": found["Pss"]}


def load(model: Path, folder: Path) -> Any:
    """From the file to the first batches, as fairseq-train does it."""
    cfg = TextClassificationConfig(
        data=str(folder),
        steady_model=str(model),
        steady_text_column=_COLUMNS[0],
        steady_pair_column=_COLUMNS[1],
        steady_cache_dir=str(folder / "cache"),
        seed=1,
    )
    task = TextClassificationTask.setup_task(cfg)
    task.settle_data()
    task.training_set()  # for the schedule
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.datasets["train"],
        max_sentences=32,
        max_positions=task.max_positions(),
        seed=1,
        epoch=1,
    ).next_epoch_itr(shuffle=True)
    for _ in range(_BATCHES):
        next(batches)
    return task


def measure(model: Path, folder: Path) -> None:
    """Print what one process takes."""
    directory = ModelDirectory.open(model)
    kept: list[Any] = [building.build(directory.manifest, directory.dictionary())]
    kept[0].load_state_dict(directory.weights()[0], strict=False)
    begin()  # without what reading the weights left
    before, cpu, clock = memory(), time.process_time(), time.perf_counter()
    kept.append(load(model, folder))
    taken = {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}
    after = memory()
    print(json.dumps(taken | {name: after[name] - before[name] for name in after}))


def at_once(command: Sequence[str], workers: int) -> list[dict[str, float]]:
    """What each of several processes took."""
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    outputs = [process.communicate()[0] for process in started]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    """Measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="this one here")
    args = parser.parse_args()
    if args.measure:
        measure(args.model, args.measure)
        return
    command = [sys.executable, __file__, str(args.model), str(args.pairs), "--measure"]
    print(f"{'rows':>8} {'':12} {'CPU s':>6} {'s':>6}   peak    USS    PSS  MB")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as scratch:
            first, second = Path(scratch, "one"), Path(scratch, "two")
            for folder in (first, second):
                folder.mkdir()
                write(args.pairs, rows, folder / "train.tsv")
            ways = {"tokenised": (first, 1), "from cache": (first, 1)}
            ways["together"] = (second, args.workers)
            for way, (folder, workers) in ways.items():
                for found in at_once([*command, str(folder)], workers):
                    times = f"{found['cpu']:6.1f} {found['clock']:6.1f}"
                    sizes = " ".join(f"{found[n]:6.0f}" for n in ("peak", "uss", "pss"))
                    print(f"{rows:>8} {way:12} {times} {sizes}", flush=True)


if __name__ == "__main__":
    main()
