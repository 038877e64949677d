"""Checkpoints of others, tiny: Hugging Face directories, releases of fairseq."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from conftest import DECODER, ENCODER
from fairseq.data import Dictionary
from fairseq_steady.models.families import FAMILIES
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.normalizers import NFC
from tokenizers.processors import TemplateProcessing

AWKWARD = [
    "naïve café déjà-vu Ångström ĳ ﬁ",
    "日本語 中文字 한국어 mixed",
    "🙂👍🏽👩‍👩‍👧 flags 🇫🇷",
    "tab\there nbsp\u00a0here zero\u200bwidth bell\x07 del\x7f bom\ufeff",
    "<s> [CLS] </s> [SEP] <mask> [MASK] &amp; <unk>",
    "UPPER lower MiXeD İstanbul ß ﬀ",
    "it's can't 'quoted' \"double\" --- ... ?!?! $3.14 50%",
    "trailing   spaces   ",
    "ends in newline\n next",
    "e\u0301 combining \u0336strike",
    "x" * 120,
]


def train_wordpiece(folder: Path, cased: bool) -> None:
    tokenizer = BertWordPieceTokenizer(lowercase=not cased)
    tokenizer.train_from_iterator(
        AWKWARD * 3, vocab_size=400, min_frequency=1, show_progress=False
    )
    vocabulary = tokenizer.get_vocab()
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    (folder / "vocab.txt").write_text("\n".join(ordered) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": not cased, "tokenizer_class": "BertTokenizer"})
    )


def train_bpe(folder: Path, kind: str) -> None:
    """RoBERTa's, BART's, or version 1 of DeBERTa's, which has BERT's special tokens."""
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "Deberta":
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer.train_from_iterator(
        AWKWARD * 3, vocab_size=500, min_frequency=1, special_tokens=special
    )
    tokenizer.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": f"{kind}Tokenizer"})
    )


SIZE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "initializer_range": 0.3,
}


def train_sentencepiece(folder: Path) -> None:
    """As mBART ships it: a sentencepiece model, language codes in the configuration."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(AWKWARD * 3),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=220,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    config = {"tokenizer_class": "MBartTokenizer", "src_lang": "en_XX"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


SEQ2SEQ_SIZE: dict[str, Any] = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 256,
    "init_std": 0.3,
}


def make_seq2seq(folder: Path, kind: str) -> Any:
    """A tiny random BART or mBART."""
    if kind == "bart":
        train_bpe(folder, "Roberta")
        rows = len(json.loads((folder / "vocab.json").read_text()))
        bart = transformers.BartConfig(vocab_size=rows, **SEQ2SEQ_SIZE)
        return transformers.BartForConditionalGeneration(bart)
    train_sentencepiece(folder)
    rows = len(transformers.AutoTokenizer.from_pretrained(folder))
    mbart = transformers.MBartConfig(
        vocab_size=rows, scale_embedding=True, **SEQ2SEQ_SIZE
    )
    return transformers.MBartForConditionalGeneration(mbart)


