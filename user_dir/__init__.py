"""Regularised fine-tuning as a fairseq user-dir plugin.

Importing this package changes nothing and imports nothing heavy; :mod:`.regularizers`
and :mod:`.optim` need torch alone. Importing :mod:`.tasks`, as fairseq does with every
``--user-dir``, registers everything with fairseq and makes the changes to it that
:mod:`.patches` lists.
"""

__version__ = "0.2.0"
