"""How large a perturbation is: in units of the embeddings, or times their size."""

import dataclasses
from typing import Any, NamedTuple

from ..errors import UserError


class Radius(NamedTuple):
    """The radius of a perturbation.

    Args:
        size: of the ball or the noise.
        relative: whether it and all other lengths of the method are multiples of the
            embeddings' root mean square.

    """

    size: float
    relative: bool


def radius_of(cfg: Any, method: str, otherwise: float | None = None) -> Radius:
    """The radius that ``--<method>-eps`` or ``--<method>-eps-relative`` gives.

    The one that differs from its default is meant, without such a one the default that
    there is.

    Args:
        cfg: flags of the method.
        method: its name, which its flags begin with.
        otherwise: a size in embedding units, in place of the defaults.

    Raises:
        UserError: both differ, or the relative one where the other has a size.

    """
    names = (f"{method}_eps", f"{method}_eps_relative")
    defaults = {f.name: f.default for f in dataclasses.fields(cfg)}
    sizes = [getattr(cfg, name) for name in names]
    pairs = zip(names, sizes, strict=True)
    said = [size is not None and size != defaults[name] for name, size in pairs]
    if all(said):
        flags = [f"--{n.replace('_', '-')} {getattr(cfg, n):g}" for n in names]
        raise UserError(
            f"{flags[0]} and {flags[1]} are two sizes of one perturbation: leave one "
            "of them out"
        )
    if otherwise is not None and said[1]:
        raise UserError(
            f"--{names[1].replace('_', '-')} {sizes[1]:g} does not go with a "
            "projection whose unit is the embeddings' own: give "
            f"--{names[0].replace('_', '-')}"
        )
    if otherwise is not None and not any(said):
        return Radius(otherwise, relative=False)
    relative = said[1] or sizes[0] is None
    return Radius(sizes[relative], relative)
