"""What is to be trained: settings x methods x seeds, and grids to choose from."""

import argparse
import itertools
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError

Flags = tuple[str, ...]

#: The subset that picks evaluations and grid points, where nothing else is said.
SELECT = "valid"
#: A grid inside a flag: two or more values in braces.
_GRID = re.compile(r"\{([^{}]*,[^{}]*)\}")
#: A name is that of a folder too, and of no flag.
_NAME = re.compile(r"[\w+][\w.+-]{0,59}")
#: What else lies in the folders of results.
_RESERVED = re.compile(
    r"tuning|lock|submitit|.*\.(csv|html|json|log|md|png|pt|svg|tex)"
)
#: fairseq's flag for a plugin.
_USER_DIR = re.compile(r"--user-dir(=.*)?", re.DOTALL)
#: The seed that tries grid points, where nothing else is said.
_TRYING = 1000
#: A task's flag for further files, which are evaluated whatever subsets are named.
_ALSO = "--steady-also"
#: numpy's seeds.
_SEEDS = 2**32


@dataclass(frozen=True)
class Run:
    """One training: a method in a setting with a seed.

    Args:
        setting: name, empty where there is only one.
        method: name.
        seed: of data order, initial head and noise.
        folder: where it leaves its log and its result.
        command: fairseq-train with every flag that decides the outcome.
        after: a run whose best checkpoint this one starts from.
        keep: leave the best checkpoint behind.

    """

    setting: str
    method: str
    seed: int
    folder: Path
    command: Flags
    after: "Run | None" = None
    keep: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(
            [*filter(None, [self.setting]), self.method, f"seed {self.seed}"]
        )


def names_plugin(command: Sequence[str]) -> bool:
    """Whether a command says --user-dir; one that does not is for this plugin."""
    return any(map(_USER_DIR.fullmatch, command))


def typed(command: Sequence[str]) -> list[str]:
    """A run's command as a user gives it: what names no plugin is for this one."""
    program, *flags = command
    if program == "fairseq-train" and not names_plugin(flags):
        return ["fairseq-steady", "train", *flags]
    return [program, *flags]


def parse_named(text: str, kind: str) -> tuple[str, Flags]:
    """NAME=FLAGS as a name and its flags.

    Raises:
        UserError: the name is missing, no file name or taken.

    """
    name, _, flags = text.partition("=")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{kind} {text!r} has no name; write NAME=FLAGS with letters, digits and "
            "-_.+ in the name, 60 at most, the first of them not - or ."
        )
    if _RESERVED.fullmatch(name.casefold()):
        raise UserError(
            f"{kind} {name} would be mistaken for a file of the results; rename it"
        )
    return name, _split(flags, text)


def _split(flags: str, text: str) -> Flags:
    try:
        flags.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!r} is not UTF-8; write it anew") from None
    try:
        return tuple(shlex.split(flags))
    except ValueError as error:
        raise UserError(f"{text!r} cannot be read ({error}); mend the quotes") from None


def parse_method(text: str) -> tuple[str, Flags]:
    """A criterion's name, or NAME=FLAGS."""
    if "=" not in text:
        return parse_named(f"{text}=--criterion {text}", "method")
    name, flags = parse_named(text, "method")
    if not flags:
        raise UserError(
            f"method {text!r} has no flags; write NAME=FLAGS, or NAME alone"
        )
    return name, flags


def points(flags: Flags) -> list[Flags]:
    """Every combination of the values in braces; the flags themselves if none."""
    grids = [m.group(1).split(",") for flag in flags for m in _GRID.finditer(flag)]
    return [_filled(flags, values) for values in itertools.product(*grids)]


def _filled(flags: Flags, values: Sequence[str]) -> Flags:
    left = iter(values)
    return tuple(_GRID.sub(lambda _: next(left), flag) for flag in flags)


