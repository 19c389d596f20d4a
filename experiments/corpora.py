"""The corpora of the published recipes as the hub holds them today, in formats that need no code to be read.

Public code of today loads these names, which are tables in Parquet or lines of JSON without a script; none of them was
loaded here, and sizes are those that their pages state. A corpus is fetched, cleaned and tokenized once, into
`TERCET_CACHE`: about 5 bytes a token beside the text itself. For text of your own, name a folder:
`--data.sources.0.path FOLDER`.
"""

from research.data.sources import Source

HELD_OUT = 0.0005  # of documents, where there is no validation split: what nanoGPT holds out of OpenWebText


def wikipedia(weight: float = 1.0) -> Source:
    """Return the English Wikipedia of November 2023, an article a document: about 20 GB."""
    return Source("wikimedia/wikipedia", name="20231101.en", weight=weight, validation="", holdout=HELD_OUT)


def books(weight: float = 1.0) -> Source:
    """Return BookCorpus (Zhu et al., 2015), a chapter a document: about 5 GB, lower-cased and cut into sentences.

    Books follow one another without a mark. Headings begin documents: the one before a book's first takes in its
    beginning.
    """
    boundary = r"^(chapter|prologue|epilogue)\b"
    return Source("rojagtap/bookcorpus", boundary=boundary, weight=weight, validation="", holdout=HELD_OUT)


def openwebtext(weight: float = 1.0) -> Source:
    """Return OpenWebText (Gokaslan and Cohen, 2019), a page a document: about 40 GB, 9 billion tokens of GPT-2's.

    A copy in Parquet: Skylion007/openwebtext holds a script, which datasets 4 refuses to run.
    """
    return Source("dylanebert/openwebtext", weight=weight, validation="", holdout=HELD_OUT)


def news(weight: float = 1.0) -> Source:
    """Return C4's pages of news sites (Raffel et al., 2020; `realnewslike`), a page a document: about 36 GB."""
    return Source("allenai/c4", name="realnewslike", weight=weight)


def c4(share: str = "") -> Source:
    """Return C4 in English (Raffel et al., 2020), a page a document, or its first `share`: 30% is about 240 GB of text.

    The hub's client fetches all of it, 305 GB, and keeps it as tables of 800 GB, whatever the share.
    """
    return Source("allenai/c4", name="en", train=f"train[:{share}]" if share else "train")
