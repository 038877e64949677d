"""Training and decoding of an encoder-decoder beside transformers, in tokens a second.

    python scripts/benchmarks/summaries.py MODEL TEXT [--peer ENCODER]

MODEL is a model directory with a decoder, TEXT a file with an article a line. The peer
is transformers' BartForConditionalGeneration of the very same weights, whose summaries
must have the same tokens; for two copies of a BERT it has BERT's epsilon put in. With
--peer, the Hugging Face directory that they were copied from, EncoderDecoderModel takes
a third turn; it has one product more, before the words, so its summaries are others.

All take turns in one process, so that a busy machine slows all of them; what is told
are medians. Tokens are those of summaries: of a decoding every one has --target.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fairseq_steady.tasks  # noqa: F401  registers everything
import torch
import transformers
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.batching import padded
from fairseq_steady.data.readers import read_text
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import Original, config, weights
from fairseq_steady.inference.searching import BeamSearch, Decoding
from fairseq_steady.model_dir import ModelDirectory
from torch import Tensor
from torch.nn import functional as F

Turn = Callable[[], int]


def bart(original: Original) -> Any:
    """transformers' BART of the same weights, whatever the LayerNorms' epsilon."""
    made = transformers.BartConfig(**config(original))
    model = transformers.BartForConditionalGeneration(made)
    missing, unexpected = model.load_state_dict(weights(original), strict=False)
    tied = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    tied |= {"lm_head.weight", "final_logits_bias"}
    if unexpected or not {*missing} <= tied:
        raise UserError(
            f"transformers' BART lacks or has more: {missing}, {unexpected}"
        )
    model.tie_weights()
    for part in model.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = original.form.get("layer_norm_eps", 1e-5)
    return model


def encoder_decoder(peer: Path) -> Any:
    """Two copies of a BERT as transformers makes them."""
    made = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(
        str(peer), str(peer)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(peer)
    made.config.decoder_start_token_id = tokenizer.sep_token_id
    made.config.pad_token_id = tokenizer.pad_token_id
    made.config.eos_token_id = tokenizer.sep_token_id
    return made


class Peers:
    """The same batch for each side.

    Args:
        args: of the command line.

    """

    def __init__(self, args: argparse.Namespace) -> None:
        directory = ModelDirectory.open(args.model)
        self.args = args
        self.original = Original.open(args.model, None, False)
        self.dictionary = directory.dictionary()
        self.tokenizer = SentenceTokenizer(directory, self.dictionary, args.source)
        texts = [(line,) for line in read_text(args.text).split("\n") if line.strip()]
        ids, _ = self.tokenizer.encode((texts * args.articles)[: args.articles])
        tokens = [torch.from_numpy(row).long() for row in ids]
        self.batch = padded(tokens, self.dictionary.pad(), False)
        back = {int(ours): theirs for theirs, ours in enumerate(self.tokenizer.ids)}
        rows = self.batch["src_tokens"].tolist()
        self.ids = torch.tensor([[back[i] for i in row] for row in rows])
        self.mask = self.batch["src_tokens"].ne(self.dictionary.pad()).long()
        self.back = back
        self.theirs = {"BART": bart(self.original)}
        if args.peer:
            self.theirs["EncoderDecoderModel"] = encoder_decoder(args.peer)

    # --- training ---

    def training(self) -> dict[str, Turn]:
        """An update of each: forward, backward, AdamW."""
        target = self.ids[:, : self.args.target].contiguous()
        words = self.batch["src_tokens"][:, : self.args.target]
        ours = self.original.model.train()
        turns = {"ours": updating(ours, lambda: self._our_loss(words))}
        for name, model in self.theirs.items():
            turns[name] = updating(
                model.train(), partial(self._their_loss, model, target)
            )
        return {name: counted(turn, target.numel()) for name, turn in turns.items()}

    def _our_loss(self, words: Tensor) -> Tensor:
        given = {**self.batch, "prev_output_tokens": words.roll(1, 1)}
        logits = self.original.model(**given)[0]
        return F.cross_entropy(logits.flatten(0, 1), words.flatten())

    def _their_loss(self, model: Any, target: Tensor) -> Tensor:
        given = {"input_ids": self.ids, "attention_mask": self.mask}
        loss: Tensor = model(
            **given, decoder_input_ids=target.roll(1, 1), labels=target
        ).loss
        return loss

    # --- decoding ---

    def decoding(self, beam: int) -> dict[str, Turn]:
        """The summaries of each, of one length."""
        length = self.args.target
        chosen = Decoding(beam, 1.0, length, length, 3)
        ours = self.original.model.eval()
        search = BeamSearch(ours, self.dictionary, self.tokenizer, chosen)
        around = self.tokenizer.form()
        start, first = self.back[around[-1]], self.back[around[0]]
        settings = {
            "num_beams": beam,
            "min_length": length + 2,
            "max_length": length + 3,
            "no_repeat_ngram_size": 3,
            "early_stopping": beam > 1,
            "decoder_start_token_id": start,
            "forced_bos_token_id": first,
            "forced_eos_token_id": start,
            "suppress_tokens": [self.back[self.dictionary.pad()]],
            "do_sample": False,
        }
        turns: dict[str, Turn] = {"ours": lambda: size(search.tokens(self.batch))}
        for name, model in self.theirs.items():
            model.eval()
            turns[name] = partial(self._written, model, settings)
        written = [[self.back[i] for i in row] for row in search.tokens(self.batch)]
        theirs = self.generated(self.theirs["BART"], settings)[:, 1:].tolist()
        equal = sum(a == b for a, b in zip(written, theirs, strict=True))
        print(f"beam {beam}: {equal} of {len(written)} summaries have the same tokens")
        return turns

    def _written(self, model: Any, settings: dict[str, Any]) -> int:
        """Tokens that transformers writes."""
        return int(self.generated(model, settings)[:, 1:].numel())

    @torch.no_grad()
    def generated(self, model: Any, settings: dict[str, Any]) -> Tensor:
        """Token ids of transformers' summaries."""
        given = {"inputs": self.ids, "attention_mask": self.mask}
        found: Tensor = model.generate(**given, **settings)
        return found