#: Every form of DeBERTa: versions 3, 2 (with its convolution) and 1 as published, and
#: what their configurations allow besides. Distances go far beyond buckets and tables.
DEBERTA: dict[str, dict[str, Any]] = {
    "deberta-v3": {
        "position_buckets": 8,
        "max_relative_positions": 20,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "deberta-v2": {
        "position_buckets": 12,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "deberta-v2-own": {
        "max_relative_positions": 6,
        "share_att_key": False,
        "pos_att_type": "p2c",
        "position_biased_input": True,
    },
    "deberta": {},
    "deberta-c2p": {
        "max_relative_positions": 5,
        "pos_att_type": "c2p",
        "position_biased_input": True,
        "type_vocab_size": 2,
    },
}


def make_deberta(folder: Path, kind: str) -> Any:
    """A tiny random DeBERTa."""
    settings = {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": "c2p|p2c",
        "max_position_embeddings": 256,
        "type_vocab_size": 0,
        **SIZE,
        **DEBERTA[kind],
    }
    if "-v" in kind:
        train_unigram(folder)
        rows = len(transformers.AutoTokenizer.from_pretrained(folder))
        second = transformers.DebertaV2Config(vocab_size=rows + 2, **settings)
        return transformers.DebertaV2Model(second)
    train_bpe(folder, "Deberta")
    rows = len(json.loads((folder / "vocab.json").read_text()))
    first = transformers.DebertaConfig(vocab_size=rows, **settings)
    return transformers.DebertaForSequenceClassification(first)


def train_unigram(folder: Path) -> None:
    """As DeBERTa's versions 2 and 3 ship it: a sentencepiece model."""
    pieces = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(AWKWARD * 3),
        model_prefix=str(folder / "spm"),
        vocab_size=220,
        model_type="unigram",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **{f"{name}_piece": piece for name, piece in pieces.items()},
        **{f"{name}_id": index for index, name in enumerate(pieces)},
    )
    config = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def train_brackets(folder: Path) -> int:
    """tokenizer.json as ModernBERT ships it, a blank eaten before [MASK]; its size."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        AWKWARD * 3, vocab_size=500, min_frequency=1, show_progress=False
    )
    made = Tokenizer.from_str(trained.to_str())
    made.normalizer = NFC()
    names = {name: f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    made.add_special_tokens(
        [AddedToken(t, lstrip=n == "mask", normalized=False) for n, t in names.items()]
    )
    ends = [(names[n], made.token_to_id(names[n])) for n in ("cls", "sep")]
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made.get_vocab_size()


def make_modernbert(folder: Path, **changed: Any) -> Any:
    """A tiny random ModernBERT; sentences are longer than its window."""
    rows = train_brackets(folder)
    ids = {"cls": rows - 4, "bos": rows - 4, "sep": rows - 3, "eos": rows - 3}
    settings = {f"{name}_token_id": index for name, index in ids.items()} | {
        "pad_token_id": rows - 2,
        "max_position_embeddings": 256,
        "local_attention": 8,
        **SIZE,
        **changed,
    }
    config = transformers.ModernBertConfig(vocab_size=rows + 3, **settings)
    return transformers.ModernBertForMaskedLM(config)


def make_source(folder: Path, kind: str) -> Path:
    """A tiny random Hugging Face directory."""
    folder.mkdir()
    torch.manual_seed(1)
    if kind in SEQ2SEQ:
        model: Any = make_seq2seq(folder, kind)
    elif kind == "roberta":
        train_bpe(folder, "Roberta")
        rows = len(json.loads((folder / "vocab.json").read_text()))
        config = transformers.RobertaConfig(
            vocab_size=rows, max_position_embeddings=258, type_vocab_size=1, **SIZE
        )
        model = transformers.RobertaForMaskedLM(config)
    elif kind in DEBERTA:
        model = make_deberta(folder, kind)
    elif kind == "modernbert":
        model = make_modernbert(folder)
    else:
        train_wordpiece(folder, cased=kind.startswith("bert-cased"))
        rows = len((folder / "vocab.txt").read_text("utf-8").split("\n")) - 1
        # A table with more rows than tokens, as padded vocabularies have.
        config = transformers.BertConfig(
            vocab_size=rows + 3, max_position_embeddings=256, **SIZE
        )
        model = transformers.BertModel(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms are not trivial either
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


SEQ2SEQ = ["bart", "mbart"]


def make_release(folder: Path, family: str = "bart") -> Path:
    """model.pt, dict.txt and GPT-2's BPE files, tiny, as fairseq ships them."""
    folder.mkdir()
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        AWKWARD * 3, vocab_size=400, min_frequency=1, show_progress=False
    )
    trained.save_model(str(folder))
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    numbers = list(json.loads((folder / "encoder.json").read_text()).values())
    random.Random(0).shuffle(numbers)
    lines = [f"{number} 1" for number in [*numbers, "madeupword0000"]]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    dictionary.add_symbol("<mask>")
    args = argparse.Namespace(
        **{
            "arch": f"{family}_large",
            "max_epoch": 3,
            "task": "denoising",
            **ENCODER,
            **DECODER,
        }
    )
    FAMILIES[family].complete(args)
    bare = argparse.Namespace(
        source_dictionary=dictionary, target_dictionary=dictionary
    )
    state = FAMILIES[family].model.build_model(args, bare).state_dict()
    torch.save({"args": args, "model": state}, folder / "model.pt")
    return folder


# --- XLM-R and CamemBERT --------------------------------------------------------------

