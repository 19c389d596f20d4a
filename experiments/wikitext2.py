"""The data of the experiments on WikiText-2: the hub's, or a local copy under TERCET_DATA."""

import os

from experiments import local
from research.data.cleaning import Cleaning
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer

TITLE = r"^ = [^=].* = $"


def data(tokenizer: str, **fields) -> Data:
    """Return WikiText-2, an article a document, in the pieces of the published `tokenizer`, with `fields` replaced.

    Where TERCET_DATA is set, its folders wikitext2 and ../tokenizers are read. That edition writes rare words as <unk>,
    which becomes the tokenizer's unknown token; the hub's is the raw one.
    """
    if os.environ.get("TERCET_DATA"):
        source, published = local.source("wikitext2", boundary=TITLE), local.tokenizer(tokenizer)
    else:
        source = Source("Salesforce/wikitext", name="wikitext-2-raw-v1", boundary=TITLE)
        published = Tokenizer(tokenizer)
    return Data(
        sources=(source,),
        cleaning=Cleaning(wikitext=True),
        tokenizer=published,
        unknown="<unk>",
        **{"length": 128} | fields,
    )
