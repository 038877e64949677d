"""Is an imported model the model it came from?

Its tensors fit its configuration; where transformers is installed, its hidden states
are those of the source.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary, data_utils
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..data import SentenceTokenizer
from ..data.batching import padded
from ..errors import UserError
from ..inference.loading import load_classifier
from ..model_dir import Manifest, ModelDirectory
from ..models.building import build, load_encoder
from ..patches.quiet import verbose
from .sources import naming, wrong_shape

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
#: Pairs: the second sentence has a token type of its own in BERT.
PAIRS = (
    ("The cat sat on the mat.", "It did."),
    ("x", "Naïve café owners, 日本語 and more of this, so that others need padding."),
)


# --- do the tensors fit? --------------------------------------------------------------


class _WithoutValues(TorchFunctionMode):
    """fairseq draws weights on the CPU; on the meta device there is nothing to draw."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.cpu:
            return args[0]
        return function(*args, **(kwargs or {}))


def check_state(
    state: Mapping[str, Tensor],
    manifest: Manifest,
    dictionary: Dictionary,
    source: object,
    name_of: Callable[[Tensor], str | None] = lambda _: None,
) -> None:
    """Refuse tensors that are not those of the model a manifest describes.

    The model is built without memory for its weights, whatever its size.

    Args:
        state: fairseq's.
        manifest: with the architecture.
        dictionary: one symbol per row of the word table.
        source: named in errors.
        name_of: the source's name of a tensor, where it has one.

    Raises:
        UserError: a tensor is missing, too many, of another shape or not finite.

    """
    with torch.device("meta"), _WithoutValues():
        model = build(manifest, dictionary)
    given = dict(state)
    model.upgrade_state_dict(given)
    wanted = {n: t for n, t in model.state_dict().items() if not n.endswith("version")}
    for name, tensor in wanted.items():
        if name not in given:
            raise UserError(
                f"{source}: the weights lack {name}, which its configuration asks for"
            )
        found, theirs = given[name], name_of(given[name]) or name
        if found.shape != tensor.shape:
            raise UserError(wrong_shape(source, theirs, found.shape, tensor.shape))
        if not bool(found.isfinite().all()):
            raise UserError(f"{source}: {theirs} holds NaN or infinite numbers")
    for name in given:
        if name not in wanted and not name.endswith("version"):
            raise UserError(
                f"{source}: {name} has no place in the model that its configuration "
                "describes; they are not of one model"
            )


# --- is it the same in transformers? --------------------------------------------------

Texts = Sequence[tuple[str, ...]]
BATCHES: tuple[Texts, Texts] = (tuple(zip(SENTENCES, strict=True)), PAIRS)
States = list[tuple[Tensor, Tensor]]


def largest(errors: Sequence[float]) -> float:
    """The largest number, or NaN where one is: Python's own ``max`` leaves it out."""
    return float(torch.tensor(errors, dtype=torch.float64).max())


@contextmanager
def quietly() -> Iterator[None]:
    """Let transformers load without a bar, and without a table of what is not loaded.

    The table names heads and poolers, which are not compared, as in need of training.
    """
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if not verbose():
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _theirs(source: Path, purpose: str = "") -> tuple[Any, Any]:
    """Model and tokeniser in transformers; nothing is fetched and no code is run."""
    import transformers

    auto = getattr(transformers, f"AutoModel{purpose}")
    options = {"local_files_only": True, "trust_remote_code": False}
    with naming(source, "transformers cannot load it"), quietly():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        model = auto.from_pretrained(source, dtype=torch.float32, **options)
    return model.eval(), tokenizer


