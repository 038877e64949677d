"""Raw files in, token ids and labels out."""

from .cache import encode_cached
from .dataset import SentenceDataset
from .ragged import Encoded, Ragged
from .readers import Example, find_file, read_text
from .sampling import halves, stratified_subset
from .tables import read_table
from .tokenizing import SentenceTokenizer

__all__ = [
    "Encoded",
    "Example",
    "Ragged",
    "SentenceDataset",
    "SentenceTokenizer",
    "encode_cached",
    "find_file",
    "halves",
    "read_table",
    "read_text",
    "stratified_subset",
]
