"""Models registered with fairseq."""

import os

# Else every gradient of a table of words is paid for by the page, a twentieth of an
# update's time. torch looks when it makes its first tensor on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Else oneDNN keeps a thousand compiled products of bf16 matrices, one for each number
# of tokens that a batch has had, and a process grows to half as much memory again; the
# same number hardly comes again. It looks at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
