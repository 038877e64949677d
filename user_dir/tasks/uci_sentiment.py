"""UCI sentiment, trained on Twitter: does a classifier survive another domain?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from fairseq.tasks import register_task

from ..data import Encoded, Example, find_file, read_table
from ..data.ragged import concatenate
from ..data.readers import read_sentence_tab_label
from ..data.sampling import parse_size, stratified_subset
from ..errors import UserError
from ..flags import one_of, option
from ._sentence import SentenceTask, SentenceTaskConfig

UCI = {
    "amazon": "amazon_cells_labelled.txt",
    "imdb": "imdb_labelled.txt",
    "yelp": "yelp_labelled.txt",
}
#: Twitter's label 1 is hateful speech, UCI's label 1 is positive sentiment.
TWITTER_TO_SENTIMENT = {"0": "1", "1": "0"}


@dataclass
class UciSentimentConfig(SentenceTaskConfig):
    """Flags of uci_sentiment."""

    uci_stage: str = option(
        "twitter",
        "twitter: train on tweets, test on all of UCI; uci: train further on a part of "
        "UCI (start with --finetune-from-model), test on the rest",
        one_of("twitter", "uci"),
    )
    uci_train_part: str = option(
        "0.1", "stage uci: part of each UCI set to train on, stratified"
    )
    uci_twitter_dev: str = option(
        "0.1", "part of the tweets held out as 'valid', stratified"
    )


def repair(text: str) -> str:
    """Undo the double UTF-8 encoding of the published tweets, where there is one.

    Bytes that are no UTF-8, as some of theirs are, go, but not the letters of a text
    that was encoded once.
    """
    try:
        found = text.encode("latin1").decode("utf-8", "ignore")
    except UnicodeEncodeError:
        return text
    once = found.isascii() and any(c.isalpha() for c in text if not c.isascii())
    return text if once else found


def read_tweets(path: Path) -> Iterator[Example]:
    """Distinct tweets as sentiment: hateful (1) becomes negative (0), the rest 1.

    Deviations from the published file: double encoding is repaired, the first of
    repeated tweets is kept.
    """
    seen: set[str] = set()
    for row in read_table(path, ["tweet"], "label"):
        text = repair(row.texts[0]).strip() or row.texts[0]
        if text not in seen:
            seen.add(text)
            label = TWITTER_TO_SENTIMENT.get(row.label, row.label)
            yield Example((text,), label, row.line)


@register_task("uci_sentiment", dataclass=UciSentimentConfig)
class UciSentimentTask(SentenceTask):
    """Train on Twitter, test on Amazon, IMDb and Yelp; then train on 10 % of them.

    Splits: train; valid (held-out tweets in both stages, so that no UCI sentence
    picks a checkpoint; with ``--steady-split-dev`` test is half of them); amazon, imdb
    and yelp (all of each in stage twitter, what is not trained on in stage uci). In
    stage uci read the last checkpoint: tweets say little about when to stop there.
    """

    labels = ("0", "1")
    bare = staticmethod(read_sentence_tab_label)
    subject = "uci_sentiment"
    metric: ClassVar[str] = "mcc"
    valid_subsets: ClassVar[str] = "valid,amazon,imdb,yelp"
    splits = tuple(UCI)
    cfg: UciSentimentConfig

    def read(self, split: str) -> Encoded:
        """Rows of a split."""
        if split in UCI:
            return self._uci(split)[1]
        if split == "train" and self.cfg.uci_stage == "uci":
            return concatenate([self._uci(name)[0] for name in UCI])
        if split == "train":
            return self._twitter()[0]
        if split == "valid" or (split == "test" and self.cfg.steady_split_dev):
            return self.dev(split, self._twitter()[1])
        raise UserError(
            f"uci_sentiment has no split '{split}'; choose from train, valid, "
            + ", ".join(UCI)
        )

    def _uci(self, name: str) -> tuple[Encoded, Encoded]:
        """One set's training part and the rest."""
        path = find_file(Path(self.cfg.data), UCI[name])
        encoded = self.encode(path, self.bare, "uci")
        if self.cfg.uci_stage == "twitter":
            nothing = encoded.take(np.array([], np.int64))
            return nothing, encoded
        return self._divide(encoded, self.cfg.uci_train_part, "--uci-train-part")

    def _twitter(self) -> tuple[Encoded, Encoded]:
        """Training tweets and held-out tweets."""
        path = find_file(Path(self.cfg.data), "train.csv")
        encoded = self.encode(path, read_tweets, "twitter as sentiment")
        held_out, kept = self._divide(
            encoded, self.cfg.uci_twitter_dev, "--uci-twitter-dev"
        )
        return kept, held_out

    def _divide(
        self, encoded: Encoded, part: str, flag: str
    ) -> tuple[Encoded, Encoded]:
        size = parse_size(part, len(encoded), flag)
        seed = self.cfg.steady_subset_seed
        chosen, rest = stratified_subset(encoded.targets, size, seed, self.labels)
        return encoded.take(chosen), encoded.take(rest)
