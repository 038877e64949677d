"""CoLA: is an English sentence acceptable? In and out of domain."""

from pathlib import Path
from typing import ClassVar

from fairseq.tasks import register_task

from ..data import Encoded, find_file
from ..data.readers import read_columns
from ..errors import UserError
from ._sentence import SentenceTask, SentenceTaskConfig, rows

FILES = {
    "train": "in_domain_train.tsv",
    "valid": "in_domain_dev.tsv",
    "ood": "out_of_domain_dev.tsv",
}


@register_task("cola", dataclass=SentenceTaskConfig)
class ColaTask(SentenceTask):
    """The public release: source, label, author's mark, sentence; no header.

    Splits: train, valid (in-domain dev), ood (out-of-domain dev) and, with
    ``--steady-split-dev``, test (the other half of the in-domain dev set).
    """

    labels = ("0", "1")
    bare = staticmethod(rows(read_columns, 4, [3], 1))
    subject = "cola"
    metric: ClassVar[str] = "mcc"
    valid_subsets: ClassVar[str] = "valid,ood"
    splits = ("ood",)

    def read(self, split: str) -> Encoded:
        """Rows of the split's file."""
        name = "valid" if split == "test" and self.cfg.steady_split_dev else split
        if name not in FILES:
            raise UserError(
                f"cola has no split '{split}'; choose from {', '.join(FILES)} or, with "
                "--steady-split-dev, test"
            )
        path = find_file(Path(self.cfg.data), FILES[name])
        encoded = self.encode(path, self.bare, "cola")
        return self.dev(split, encoded) if name == "valid" else encoded
