"""What the columns of a table mean, as text, Markdown and LaTeX."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from .. import escaping

Escape = Callable[[str], str]


@dataclass(frozen=True)
class Definitions:
    """What a table is about, and what each column means.

    Args:
        about: sentences.
        columns: meanings, by a column's name.

    """

    about: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def also(self, columns: Mapping[str, str]) -> "Definitions":
        """These and further ones."""
        return replace(self, columns={**self.columns, **columns})

    def lines(self) -> list[str]:
        """A line for each column."""
        return [f"{name}: {meaning}" for name, meaning in self.columns.items()]

    def markdown(self) -> str:
        """A paragraph and a list."""
        about, *lines = map(escaping.markdown, [self.about, *self.lines()])
        return "\n".join([about, "", *(f"- {line}" for line in lines)]).rstrip()

    def latex(self, escape: Escape) -> str:
        """The same; ``escape`` makes text of a string."""
        items = [
            f"\\item[{{{escape(name)}}}] {escape(said)}"
            for name, said in self.columns.items()
        ]
        if items:
            items = ["\\begin{description}", *items, "\\end{description}"]
        return "\n".join([escape(self.about), *items])
