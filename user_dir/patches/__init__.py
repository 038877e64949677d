"""Everything that is changed in fairseq, and the safe loading that replaces its own.

:mod:`.table` lists every change; the other files say what the changes do.
"""

#: When a change is made.
IMPORT, TRAINING, YAML = "import", "a training starts", "fairseq-steady hydra-train"


def install(when: str = IMPORT) -> None:
    """Make every change of one kind; once is enough, and more does no harm."""
    from . import table

    table.install(when)