#: Words that tokenisers get wrong: scripts that join, compose or have no blanks, forms
#: that are not composed, compatibility forms, what nobody sees, and special tokens.
SCRIPTS = [
    *("The", "cat", "can't", "déjà-vu", "Ångström", "naïve", "straße", "İstanbul"),
    *(
        "हिन्दी",
        "क्षत्रिय",
        "ज़रूरत",
        "क़लम",
        "কলকাতা",
        "தமிழ்",
        "తెలుగు",
        "ಕನ್ನಡ",
        "ગુજરાતી",
        "ਪੰਜਾਬੀ",
    ),
    *("ภาษาไทย", "น้ำ", "กำลัง", "ພາສາລາວ", "မြန်မာ", "ខ្មែរ", "བོད་ཡིག", "ᠮᠣᠩᠭᠣᠯ", "አማርኛ"),
    *(
        "中文字",
        "繁體",
        "𠜎",
        "日本語",
        "カタカナ",
        "ｶﾀｶﾅ",
        "が",
        "か\u3099",
        "ﾊﾞ",
        "～",
        "㎏s",
    ),
    *("한국어", "\u1112\u1161\u11ab", "Việt", "Vie\u0323\u0302t", "Vi\u1ec7t"),
    *("العربية", "اَلْعَرَبِيَّةُ", "ﷺ", "ﻻ", "می\u200cخواهم", "اردو", "עברית"),
    *("שָׁלוֹם", "ש\u05c1\u05b8", "م\u0651\u064e"),
    *("русский", "й", "и\u0306", "Ελληνικά", "ὕψος", "հայերեն", "ქართული", "ᏣᎳᎩ"),
    *("e\u0301", "o\u0308\u0304", "Z\u0351\u036b\u0343a\u0350l", "\u0301", "a\u0336"),
    *("🙂", "👍🏽", "👩‍👩‍👧", "🇫🇷", "❤️", "1️⃣", "🏴\U000e0067\U000e0062\U000e007f", "𝕳𝖊"),
    *("①", "ﬁn", "½", "²", "™", "…", "℻", "ＦＵＬＬ", "Ａ\u0301", "▁", "▁▁", "_"),
    *("\u3000", "\u00a0", "\u2003", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad"),
    *("\u202e", "\u2028", "\t", "\n", "\r\n", "\x07", "\x7f", "\x00", "\ufffd"),
    *("<s>", "</s>", "<pad>", "<unk>", "<mask>", "<s>NOTUSED", "[CLS]", "&amp;"),
    *("3.14", "$5", "50%", "---", "?!", '"', "http://a.b/c?d=e", "@user", "#tag"),
]


def many_scripts(count: int = 1000) -> list[str]:
    """Sentences of those words, with blanks between, around and missing."""
    rng = random.Random(5)
    made = list(SCRIPTS)
    while len(made) < count:
        words = rng.choices(SCRIPTS, k=rng.randint(1, 8))
        made.append("".join(word + rng.choice(("", *"   ", "  ")) for word in words))
    return made


def train_pieces(folder: Path) -> Path:
    """sentencepiece.bpe.model, as XLM-R and CamemBERT ship it."""
    corpus = [t for t in many_scripts(600) if not set(t) & {"\0", "\n"}]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=420,
        model_type="unigram",
        character_coverage=0.999,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return folder / "sentencepiece.bpe.model"


#: transformers' name of each type that has pieces.
PIECED = {"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}


def make_pieced(folder: Path, kind: str, purpose: str = "ForMaskedLM") -> Path:
    """A tiny random XLM-R or CamemBERT without tokenizer.json."""
    folder.mkdir()
    train_pieces(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": f"{PIECED[kind]}Tokenizer"})
    )
    rows = len(transformers.AutoTokenizer.from_pretrained(folder))
    config = getattr(transformers, f"{PIECED[kind]}Config")(
        vocab_size=rows, max_position_embeddings=258, type_vocab_size=1, **SIZE
    )
    torch.manual_seed(1)
    model = getattr(transformers, PIECED[kind] + purpose)(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def make_pieced_release(folder: Path, kind: str) -> Path:
    """model.pt, dict.txt and sentencepiece.bpe.model, tiny, as fairseq ships them.

    CamemBERT's dict.txt names the special tokens again, and those rows are used.
    """
    folder.mkdir()
    pieces = sentencepiece.SentencePieceProcessor(str(train_pieces(folder)))
    special = 3 if kind == "camembert" else 0
    names = [pieces.id_to_piece(i) for i in range(3 - special, len(pieces))]
    marks = [" #fairseq:overwrite"] * special + [""] * len(names)
    lines = [f"{name} 9{mark}" for name, mark in zip(names, marks, strict=False)]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    dictionary.add_symbol("<mask>")
    args = argparse.Namespace(
        arch="roberta_base", task="multilingual_masked_lm", **ENCODER
    )
    FAMILIES["roberta"].complete(args)
    bare = argparse.Namespace(
        source_dictionary=dictionary, target_dictionary=dictionary
    )
    state = FAMILIES["roberta"].model.build_model(args, bare).state_dict()
    torch.save({"args": args, "model": state}, folder / "model.pt")
    return folder


# --- MPNet and other small encoders ---------------------------------------------------

#: Spellings that some tokeniser takes for a token of its own.
SPECIAL_WORDS = ["<unk>", "[UNK]", "<mask>", "[MASK]", "<s>", "[CLS]", "[SEP]", "<pad>"]
#: The five that a WordPiece vocabulary begins with.
_FIRST_WORDS = {
    "MPNet": ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"],
}
#: Every form: transformers' class, and what its configuration says.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "mpnet": ("MPNet", {"max_position_embeddings": 202}),
    "mpnet-relu": ("MPNet", {"max_position_embeddings": 202, "hidden_act": "relu"}),
    "electra": ("Electra", {"embedding_size": 12, "layer_norm_eps": 1e-6}),
    "electra-wide": ("Electra", {"embedding_size": 24, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", {"activation": "gelu"}),
    "distilbert-waves": (
        "DistilBert",
        {"activation": "relu", "sinusoidal_pos_embds": True},
    ),
    "albert": ("Albert", {"embedding_size": 12}),
    "albert-groups": (
        "Albert",
        {"embedding_size": 24, "num_hidden_groups": 2, "hidden_act": "gelu"},
    ),
    "bert-one-type": ("Bert", {"type_vocab_size": 1}),
}
#: DistilBERT's names of what SIZE says.
_DISTILBERT = {
    "dim": SIZE["hidden_size"],
    "n_layers": SIZE["num_hidden_layers"],
    "n_heads": SIZE["num_attention_heads"],
    "hidden_dim": SIZE["intermediate_size"],
    "initializer_range": SIZE["initializer_range"],
}


def make_small(folder: Path, kind: str, purpose: str = "Model", **more: Any) -> Path:
    """A tiny random directory of one of those."""
    folder.mkdir()
    classes, settings = SMALL[kind]
    rows = _small_vocabulary(folder, classes)
    size = _DISTILBERT if classes == "DistilBert" else SIZE
    given = {"max_position_embeddings": 200, **size, **settings, **more}
    config = getattr(transformers, f"{classes}Config")(vocab_size=rows, **given)
    torch.manual_seed(1)
    model = getattr(transformers, classes + purpose)(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def _small_vocabulary(folder: Path, classes: str) -> int:
    """vocab.txt alone, as the first of their kind were published; its lines.

    ALBERT's is a sentencepiece model.
    """
    if classes == "Albert":
        return _albert_vocabulary(folder)
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    first = _FIRST_WORDS.get(classes, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator(
        [t for t in many_scripts(100) if not set(t) & {"\0", "\n"}] + AWKWARD,
        **{"vocab_size": 600, "min_frequency": 1, "show_progress": False},
        special_tokens=first,
    )
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(w for w, _ in words) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "tokenizer_class": f"{classes}Tokenizer"})
    )
    return len(words)


def _albert_vocabulary(folder: Path) -> int:
    pieces = {"pad": "<pad>", "unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]"}
    corpus = [t for t in many_scripts(300) if not set(t) & {"\0", "\n"}]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=420,
        model_type="unigram",
        character_coverage=0.999,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        control_symbols=["[MASK]"],
        **{f"{name}_piece": piece for name, piece in pieces.items()},
        **{f"{name}_id": index for index, name in enumerate(pieces)},
    )
    config = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(transformers.AutoTokenizer.from_pretrained(folder))
