"""From sources to corpora: clean, train or load the tokenizer, tokenise; each stage cached by what it was made from."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from research.data.batches import PERIOD, Order, Rows, shares
from research.data.cache import cached, fingerprint
from research.data.cleaning import Cleaning, clean
from research.data.packing import Corpus, Framing, Progress, read, write
from research.data.sources import Source, documents
from research.data.sources import fingerprint as source_fingerprint
from research.data.tokenizer import Tokenizer, load, save, train, vocabulary
from research.data.tokenizer import fingerprint as tokenizer_fingerprint
from research.types import Split, UserError, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1  # of every folder below; a new number makes every cached folder unfound


@dataclass(frozen=True)
class Data:
    """What is read, and how it becomes rows of tokens."""

    sources: tuple[Source, ...] = (Source(),)
    """Where text comes from; several make a mixture by their weights."""
    cleaning: Cleaning = Cleaning()
    """What is mended or left out before anything else sees the text."""
    tokenizer: Tokenizer = Tokenizer()
    """A published tokenizer, or one trained on the cleaned training text."""
    length: int = 128
    """Tokens a row advances through the text; rows also read the objective's lookahead."""
    cross_documents: bool = True
    """Let attention and positions run across the documents packed into a row, as GPT-2 did."""
    framing: Framing = "template"
    """Special tokens between documents: the tokenizer's own template, ending in an eos; or none (T5)."""
    unknown: str = ""
    """How the text spells unknown words (WikiText and PTB: <unk>), read as the tokenizer's unknown token (GPT-2's is
    its <|endoftext|>; document boundaries are kept apart from tokens, so they stay right)."""
    order: Order = "shuffled"
    """Rows shuffled anew each epoch, or a contiguous stream per row of the batch (recurrent models)."""
    temperature: float = 1.0
    """Mixture weights are raised to 1/temperature: 1 keeps them, larger values even them out."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that training and evaluation read of their data."""

    data: Data
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    corpora: dict[Split, tuple[Corpus, ...]]  # one of each source
    reports: dict[Split, tuple[dict[str, Any], ...]]  # of cleaning, one of each source
    fingerprint: str  # of all the tokens, and of the tokenizer
    parts: dict[Split, str]  # fingerprints of the tokens of each split
    tokenizer_fingerprint: str

    def rows(
        self, split: Split, lookahead: int = 0, batch_size: int = 1, seed: int = 0, order: Order | None = None
    ) -> Rows:
        """Return the rows of a split, of length + lookahead tokens."""
        return Rows(
            corpora=self.corpora[split],
            length=self.data.length,
            lookahead=lookahead,
            batch_size=batch_size,
            seed=seed,
            order=self.data.order if order is None else order,
            cross_documents=self.data.cross_documents,
            weights=tuple(source.weight for source in self.data.sources),
            temperature=self.data.temperature,
            pad=self.vocabulary.pad or 0,
        )


def prepare(
    data: Data, splits: Sequence[Split] = ("train", "validation"), progress: Progress | None = None
) -> Prepared:
    """Return the tokenizer and the corpora of `splits`, building what the cache does not hold.

    The cache has three kinds of folders: `text` (cleaned documents, so that another tokenizer does not clean again, at
    the cost of a copy of the text), `tokenizers` (trained ones) and `corpora` (token arrays). Their names are
    fingerprints of source, cleaning, tokenizer and framing. The row length is not among them: the arrays do not
    depend on it, since rows are cut when they are looked up.

    Raises:
        UserError: no source; a source, the tokenizer or the cache cannot be used, as their own messages say.
    """
    if not data.sources:
        raise UserError("no source of text: give --data.sources at least one")
    progress = progress or (lambda what, done: None)
    wanted = list(splits) if data.tokenizer.path or "train" in splits else ["train", *splits]
    texts = {split: [_text(data, source, split, progress) for source in data.sources] for split in wanted}
    backend = load(data.tokenizer.path) if data.tokenizer.path else _trained(data, texts["train"], progress)
    known = vocabulary(backend)
    name = tokenizer_fingerprint(backend)
    folders = {
        split: [_corpus(text, data, backend, known, name, progress) for text in texts[split]] for split in splits
    }
    corpora = {
        split: tuple(read(folder, f"{at.path} ({split})") for folder, at in zip(each, data.sources, strict=True))
        for split, each in folders.items()
    }
    return Prepared(
        data=data,
        tokenizer=backend,
        vocabulary=known,
        corpora=corpora,
        reports={split: tuple(corpus.meta["report"] for corpus in each) for split, each in corpora.items()},
        fingerprint=fingerprint(name, {split: [folder.name for folder in each] for split, each in folders.items()}),
        parts={split: fingerprint([folder.name for folder in each]) for split, each in folders.items()},
        tokenizer_fingerprint=name,
    )


