"""Models of a model directory, outside of a training run."""

from types import SimpleNamespace
from typing import Any

from fairseq.data import Dictionary

from ..model_dir import Manifest, ModelDirectory
from .steady import SteadyModel, SteadyModelConfig, load_pretrained, record_architecture


def build(manifest: Manifest, dictionary: Dictionary, **rates: Any) -> Any:
    """A model as a manifest describes it, with random weights and no head.

    Args:
        manifest: names family and architecture.
        dictionary: of its tokens.
        rates: flags of :class:`.steady.SteadyModelConfig`, such as ``dropout``.

    Raises:
        UserError: the architecture is none of the family's, or a rate no probability.

    """
    cfg = SteadyModelConfig(**rates)
    record_architecture(cfg, manifest)
    # As much of a task as building a model needs.
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return SteadyModel.build_model(cfg, task)


def load_encoder(directory: ModelDirectory) -> Any:
    """The model of a directory in evaluation mode, with its weights and no head.

    Raises:
        UserError: the weights do not fit the architecture.

    """
    model = build(directory.manifest, directory.dictionary())
    load_pretrained(model, directory)
    return model.eval()