def _only(flags: Flags, select: str) -> Flags:
    """A command that is evaluated on one subset, of further files too."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(_ALSO, nargs="?")
    also = vars(parser.parse_known_args(flags)[0])["steady_also"]
    only = (*flags, "--valid-subset", select)
    if also is None:
        return only
    kept = [part for part in also.split(",") if part.split("=")[0].strip() == select]
    return (*only, f"{_ALSO}={','.join(kept) or 'none'}")


@dataclass(frozen=True)
class Plan:
    """Everything one comparison trains.

    Seed s has the same data order, sub-sample and initial head for every method.

    Args:
        out: results folder.
        methods: flags by name; the first is what the others are compared with.
        seeds: of the runs in the table.
        common: flags of every run.
        settings: further flags by name; each has a table of its own.
        select: subset that picks evaluations and grid points.
        tuning_seeds: seeds that try each grid point; where none is given the first
            from 1000 that is none of the table's, the same however many those are.
        keep: leave every run's best checkpoint behind.

    """

    out: Path
    methods: Mapping[str, Flags]
    seeds: Sequence[int]
    common: Flags
    settings: Mapping[str, Flags]
    select: str = SELECT
    tuning_seeds: Sequence[int] = ()
    keep: bool = False

    def __post_init__(self) -> None:
        budgets = {key: len(self.grid(*key)) for key in self._pairs}
        if len(set(budgets.values())) > 1:
            shown = ", ".join(
                f"{' '.join(key).strip()} {count}" for key, count in budgets.items()
            )
            raise UserError(
                f"grids of different sizes ({shown}) would favour a method; give each "
                "the same number of settings"
            )

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        """Every setting with every method."""
        return list(itertools.product(self.settings, self.methods))

    def grid(self, setting: str, method: str) -> list[Flags]:
        """Whole flag lists to choose from."""
        further = self.settings.get(setting, ())
        return points((*self.common, *further, *self.methods[method]))

    @property
    def tuned(self) -> bool:
        """Whether there is a choice to make before the runs."""
        return len(self.grid(*self._pairs[0])) > 1

    @property
    def trying(self) -> Sequence[int]:
        """Seeds that try each grid point; none where there is no grid."""
        if not self.tuned:
            return ()
        return self.tuning_seeds or following([_TRYING - 1], 1, self.seeds)

    @property
    def tuning_runs(self) -> int:
        """Runs that choose a method's flags in a setting."""
        return len(self.grid(*self._pairs[0])) * len(self.trying)

    def _run(
        self, base: Path, setting: str, method: str, seed: int, flags: Flags
    ) -> Run:
        filled = [flag.replace("{seed}", str(seed)) for flag in flags]
        command = ("fairseq-train", *filled, "--seed", str(seed))
        folder = base / setting / method / f"seed{seed}"
        return Run(setting, method, seed, folder, command, keep=self.keep)

    def tuning(self) -> dict[tuple[str, str], list[list[Run]]]:
        """Runs of each grid point by setting and method; they see no other split."""
        return {
            (setting, method): [
                self._tries(number, setting, method, flags)
                for number, flags in enumerate(self.grid(setting, method), 1)
            ]
            for setting, method in self._pairs
        }

    def _tries(self, number: int, setting: str, method: str, flags: Flags) -> list[Run]:
        """A grid point with each tuning seed."""
        base = self.out / "tuning" / f"point{number}"
        only = _only(flags, self.select)
        runs = [self._run(base, setting, method, seed, only) for seed in self.trying]
        return [replace(run, keep=False) for run in runs]

    def runs(self, chosen: Mapping[tuple[str, str], int] | None = None) -> list[Run]:
        """The runs of the table, seed by seed, so that early results are paired.

        Args:
            chosen: grid point by setting and method; the first where not given.

        """
        pick = chosen or {}
        flags = {key: self.grid(*key)[pick.get(key, 0)] for key in self._pairs}
        return [
            self._run(self.out, setting, method, seed, flags[setting, method])
            for setting in self.settings
            for seed in self.seeds
            for method in self.methods
        ]


def every(tried: Mapping[tuple[str, str], Sequence[Sequence[Run]]]) -> list[Run]:
    """All tuning runs."""
    return [run for grid in tried.values() for runs in grid for run in runs]


def named(texts: Sequence[str], kind: str) -> dict[str, Flags]:
    """Methods or settings by name.

    Raises:
        UserError: two have the same name but for capitals, or one cannot be read.

    """
    parse = parse_method if kind == "method" else lambda text: parse_named(text, kind)
    pairs = [parse(text) for text in texts]
    folders = [_folder(name) for name, _ in pairs]
    for (name, _), folder in zip(pairs, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(
                f"{kind} {name} is named twice; name each once, in other letters than "
                "capitals alone"
            )
    return dict(pairs)


def _folder(name: str) -> str:
    """Equal for names that some file systems do not tell apart."""
    return unicodedata.normalize("NFKC", name).casefold()


def distinct(seeds: Sequence[int]) -> Sequence[int]:
    """Seeds, checked.

    Raises:
        UserError: one is given twice, or is none.

    """
    for seed in seeds:
        if not 0 <= seed < _SEEDS:
            raise UserError(f"seed {seed} is not in 0 to {_SEEDS - 1}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"a seed is given twice among {list(seeds)}; give each once")
    return seeds


def following(seeds: Sequence[int], count: int, but: Sequence[int] = ()) -> list[int]:
    """So many seeds after the largest, some left out.

    Raises:
        UserError: there are not as many.

    """
    after = (seed for seed in itertools.count(max(seeds) + 1) if seed not in but)
    return list(distinct(list(itertools.islice(after, count))))