def hidden_state_error(
    source: str | os.PathLike[str],
    directory: ModelDirectory,
    texts: Sequence[Texts] = BATCHES,
) -> list[float]:
    """Largest difference to transformers' hidden states, per layer, real tokens only.

    Args:
        source: the Hugging Face directory.
        directory: what was imported from it.
        texts: batches of single sentences or of pairs, tokenised by each side's own
            tokeniser and padded.

    Raises:
        UserError: transformers cannot load it, or the two tokenisers disagree.

    """
    theirs, their_tokenizer = _theirs(Path(source))
    length = directory.manifest.architecture["max_positions"]
    # transformers reads a spelled special token as one.
    dictionary = directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, length, spelled=True)
    ours, errors = load_encoder(directory), []
    states = _seq2seq_states if directory.family.decodes else _states
    for batch in texts:
        given = _encoded(their_tokenizer, batch, theirs, directory)
        mask = given["attention_mask"].bool()
        ids, _ = tokenizer.encode(batch)
        if mask.sum(1).tolist() != [len(i) for i in ids]:
            raise UserError(f"{source}: its tokeniser and the imported one disagree")
        tokens = data_utils.collate_tokens(
            [torch.from_numpy(i).long() for i in ids], dictionary.pad()
        )
        with torch.no_grad(), naming(source, "transformers cannot run it"):
            found = states(ours, theirs, tokens, given)
        errors.append([float((a - b)[mask].abs().max()) for a, b in found])
    return [largest(layer) for layer in zip(*errors, strict=True)]


@torch.no_grad()
def head_error(source: str | os.PathLike[str], directory: ModelDirectory) -> float:
    """Largest difference to transformers' logits; as :func:`hidden_state_error`."""
    theirs, their_tokenizer = _theirs(Path(source), "ForSequenceClassification")
    length = directory.manifest.architecture["max_positions"]
    (ours, task), errors = load_classifier(directory), []
    tokenizer = SentenceTokenizer(directory, task.dictionary, length, spelled=True)
    for batch in BATCHES:
        expected = theirs(**_encoded(their_tokenizer, batch, theirs, directory)).logits
        ids = [torch.from_numpy(row).long() for row in tokenizer.encode(batch)[0]]
        given = padded(ids, task.dictionary.pad(), directory.family.decodes)
        found = ours(**given, features_only=True, classification_head_name=task.head)
        errors.append(float((found[0] - expected).abs().max()))
    return largest(errors)


def _encoded(
    tokenizer: Any, batch: Texts, model: Any, directory: ModelDirectory
) -> Any:
    """A padded batch as a model of transformers takes it."""
    form = directory.manifest.architecture
    tokenizer.padding_side = "right"  # positions are counted from the first token
    if tokenizer.pad_token is None:  # where tokenizer.json stands alone
        tokenizer.pad_token = directory.manifest.special_tokens["<pad>"]
    # ALBERT's tokeniser has to be asked; of one type, the second's row is not there.
    types = form.get("token_types") or None
    if getattr(model.config, "type_vocab_size", 2) < 2:
        types = False
    return tokenizer(
        *map(list, zip(*batch, strict=True)),
        padding=True,
        truncation=True,
        max_length=form["max_positions"],
        return_token_type_ids=types,
        return_tensors="pt",
    )


def _states(ours: Any, theirs: Any, tokens: Tensor, batch: Any) -> States:
    """Hidden states of an encoder, ours and theirs."""
    given = theirs(**batch, output_hidden_states=True)
    expected = given.hidden_states or [given.last_hidden_state]  # without any layer
    _, extra = ours(tokens, features_only=True, return_all_hiddens=True)
    found = [state.transpose(0, 1) for state in extra["inner_states"]]
    return list(zip(found, expected, strict=True))


def _seq2seq_states(ours: Any, theirs: Any, tokens: Tensor, batch: Any) -> States:
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


def assert_equal(source: str | os.PathLike[str], directory: ModelDirectory) -> float:
    """Largest difference over all layers, and of logits where there is a head.

    Raises:
        UserError: it is above 1e-4.

    """
    errors = hidden_state_error(source, directory)
    worst = largest(errors)
    if not worst <= TOLERANCE:
        layer = int(torch.tensor(errors).argmax())
        raise UserError(
            f"hidden states of {directory.path} differ from transformers' by "
            f"{worst:.2g} at layer {layer}; the import was removed"
        )
    logits = head_error(source, directory) if directory.manifest.head else 0.0
    if not logits <= TOLERANCE:
        raise UserError(
            f"logits of {directory.path} differ from transformers' by {logits:.2g}; "
            "the import was removed. --without-head imports the rest alone"
        )
    return largest([worst, logits])
