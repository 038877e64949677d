"""Natural language inference beyond GLUE: SNLI, SciTail, ANLI and XNLI."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from fairseq.tasks import register_task

from ..data import Encoded
from ..data.layouts import Layout, PartFile, find_parts, find_split, parts_in, reader
from ..data.nli import LAYOUTS, SUBJECTS, mnli_train, of_file
from ..data.ragged import concatenate, grouped
from ..errors import UserError
from ..flags import one_of, option
from ..model_dir import ModelDirectory
from ._also import renaming
from ._sentence import SentenceTask, SentenceTaskConfig

logger = logging.getLogger(__name__)

#: Of --nli-train: the data set's own training set, and MNLI's in the data folder.
OWN, MNLI = "own", "mnli"


@dataclass
class NliConfig(SentenceTaskConfig):
    """Flags of nli."""

    nli_task: Optional[str] = option(None, "which data set", one_of(*LAYOUTS))
    nli_rounds: str = option(
        "all", "anli: rounds to train and evaluate on, as r1,r2; or all"
    )
    nli_languages: str = option(
        "all", "xnli: languages to evaluate on, as en,ur,sw; or all that there are"
    )
    nli_train: Optional[str] = option(
        None,
        "training sets, with commas between: own; mnli (in the data folder); another "
        "folder with MNLI's or XNLI-MT's; labelled files; default: own, of xnli mnli",
    )
    nli_train_languages: str = option(
        "en", "languages to train on, where there are several: en is zero-shot"
    )


@register_task("nli", dataclass=NliConfig)
class NliTask(SentenceTask):
    """Does a premise entail a hypothesis? In further domains, rounds and languages.

    Splits: train, valid (dev) and test; of ANLI and XNLI also one part of them, as
    ``valid.en`` or ``test.r2``; with ``--steady-split-dev``, test is half of dev.
    Accuracy picks checkpoints; ``accuracy_worst``, of the worst part, can.
    """

    metric: ClassVar[str] = "accuracy"
    own_tables: ClassVar[bool] = True
    cfg: NliConfig

    def __init__(self, cfg: NliConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        name = str(cfg.nli_task)
        self.layout = LAYOUTS[name]
        self.labels, self.subject = self.layout.labels, SUBJECTS[name]
        self.columns = [text.split("|")[0] for text in self.layout.texts]
        self.aliases = {one.split("|")[0]: one.split("|") for one in self.layout.texts}
        self.label_column = self.layout.label.split("|")[0]
        #: splits that each file, or part of one, was read for
        self._read: dict[PartFile, set[str]] = {}
        self._warned: set[PartFile] = set()

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The data set must be named, and parts only where it has some."""
        if cfg.nli_task is None:
            raise UserError(f"--nli-task is missing; choose from {', '.join(LAYOUTS)}")
        for name, task in (("nli_rounds", "anli"), ("nli_languages", "xnli")):
            flag, given = f"--{name.replace('_', '-')}", getattr(cfg, name)
            if given != "all" and cfg.nli_task != task:
                raise UserError(
                    f"{flag} {given} is for --nli-task {task}; leave it out"
                )
            _names(given, flag)
        given = cfg.nli_train_languages
        if given != "en" and cfg.nli_task != "xnli" and not cfg.nli_train:
            raise UserError(
                f"--nli-train-languages {given} is for --nli-task xnli, or for sets "
                "that --nli-train names; leave it out"
            )
        _names(given, "--nli-train-languages")
        super().check(cfg, directory)

    def read(self, split: str) -> Encoded:
        """Rows of the split's files, each part of them a group."""
        if split == "train":
            return concatenate([self._rows(*one) for one in self._each_once()])
        name, dot, part = split.partition(".")
        if name not in ("valid", "test") or (dot and not self.layout.parts):
            raise UserError(
                f"nli has no split '{split}' of {self.cfg.nli_task}; choose from "
                "train, valid, test" + _EXAMPLES.get(str(self.cfg.nli_task), "")
            )
        half = name == "test" and self.cfg.steady_split_dev
        found = {
            key: self._rows(self._own(one), one, split)
            for key, one in self._files("valid" if half else name, part).items()
        }
        if half or name == "valid":  # so that translations stay together
            found = {key: self.dev(name, one) for key, one in found.items()}
        return grouped(found) if self.layout.parts else found[""]

    def _read_any(self, split: str) -> tuple[Encoded, bool]:
        """As its own the files of ``--steady-also``, whatever data set they are of."""
        if split not in self.also:
            return super()._read_any(split)
        path = self.also[split]
        layout = of_file(path, self.layout, self.cfg.steady_quoted_tsv)
        told = renaming(self.cfg.steady_also_labels, self.labels)
        layout = replace(layout, spelt={**layout.spelt, **told})
        if not layout.parts:
            return self._rows(layout, PartFile(path), split), False
        files = parts_in(path, layout, (), self.cache_dir)
        found = {key: self._rows(layout, one, split) for key, one in files.items()}
        return grouped(found), False

    def _rows(self, layout: Layout, file: PartFile, split: str = "train") -> Encoded:
        """Of one part; warns of what is trained on and evaluated on."""
        real = file._replace(path=file.path.resolve())
        self._read.setdefault(real, set()).add(split)
        splits = sorted(self._read[real] - {"train"})
        if splits and "train" in self._read[real] and real not in self._warned:
            self._warned.add(real)
            what = f"{file.path} ({file.part})" if file.part else file.path
            logger.warning(_SEEN, what, splits[0])
        names = *layout.texts, layout.label, *layout.spelt.items()
        described = f"nli {names} {file.part}{' quoted' * layout.quoted}"
        return self.encode(file.path, reader(layout, file.part), described)

    def _own(self, file: PartFile) -> Layout:
        """Of a file of the data set's folder."""
        plain = file.path.name.lower() in _PLAIN
        return replace(self.layout, quoted=plain and self.cfg.steady_quoted_tsv)

    def _files(self, split: str, part: str = "") -> dict[str, PartFile]:
        """A split's parts by name, or all of it under an empty one."""
        data, name = Path(self.cfg.data), str(self.cfg.nli_task)
        mend = f"name the folder of {self.layout.folder}, as get-data {name} makes it"
        if split == "train":
            mend += ", or train on other labelled files: --nli-train FILE"
        if not self.layout.parts:
            return {"": PartFile(find_split(data, self.layout, split, mend))}
        own = self.cfg.nli_rounds if name == "anli" else self.cfg.nli_languages
        if split == "train" and name == "xnli":
            own = self.cfg.nli_train_languages
        wanted = [part] if part else _names(own, "")
        return find_parts(data, self.layout, split, wanted, self.cache_dir, mend)

    def _each_once(self) -> list[tuple[Layout, PartFile]]:
        """What is trained on; a file that is named twice is a slip.

        Raises:
            UserError: names it.

        """
        found = list(self._training())
        real = [file._replace(path=file.path.resolve()) for _, file in found]
        for place, file in enumerate(real):
            if file in real[:place]:
                raise UserError(
                    f"--nli-train {self.cfg.nli_train} names {found[place][1].path} "
                    "twice; name each once"
                )
        return found

    def _training(self) -> Iterator[tuple[Layout, PartFile]]:
        """What ``--nli-train`` names."""
        default = MNLI if self.cfg.nli_task == "xnli" else OWN
        for named in map(str.strip, (self.cfg.nli_train or default).split(",")):
            if named == OWN:
                for file in self._files("train").values():
                    yield self._own(file), file
            else:
                yield from self._others(named)

    def _others(self, named: str) -> Iterator[tuple[Layout, PartFile]]:
        """A file, or MNLI's in a folder, in the languages to train on."""
        place = Path(self.cfg.data if named == MNLI else named)
        wanted = _names(self.cfg.nli_train_languages, "")
        if not named or not place.exists():
            raise UserError(
                f"--nli-train: there is no file or folder '{named}'; name one, or "
                f"choose from {OWN} and {MNLI}"
            )
        whole = place.is_file()
        for path in [place] if whole else [mnli_train(place, one) for one in wanted]:
            layout = of_file(path, self.layout, whole and self.cfg.steady_quoted_tsv)
            if layout.parts:
                found = parts_in(path, layout, wanted, self.cache_dir)
                yield from ((layout, file) for file in found.values())
            else:
                yield layout, PartFile(path)


#: Names of files that no data set of this task has officially.
_PLAIN = ("train.tsv", "dev.tsv", "test.tsv")
_EXAMPLES = {
    "anli": ", or one round as test.r2",
    "xnli": ", or one language as valid.en",
}
_SEEN = "%s is trained on and evaluated on, as %s: its scores say nothing of new texts"


def _names(given: str, flag: str) -> list[str]:
    """Names with commas between; none for all."""
    names = [name.strip().lower() for name in given.split(",")]
    if names == ["all"]:
        return []
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{flag} {given}: name each once, with commas between")
    return names
