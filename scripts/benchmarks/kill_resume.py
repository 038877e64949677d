"""Kill training at random points, start it again, and compare with a run left alone.

    python scripts/benchmarks/kill_resume.py DATA MODEL OUT \\
        [--methods smart r4f] [--points 20]

DATA is CoLA's folder, MODEL a model directory (a small one will do). Each method
trains once undisturbed and once killed (SIGKILL) at random updates, saving every few.
Printed is a row for each: kills, how many of them fell into the writing of a
checkpoint, and whether weights, teacher and best score end up bit-identical. A finished
method is not run again.
"""

import argparse
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from fairseq_steady.errors import UserError
from fairseq_steady.files import write_text
from fairseq_steady.patches.checkpoints import load_safely

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from method_table import OPTIMIZERS, TRAINED

ROOT = Path(__file__).parents[2]
#: Seconds over which a kill falls: some updates and the writing of a checkpoint.
_SPREAD = 0.3
#: A criterion, or an optimizer under plain fine-tuning.
METHODS = {**TRAINED, **OPTIMIZERS}


def command(args: argparse.Namespace, method: str, out: Path) -> list[str]:
    """fairseq-train with one method."""
    flags = METHODS[method]
    own = [] if method in OPTIMIZERS else ["--optimizer", "bert_adam"]
    return [
        str(Path(sys.executable).with_name("fairseq-train")),
        *(str(args.data), "--user-dir", str(ROOT / "user_dir"), "--task", "cola"),
        *("--steady-model", str(args.model), "--steady-train-size", "200"),
        *("--batch-size", "8", "--lr", "1e-3", "--clip-norm", "1"),
        *("--max-update", str(args.updates), "--save-interval-updates", "3"),
        *("--keep-interval-updates", "1", "--no-epoch-checkpoints"),
        *("--log-interval", "1", "--log-format", "json", "--save-dir", str(out)),
        *(*own, *flags),
    ]


def run_until(words: list[str], update: int | None, delay: float = 0.0) -> int:
    """Start it; kill it some seconds after an update is logged. The exit status.

    Raises:
        UserError: it ended otherwise.

    """
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last = ""
    for line in process.stdout or ():
        last = line.strip() or last
        if update is not None and f'"num_updates": "{update}"' in line:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise UserError(f"{shlex.join(words)} ended with status {status}: {last}")
    return status


def final(folder: Path) -> dict[str, Any]:
    """What must be the same: weights, a teacher, the best score."""
    state = load_safely(folder / "checkpoint_last.pt")
    extra = state["extra_state"]
    kept = extra.get("fairseq_steady", {}).get("teacher", {}).get("model", {})
    return {**state["model"], **{f"teacher.{n}": t for n, t in kept.items()}} | {
        "best": torch.tensor(extra["best"])
    }


def disturbed(args: argparse.Namespace, method: str, folder: Path) -> tuple[int, int]:
    """Kills, and how many left a half-written checkpoint behind."""
    rng = random.Random(f"{args.seed} {method}")
    kills = half = 0
    points = sorted(rng.choices(range(1, args.updates), k=args.points))
    for point in points:
        # Before the last checkpoint's update a run never comes by again.
        done = saved_updates(folder)
        words, at = command(args, method, folder), max(point, done + 1)
        kills += run_until(words, at, rng.uniform(0, _SPREAD)) != 0
        half += any(folder.glob("*.tmp"))
    run_until(command(args, method, folder), None)
    return kills, half


def saved_updates(folder: Path) -> int:
    """Updates of the last checkpoint; 0 without one."""
    path = folder / "checkpoint_last.pt"
    if not path.is_file():
        return 0
    return int(load_safely(path)["optimizer_history"][-1]["num_updates"])


def main() -> None:
    """One row per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "model", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--points", type=int, default=20, help="kills per method")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    args = parser.parse_args()
    if args.points < 0 or args.updates < 2:
        raise UserError("--points is not 0 or more, or --updates not 2 or more")
    print(
        "| method | kills | in a write | bit-identical |\n|---|---|---|---|", flush=True
    )
    for method in args.methods:
        row = args.out / f"{method}.md"
        if not row.is_file():
            whole, parts = args.out / method / "whole", args.out / method / "parts"
            run_until(command(args, method, whole), None)
            kills, half = disturbed(args, method, parts)
            one, two = final(whole), final(parts)
            same = one.keys() == two.keys() and all(
                torch.equal(one[name], two[name]) for name in one
            )
            text = f"| {method} | {kills} | {half} | {'yes' if same else 'NO'} |"
            write_text(row, text + "\n")
        print(row.read_text("utf-8").rstrip(), flush=True)


if __name__ == "__main__":
    main()
