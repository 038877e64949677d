"""Everything that is changed in fairseq, and the safe loading that replaces its own."""


def install() -> None:
    """Make every change; once is enough, and more does no harm."""
    from .ground import prepare_fairseq

    prepare_fairseq()
