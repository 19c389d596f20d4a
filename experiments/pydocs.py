"""The data of the experiments on the embedded corpus: docstrings of Python and of the pinned packages."""

from dataclasses import replace

from research.data.cleaning import Cleaning
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer


def data(**fields) -> Data:
    """Return pydocs in rows of 128 tokens of a byte-level BPE of 4,096, with `fields` replaced.

    The first 4 million characters of the training modules, in the order of their hashes: a fifth of all, read in
    seconds. Packages repeat themselves and each other, which cleaning takes out; so it does what overlaps with the
    validation text. `--data.sources.0.limit 0` reads everything.
    """
    usual = Data(
        sources=(Source("pydocs", limit=4.0),),
        cleaning=Cleaning(exact_duplicates=True, near_duplicates=0.8, overlap=13, overlap_share=0.1),
        tokenizer=Tokenizer(kind="bpe", size=4096),
        length=128,
    )
    return replace(usual, **fields)
