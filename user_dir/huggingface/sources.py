"""What a Hugging Face directory or a fairseq release holds, read without trusting it.

Files lie inside their folder; structures are checked by schemas, tensors by type.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json
from ..models.families import kinds
from ..patches.checkpoints import load_safely

#: What a user can do about a file that is not what it should be.
DAMAGED = "it is damaged or of another format: download it again"
#: Names under which training scripts keep a state dict among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_POINTER = b"version https://git-lfs."

_Shard = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./ -]{1,250}$")]
_Numbers = dict[str, Annotated[int, Field(ge=0, lt=2**31)]]


class Index(TypedDict):
    """Which file holds which tensor."""

    weight_map: Annotated[dict[str, _Shard], Field(min_length=1)]


class Added(TypedDict, total=False):
    """A token beside a vocabulary, as the tokenizers library takes it."""

    content: Required[str]
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool
    special: bool


class TokenizerOptions(TypedDict, total=False):
    """What this importer reads of tokenizer_config.json."""

    do_lower_case: bool | None
    strip_accents: bool | None
    tokenize_chinese_chars: bool | None
    add_prefix_space: bool | None
    model_input_names: list[str] | None
    tokenizer_class: str | None
    bos_token: str | Added | None
    cls_token: str | Added | None
    eos_token: str | Added | None
    sep_token: str | Added | None
    pad_token: str | Added | None
    unk_token: str | Added | None
    mask_token: str | Added | None
    model_max_length: float | None


class AddedTokens(TypedDict, total=False):
    """Those of tokenizer_config.json or special_tokens_map.json."""

    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Added]
    additional_special_tokens: list[str | Added] | None
    extra_special_tokens: list[str | Added] | dict[str, str | Added] | None


@contextmanager
def naming(where: object, problem: str) -> Iterator[None]:
    """Make what a library raises inside one short line.

    Raises:
        UserError: names ``where``, ``problem`` and the library's first words.

    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise bare or unexported ones
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines[:2]) or type(error).__name__
        said = text if len(text) <= 200 else text[:197] + "..."
        raise UserError(f"{where}: {problem} ({said}); {DAMAGED}") from None


def inside(folder: Path, name: str) -> Path | None:
    """A file of a folder, or None if there is none of that name.

    Raises:
        UserError: the name or a link leads out of the folder, or the file is only a
            Git LFS pointer to what it should be.

    """
    path, home = folder / name, folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        # Hugging Face's cache: a snapshot has links to the blobs beside all snapshots.
        homes.append(home.parent.parent / "blobs")
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        real = Path()
    if not any(real.is_relative_to(place) for place in homes):
        raise UserError(
            f"{path} leads out of {folder}; put the file itself there if it is the "
            "model's"
        )
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(
                f"{path} is a Git LFS pointer, not the file itself; fetch it with: git "
                "lfs pull"
            )
    return path


def needed(folder: Path, name: str, otherwise: str) -> Path:
    """A file that must be there.

    Raises:
        UserError: it is not, and says ``otherwise``; or as :func:`inside`.

    """
    path = inside(folder, name)
    if path is None:
        raise UserError(otherwise)
    return path


def text_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, without their ends; the last is dropped where empty.

    Raises:
        UserError: it is not UTF-8; names the line.

    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8; {DAMAGED}") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_numbers(path: Path) -> dict[str, int]:
    """Number of each token of a vocab.json or encoder.json.

    Raises:
        UserError: a number is none, or of two tokens.

    """
    numbers: dict[str, int] = read_json(path, _Numbers, DAMAGED)
    tokens: dict[int, str] = {}
    for token, number in numbers.items():
        if tokens.setdefault(number, token) != token:
            raise UserError(
                f"{path}: {tokens[number]!r} and {token!r} have the one number "
                f"{number}; {DAMAGED}"
            )
    return numbers


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Pairs that byte-pair encoding joins, in order.

    Raises:
        UserError: names the line that is not two parts, or is there twice.

    """
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text_lines(path), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise UserError(f"{path}: line {number} is not two parts; {DAMAGED}")
        if found.setdefault((first, second), number) != number:
            raise UserError(
                f"{path}: line {number} repeats line {found[first, second]}; {DAMAGED}"
            )
    return list(found)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Number of each token of a vocab.txt: that of its line, from 0.

    Raises:
        UserError: a token is there twice; names both lines.

    """
    found: dict[str, int] = {}
    for number, line in enumerate(text_lines(path)):
        token = line.rstrip()
        if found.setdefault(token, number) != number:
            raise UserError(
                f"{path}: line {number + 1} repeats {token!r} of line "
                f"{found[token] + 1}; {DAMAGED}"
            )
    return found


def filler(index: int, taken: Mapping[str, int]) -> str:
    """A name for a row that belongs to no token."""
    name = f"madeupword{index:04d}"
    while name in taken:
        name += "_"
    return name


# --- weights --------------------------------------------------------------------------


