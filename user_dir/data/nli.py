"""Natural language inference: SNLI, SciTail, ANLI and XNLI as they are published."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from .glue import LAYOUTS as GLUE
from .layouts import Bare, Layout, Parts, file_in, folder_of, has_parts

_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
#: In the order of GLUE's MNLI.
_CLASSES = ("contradiction", "neutral", "entailment")
#: ANLI's letters, and a class as XNLI's machine-translated training sets call it.
_SPELT = {
    "c": "contradiction",
    "n": "neutral",
    "e": "entailment",
    "contradictory": "contradiction",
}
#: As in SNLI and XNLI; plain copies and SciTail; ANLI; and XNLI's training sets.
_TEXTS = ("sentence1|premise|context", "sentence2|hypothesis|hypo")
_LABEL = "gold_label|label"
#: Where SNLI's annotators did not agree.
_NO_LABEL = ("-",)
_LANGUAGES = (
    *("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur"),
    *("vi", "zh"),
)
_SCITAIL = {f"scitail_1.0_{name}.tsv": Bare(3, (0, 1), 2) for name in _SPLITS.values()}


def _files(*names: str) -> dict[str, Sequence[str]]:
    """Files of each split, ``{}`` in their names being its own."""
    return {split: [n.format(own) for n in names] for split, own in _SPLITS.items()}


def _three(
    folder: str,
    files: dict[str, Sequence[str]],
    parts: Parts | None = None,
    texts: Sequence[str] = _TEXTS,
) -> Layout:
    return Layout(
        folder,
        texts,
        _LABEL,
        _CLASSES,
        files=files,
        bare=_SCITAIL,
        spelt=_SPELT,
        dropped=_NO_LABEL,
        parts=parts,
    )


LAYOUTS = {
    "snli": _three(
        "snli_1.0",
        _files("snli_1.0_{}.jsonl", "snli_1.0_{}.txt", "{}.jsonl", "{}.tsv"),
    ),
    "scitail": Layout(
        "SciTailV1.1/tsv_format",
        ("premise|sentence1", "hypothesis|sentence2"),
        _LABEL,
        ("neutral", "entails"),
        files=_files("scitail_1.0_{}.tsv"),
        bare=_SCITAIL,
        spelt={"entailment": "entails"},
        dropped=_NO_LABEL,
    ),
    "anli": _three(
        "anli_v1.0",
        _files("{}.jsonl"),
        Parts("round", ("r1", "r2", "r3"), flag="--nli-rounds"),
        texts=("context|premise|sentence1", "hypothesis|sentence2|hypo"),
    ),
    "xnli": _three(
        "XNLI-1.0",
        _files("xnli.{}.tsv", "xnli.{}.jsonl", "{}.jsonl"),
        Parts("language", _LANGUAGES, "language"),
    ),
}
#: Three-way classes mean the same everywhere, so that heads of MNLI go on.
SUBJECTS = {"snli": "mnli", "scitail": "scitail", "anli": "mnli", "xnli": "mnli"}

# --- training sets --------------------------------------------------------------------


def mnli_train(folder: Path, language: str) -> Path:
    """MNLI's training set: GLUE's, its own release's, or XNLI's translations of it.

    Raises:
        UserError: there is none in that language.

    """
    translated = f"multinli.train.{language}.tsv"
    below = [folder, folder / "multinli", folder / "XNLI-MT-1.0" / "multinli"]
    places = [(place, translated) for place in below]
    if language == "en":
        own = folder / "multinli_1.0"
        places.append((folder_of(folder, GLUE["mnli"]), "train.tsv"))
        for form in ("jsonl", "txt"):
            places += [(place, f"multinli_1.0_train.{form}") for place in (folder, own)]
    for place, name in places:
        layout = replace(GLUE["mnli"], files={"train": (name,)})
        if place.is_dir() and (path := file_in(place, layout, "train")):
            return path
    names = ", ".join(dict.fromkeys(name for _, name in places))
    raise UserError(
        f"{folder} has no training set of MNLI in '{language}' ({names}); name with "
        "--nli-train the folder of GLUE, MNLI or XNLI-MT, or other labelled files"
    )


def of_file(path: Path, layout: Layout, quoted: bool = False) -> Layout:
    """A data set's layout for another labelled file, which may have languages.

    Args:
        path: of the file.
        layout: of the data set.
        quoted: a .tsv is quoted, as pandas writes it.

    Raises:
        UserError: the file cannot be read.

    """
    found = replace(layout, parts=LAYOUTS["xnli"].parts, quoted=quoted)
    several = layout.headless(path) is None and has_parts(path, found)
    return found if several else replace(found, parts=None)
