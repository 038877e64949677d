"""Is an imported model the model it came from? Needs transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import data_utils
from torch import Tensor

from .data import SentenceTokenizer
from .errors import UserError
from .model_dir import ModelDirectory
from .models.steady import (
    SteadyModel,
    SteadyModelConfig,
    load_pretrained,
    record_architecture,
)

TOLERANCE = 1e-4

#: Sentences of different lengths, so that padding is at work; awkward on purpose.
SENTENCES = (
    "The cat sat on the mat.",
    "Naïve café owners déjà-vu'd the coöperative façade, didn't they?",
    "日本語の文 and English, mixed 🙂👍🏽!",
    "x",
    "It is not the case that every sentence which is long is hard, but this one, "
    "having clauses within clauses, goes on for a while so that others need padding.",
    "tabs\tand\u00a0no-break spaces\u200b, 3.14159e-10 & <html> #hash @user",
)


class _Bare:
    """As much of a task as building an encoder needs."""

    def __init__(self, directory: ModelDirectory) -> None:
        self.source_dictionary = self.target_dictionary = directory.dictionary()


def load_encoder(directory: ModelDirectory) -> Any:
    """The model of a directory in evaluation mode, with its weights and no head."""
    cfg = SteadyModelConfig()
    record_architecture(cfg, directory.manifest)
    model = SteadyModel.build_model(cfg, _Bare(directory))
    load_pretrained(model, directory)
    return model.eval()


def hidden_state_error(
    source: Path, directory: ModelDirectory, sentences: Sequence[str] = SENTENCES
) -> list[float]:
    """Largest difference to transformers' hidden states, per layer, real tokens only.

    Args:
        source: the Hugging Face directory.
        directory: what was imported from it.
        sentences: tokenised by each side's own tokeniser and padded.

    Raises:
        UserError: the two tokenisers disagree.

    """
    from transformers import AutoModel, AutoTokenizer

    theirs_tokenizer = AutoTokenizer.from_pretrained(source)
    theirs = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    length = directory.manifest.architecture["max_positions"]
    dictionary = directory.dictionary()
    ours_tokenizer = SentenceTokenizer(directory, dictionary, length, spelled=True)
    ids, _ = ours_tokenizer.encode([(sentence,) for sentence in sentences])
    batch = theirs_tokenizer(
        list(sentences),
        padding=True,
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    mask = batch["attention_mask"].bool()
    if mask.sum(1).tolist() != [len(i) for i in ids]:
        raise UserError(f"{source}: its tokeniser and the imported one disagree")
    tokens = data_utils.collate_tokens(
        [torch.from_numpy(i).long() for i in ids], dictionary.pad()
    )
    ours = load_encoder(directory)
    states = _seq2seq_states if directory.manifest.family == "bart" else _states
    with torch.no_grad():
        pairs = states(ours, theirs, tokens, batch)
    return [float((a - b)[mask].abs().max()) for a, b in pairs]


Pairs = list[tuple[Tensor, Tensor]]


def _states(ours: Any, theirs: Any, tokens: Tensor, batch: Any) -> Pairs:
    """Hidden states of an encoder, ours and theirs."""
    expected = theirs(**batch, output_hidden_states=True).hidden_states
    _, extra = ours(tokens, features_only=True, return_all_hiddens=True)
    found = [state.transpose(0, 1) for state in extra["inner_states"]]
    return list(zip(found, expected, strict=True))


def _seq2seq_states(ours: Any, theirs: Any, tokens: Tensor, batch: Any) -> Pairs:
    """The encoder's output, and the decoder's after every layer, fed its own input."""
    outputs = theirs(
        **batch, decoder_input_ids=batch["input_ids"], output_hidden_states=True
    )
    encoded = ours.encoder(tokens, tokens.ne(ours.encoder.padding_idx).sum(1))
    # Their decoder is not told of padding in its own input; it only looks back.
    features, extra = ours.decoder(tokens, encoder_out=encoded, features_only=True)
    found = [state.transpose(0, 1) for state in extra["inner_states"]]
    expected = list(outputs.decoder_hidden_states)
    return [
        (encoded["encoder_out"][0].transpose(0, 1), outputs.encoder_last_hidden_state),
        *zip(found[:-1], expected[:-1], strict=True),
        (features, outputs.last_hidden_state),
    ]


def assert_equal(source: Path, directory: ModelDirectory) -> float:
    """Largest difference over all layers.

    Raises:
        UserError: it is above 1e-4.

    """
    errors = hidden_state_error(source, directory)
    worst = max(errors)
    if not worst <= TOLERANCE:
        layer = errors.index(worst)
        raise UserError(
            f"hidden states of {directory.path} differ from transformers' by "
            f"{worst:.2g} at layer {layer}; the import was removed"
        )
    return worst