def weight_files(source: Path) -> list[Path]:
    """Safetensors, one or sharded, before a pickled .bin.

    Raises:
        UserError: there are none, or a shard is missing or outside the folder.

    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if single := inside(source, name):
            return [single]
        if index := inside(source, f"{name}.index.json"):
            shards = read_json(index, Index, DAMAGED)["weight_map"].values()
            named = f"which {index.name} names"
            return [
                needed(source, shard, f"{source} lacks {shard}, {named}")
                for shard in sorted(set(shards))
            ]
    raise UserError(f"{source} has neither model.safetensors nor pytorch_model.bin")


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors by their names without prefixes, floating ones in fp32.

    Raises:
        UserError: a file is damaged, could run code, or holds something else than
            tensors by name; or a tensor is there twice.

    """
    tensors: dict[str, Tensor] = {}
    prefix = _prefix()
    for file in files:
        for name, tensor in _read_file(file).items():
            short = prefix.sub("", name).replace("LayerNorm.gamma", "LayerNorm.weight")
            short = short.replace("LayerNorm.beta", "LayerNorm.bias")
            if short in tensors:
                raise UserError(
                    f"{file} holds {name}, and the weights already have a {short}; "
                    "which is meant cannot be known"
                )
            tensors[short] = tensor.float() if _plain(tensor) else tensor
    if any(".lora_" in name for name in tensors):
        raise UserError(
            f"{files[0].parent}: the weights hold adapters (lora_A, lora_B) beside a "
            "model's; merge them with peft (merge_and_unload) and save that"
        )
    return tensors


def _plain(tensor: Tensor) -> bool:
    """Whether it holds numbers with fractions; eight bits alone need a scale, too."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def _prefix() -> re.Pattern[str]:
    """What training scripts and Hugging Face's heads put before a model's names."""
    prefixes = {kind.prefix for kind in kinds().values() if kind.prefix}
    known = "|".join(map(re.escape, sorted(prefixes)))
    return re.compile(rf"^(module\.)?({known})?")


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return state_dict(load_safely(file), file)
    with naming(file, "this is not a safetensors file"):
        return load_file(file)


def state_dict(found: Any, file: Path) -> dict[str, Tensor]:
    """Tensors by name, out of a training script's wrapper if there is just one.

    Raises:
        UserError: names what was found instead.

    """
    mend = "save the model's state_dict() alone"
    if not isinstance(found, Mapping):
        raise UserError(f"{file} holds a {type(found).__name__}, no state dict; {mend}")
    wrapped = [name for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
    plain = any(isinstance(value, Tensor) for value in found.values())
    if len(wrapped) == 1 and not plain:
        found = found[wrapped[0]]
    wrong = [
        f"{name!r}, a {type(value).__name__}"
        for name, value in found.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if wrong or not found:
        what = "; ".join(wrong[:3]) or "nothing"
        raise UserError(f"{file} holds {what}: no state dict; {mend}")
    return dict(found)


class Weights:
    """The source's tensors, each asked for by name.

    Args:
        source: named in errors.
        tensors: as :func:`read_weights` gives them.

    """

    def __init__(self, source: Path, tensors: Mapping[str, Tensor]) -> None:
        self.source, self.tensors = source, tensors
        self._asked: set[str] = set()
        self._names = {id(tensor): name for name, tensor in tensors.items()}

    def get(self, name: str, *shape: int) -> Tensor | None:
        """A tensor or None; as a call."""
        return self(name, *shape) if name in self.tensors else None

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor of numbers with fractions.

        Args:
            name: without prefixes.
            shape: what it must have, -1 for any size; none to leave that open.

        Raises:
            UserError: it is missing, of whole numbers or of another shape.

        """
        self._asked.add(name)
        tensor = self.tensors.get(name)
        if tensor is None:
            raise UserError(
                f"{self.source}: the weights lack {name}; is this the whole model?"
            )
        if not _plain(tensor):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{self.source}: {name} is of {kind}, no floating-point numbers of 16 "
                "bits or more; quantised weights cannot be imported"
            )
        found = tuple(tensor.shape)
        free = tuple(s if w == -1 else w for s, w in zip(found, shape, strict=False))
        if shape and (len(shape) != len(found) or found != free):
            raise UserError(wrong_shape(self.source, name, found, shape))
        return tensor

    def name_of(self, tensor: Tensor) -> str | None:
        """The source's name of a tensor that was handed out as it is."""
        return self._names.get(id(tensor))

    def left(self) -> list[str]:
        """Names of the tensors that nobody asked for."""
        return sorted(set(self.tensors) - self._asked)


def wrong_shape(
    source: object, name: str, found: tuple[int, ...], wanted: tuple[int, ...]
) -> str:
    """One line for a tensor that does not fit its configuration."""
    expected = str(tuple(wanted)).replace("-1", "any")
    return (
        f"{source}: {name} has shape {tuple(found)}, where its configuration and the "
        f"other weights say {expected}; they are not of one model"
    )
