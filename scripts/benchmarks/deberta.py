"""DeBERTa's time and memory beside those of transformers, as ratios in one run.

    python scripts/benchmarks/deberta.py [--layers 2] [--width 768] [--rounds 5]

Random weights of version 3's and version 1's form, forward and backward, dropout on,
without padding, one CPU thread (or the GPU). For time the two take turns in one
process; memory is the most that two updates add to a process of each one's own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from fairseq.data import Dictionary
from fairseq_steady.huggingface.sources import Weights
from fairseq_steady.model_dir import Manifest
from fairseq_steady.models.building import build
from fairseq_steady.models.families.base import Family
from fairseq_steady.models.families.deberta import FAMILY
from peaks import begin, peak
from torch import Tensor

_WORDS = 2000
#: Sentences in a batch of each length.
_BATCH = {128: 16, 512: 4}
_CUDA = torch.cuda.is_available()
_FORMS: dict[str, dict[str, Any]] = {
    "v3": {
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "v1": {},
}


def config_of(form: str, layers: int, width: int) -> Any:
    """transformers' configuration of a form."""
    made = transformers.DebertaV2Config if form == "v3" else transformers.DebertaConfig
    return made(
        vocab_size=_WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type="c2p|p2c",
        **_FORMS[form],
    )


def theirs(config: Any) -> Any:
    """transformers' model with random weights."""
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config).train()


def as_ours(family: Family, model: Any) -> Any:
    """A model of transformers as a family builds it, with the same weights."""
    given, weights = model.config.to_dict(), Weights(Path("here"), model.state_dict())
    words = given["vocab_size"]
    made = family.read(weights, given, np.arange(words), paired=False)
    dictionary = Dictionary()
    for index in range(words - len(dictionary)):
        dictionary.add_symbol(str(index))
    built = build(Manifest(family.name, made.form, {}), dictionary)
    built.load_state_dict(made.state)
    return built.train()


def ours(config: Any) -> Any:
    """Ours, with the same weights."""
    return as_ours(FAMILY, theirs(config))


def update(model: Any, hidden: Callable[[Any], Tensor]) -> float:
    """Seconds of one forward and backward."""
    model.zero_grad()
    started = time.perf_counter() if _CUDA else time.process_time()
    hidden(model).square().sum().backward()
    if _CUDA:
        torch.cuda.synchronize()
        return time.perf_counter() - started
    return time.process_time() - started


def of_tokens(which: str, tokens: Tensor) -> Callable[[Any], Tensor]:
    """How either model is called."""
    if which == "theirs":
        return lambda model: model(tokens).last_hidden_state
    return lambda model: model(tokens, features_only=True)[0]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Added memory of one model; median seconds of both, taking turns."""
    torch.set_num_threads(1)
    config = config_of(args.form, args.layers, args.width)
    tokens = torch.randint(10, _WORDS, (_BATCH[args.length], args.length))
    names = ["ours", "theirs"] if args.which == "both" else [args.which]
    models = {name: _MODELS[name](config) for name in names}
    if _CUDA:
        tokens = tokens.cuda()
        models = {name: model.cuda() for name, model in models.items()}
    before = begin()
    rounds = args.rounds + 1 if args.which == "both" else 2
    times = [
        {name: update(model, of_tokens(name, tokens)) for name, model in models.items()}
        for _ in range(rounds)
    ]
    if args.which == "both":
        return {n: statistics.median(row[n] for row in times[1:]) for n in names}
    return {"bytes": peak() - before}


_MODELS = {"ours": ours, "theirs": theirs}


def main() -> None:
    """Measure each model in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--form", choices=list(_FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--which", choices=["ours", "theirs", "both"], help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.which:
        print(json.dumps(measure(args)))
        return
    for form in _FORMS:
        for length in _BATCH:
            chosen = ["--form", form, "--length", str(length)]
            found = {which: run([*chosen, "--which", which]) for which in _PARTS}
            seconds = {n: found["both"][n] for n in _MODELS}
            held = {n: found[n]["bytes"] for n in _MODELS}
            print(f"{form}, length {length}: {row(seconds, held)}", flush=True)


_PARTS = ("both", "ours", "theirs")


def run(chosen: list[str]) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, *sys.argv, *chosen]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(seconds: dict[str, float], held: dict[str, float]) -> str:
    """Ratios of ours to theirs, and ours."""
    ratios = [found["ours"] / found["theirs"] for found in (seconds, held)]
    return (
        f"seconds {ratios[0]:.2f} x, memory {ratios[1]:.2f} x, ours "
        f"{seconds['ours']:.2f} s, {held['ours'] / 2**20:.0f} MB"
    )


if __name__ == "__main__":
    main()