def size(rows: list[list[int]]) -> int:
    """Tokens of all."""
    return sum(map(len, rows))


def updating(model: Any, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One update of a model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def update() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def counted(turn: Callable[[], None], tokens: int) -> Turn:
    """A turn that says how many tokens it had."""

    def run() -> int:
        turn()
        return tokens

    return run


def measured(turns: dict[str, Turn], rounds: int) -> Iterator[tuple[str, float]]:
    """Median tokens a second of each, which take turns; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            begun = time.perf_counter()
            tokens = turn()
            if number:
                rates[name].append(tokens / (time.perf_counter() - begun))
    yield from ((name, statistics.median(each)) for name, each in rates.items())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory with a decoder")
    parser.add_argument("text", type=Path, help="an article a line")
    parser.add_argument(
        "--peer", type=Path, help="the encoder's Hugging Face directory"
    )
    parser.add_argument("--articles", type=int, default=16, help="in a batch")
    parser.add_argument("--source", type=int, default=200, help="tokens of an article")
    parser.add_argument("--target", type=int, default=40, help="tokens of a summary")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    peers = Peers(args)
    parts = {f"decoding, beam {beam}": peers.decoding(beam) for beam in args.beams}
    found = {name: dict(measured(t, args.rounds)) for name, t in parts.items()}
    found["training"] = dict(measured(peers.training(), args.rounds))
    print("| tokens a second | ours |", " | ".join(peers.theirs), "|")
    print("|---|---|" + "---|" * len(peers.theirs))
    for name, rates in found.items():
        cells = [f"{rates['ours']:.0f}"]
        for peer in peers.theirs:
            cells.append(f"{rates[peer]:.0f} ({rates['ours'] / rates[peer]:.2f} x)")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
