"""CPU seconds until the first update: with the plugin, and fairseq without it.

    python scripts/benchmarks/startup.py MODEL COLA WORK [--rounds 5]

MODEL is a model directory of the family roberta, COLA the corpus' folder; WORK is made,
for what fairseq's own task reads: the same sentences, binarised with fairseq's
fairseq-preprocess, and the same weights under its names. One update, nothing evaluated
and nothing saved, one thread; the three take turns, after a round that warms caches.
Cold: tokens are made from text, as at the very first run; fairseq's side never does
that, since its sentences are binarised beforehand.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.readers import read_columns
from fairseq_steady.errors import UserError
from fairseq_steady.files import write_text
from fairseq_steady.model_dir import DICTIONARY, ModelDirectory

ROOT = Path(__file__).parents[2]
TRAIN = "in_domain_train.tsv"
#: fairseq's own arguments that a manifest may name.
_SIZES = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
_FLAGS = (
    *("--batch-size", "32", "--optimizer", "adam", "--lr", "1e-5", "--cpu"),
    *("--max-update", "1", "--no-save", "--disable-validation"),
)


def program(name: str) -> str:
    """One of fairseq's commands."""
    return str(Path(sys.executable).with_name(name))


# --- fairseq's side -------------------------------------------------------------------


def _binarise(folder: Path, key: str, lines: list[str], dictionary: Path) -> None:
    text = folder / f"{key}.txt"
    write_text(text, "\n".join([*lines, ""]))
    command = [program("fairseq-preprocess"), "--only-source", "--trainpref", text]
    command += ["--srcdict", dictionary, "--destdir", folder / key]
    subprocess.run([*map(str, command)], check=True, capture_output=True)


def binarised(directory: ModelDirectory, cola: Path, folder: Path) -> None:
    """CoLA's training set as sentence_prediction reads it, the same tokens in it."""
    dictionary = directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, 512)
    examples = list(read_columns(cola / TRAIN, 4, [3], 1))
    tokens, _ = tokenizer.encode([example.texts for example in examples])
    # fairseq puts <s> and </s> around them by itself.
    lines = [" ".join(dictionary[i] for i in row[1:-1]) for row in tokens]
    _binarise(folder, "input0", lines, directory.path / DICTIONARY)
    labels = folder / "labels.txt"
    write_text(labels, "0 1\n1 1\n")
    _binarise(folder, "label", [example.label for example in examples], labels)


def checkpoint(directory: ModelDirectory, path: Path) -> None:
    """The weights as fairseq's RoBERTa takes them, which has a language-model head."""
    model = dict(directory.weights()[0])
    words = model["encoder.sentence_encoder.embed_tokens.weight"]
    model.pop("encoder.sentence_encoder.embed_positions.second", None)
    model["encoder.lm_head.weight"] = words
    model["encoder.lm_head.bias"] = words.new_zeros(len(words))
    for name in ("dense", "layer_norm"):
        size = words.new_zeros(words.size(1))
        weight = torch.diag(size) if name == "dense" else size
        model |= {f"encoder.lm_head.{name}.weight": weight}
        model |= {f"encoder.lm_head.{name}.bias": size}
    torch.save({"model": model}, path)


def stock(directory: ModelDirectory, folder: Path) -> list[str]:
    """fairseq's command."""
    form = directory.manifest.architecture
    sizes = [
        word
        for name in _SIZES
        for word in (
            f"--encoder-{name.replace('_', '-')}",
            str(form[f"encoder_{name}"]),
        )
    ]
    return [
        *(program("fairseq-train"), str(folder), "--task", "sentence_prediction"),
        *("--criterion", "sentence_prediction", "--num-classes", "2"),
        *("--classification-head-name", "sentence_classification_head"),
        *("--init-token", "0", "--arch", "roberta", *sizes),
        *("--max-positions", str(form["max_positions"])),
        *("--finetune-from-model", str(folder / "model.pt"), *_FLAGS),
    ]


# --- measuring ------------------------------------------------------------------------


def ours(model: Path, cola: Path, cache: Path) -> list[str]:
    """The command with the plugin."""
    return [
        *(program("fairseq-train"), str(cola), "--user-dir", str(ROOT / "user_dir")),
        *("--task", "cola", "--steady-model", str(model)),
        *("--steady-cache-dir", str(cache), *_FLAGS),
    ]


def seconds(command: list[str]) -> float:
    """CPU seconds of a command, of the user's and the system's kind.

    Raises:
        UserError: it fails.

    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables
    )
    said = process.stdout.read() if process.stdout else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status or b"num_updates 1" not in said:
        raise UserError(f"it failed: {' '.join(command)}\n{said.decode()[-2000:]}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("cola", type=Path, help="folder of the corpus")
    parser.add_argument("work", type=Path, help="folder to make")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    directory = ModelDirectory.open(args.model)
    folder, cold = args.work / "binarised", args.work / "cold"
    if not folder.exists():
        folder.mkdir(parents=True)
        binarised(directory, args.cola, folder)
        checkpoint(directory, folder / "model.pt")
    commands = {
        "fairseq": stock(directory, folder),
        "plugin": ours(args.model, args.cola, args.work / "warm"),
        "plugin, cold": ours(args.model, args.cola, cold),
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(args.rounds + 1):
        for name, command in commands.items():
            shutil.rmtree(cold, ignore_errors=True)
            spent = seconds(command)
            if turn > 0:
                taken[name].append(spent)
    base = statistics.median(taken["fairseq"])
    for name, values in taken.items():
        own = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:13} {own:6.2f} s ({spread})  {own / base:.2f} x fairseq")


if __name__ == "__main__":
    main()