class Text(NamedTuple):
    """Cleaned documents of one split of one source: a name at once, a folder when it is needed."""

    name: str
    folder: Callable[[], pathlib.Path]  # with documents.jsonl (one JSON string a line) and report.json

    def documents(self) -> Iterator[str]:
        """Yield the documents; see `valid` in packing for the surrogates."""
        with open(self.folder() / "documents.jsonl", encoding="utf-8", errors="surrogatepass") as lines:
            yield from map(json.loads, lines)


def _text(data: Data, source: Source, split: Split, progress: Progress) -> Text:
    evaluation = _evaluation(data, split)
    fields = asdict(data.cleaning)
    if split != "train" or not data.cleaning.overlap:
        fields |= {"overlap": 0, "overlap_share": 0}
    name = fingerprint(
        FORMAT,
        source_fingerprint(source, split),
        fields,
        [source_fingerprint(other, held) for other, held in evaluation],
    )

    def build(folder: pathlib.Path) -> None:
        held_out = itertools.chain.from_iterable(documents(other, held) for other, held in evaluation)
        cleaning = Cleaning(**fields)
        cleaned = clean(documents(source, split), cleaning, evaluation=held_out, progress=progress)
        with open(folder / "documents.jsonl", "w", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in cleaned)
        report = cleaned.report.to_json()
        if not report["kept"]:
            raise UserError(f"{source.path} ({split}): cleaning left no document; loosen its filters")
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    return Text(name, lambda: cached("text", name, build))


def _evaluation(data: Data, split: Split) -> list[tuple[Source, Split]]:
    """Return what training text must not overlap with: validation and test of every source that has them."""
    found: list[tuple[Source, Split]] = []
    if split == "train" and data.cleaning.overlap:
        for source in data.sources:
            for held in ("validation", "test"):
                try:
                    source_fingerprint(source, held)
                except UserError:  # there is no such split; what is wrong with a split that there is shows when read
                    continue
                found.append((source, held))
    return found


def _trained(data: Data, texts: list[Text], progress: Progress) -> PreTrainedTokenizerFast:
    """Return the tokenizer trained on the first part of each training text, its length in proportion to its weight."""
    parts = shares([source.weight for source in data.sources], data.temperature) / PERIOD
    name = fingerprint(FORMAT, asdict(data.tokenizer), [text.name for text in texts], parts.tolist())

    def sample() -> Iterator[str]:
        for text, part in zip(texts, parts, strict=True):
            room = part * data.tokenizer.sample
            for document in text.documents():
                if room <= 0:
                    break
                yield document
                room -= len(document)

    def build(folder: pathlib.Path) -> None:
        for text in texts:
            text.folder()  # cleaned before training is announced
        progress("training the tokenizer", 0)
        save(train(data.tokenizer, sample()), folder)

    return load(str(cached("tokenizers", name, build)))


def _corpus(
    text: Text, data: Data, backend: PreTrainedTokenizerFast, known: Vocabulary, tokens: str, progress: Progress
) -> pathlib.Path:
    """Return the folder of the arrays that `text` makes with the tokenizer of fingerprint `tokens`."""

    def build(folder: pathlib.Path) -> None:
        source = text.folder()
        meta = write(folder, text.documents(), backend, known, data.framing, data.unknown, progress)
        meta["report"] = json.loads((source / "report.json").read_text(encoding="utf-8"))
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    return cached("corpora", fingerprint(FORMAT, text.name, tokens, data.framing, data.unknown), build)
