"""Tokens a second of estimating and scoring n-gram models, beside NLTK's and KenLM's queries, in one run.

Command:  TERCET_DATA=... python -m experiments.bench_ngram [--tokens 10000000] [--peer-tokens 20000] [--json]
Result:   order 5, on two busy cores: 100 million synthetic tokens, 206 million n-grams, in 10 minutes and at most 6.9 GB;
          10 million, 24 million n-grams, in 19 seconds and 1.0 GB. Tokens a second of two idle cores, estimated
          and scored: PTB 1.7 and 3.2 million, WikiText-2 1.4 and 3.5 million; KenLM scores 2.4 and 2.1 million of the
          same probabilities; NLTK estimates 40 to 45 thousand and scores 200 (experiments/results/bench_ngram.jsonl).
Source:   PTB and WikiText-2, words split on white space; --tokens adds a synthetic text of that many, words of a Zipf
          distribution in phrases that come back, so that higher orders grow as they do in text.
Peers:    `pip install nltk kenlm`; one that is not there is left out. NLTK (dictionaries) counts --peer-tokens tokens,
          and scores a hundredth as many; PyPI's kenlm, which cannot estimate, scores the test split by our ARPA file.
Limit:    estimating is sorting; scoring a token is one binary search per order.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.local import FOLDER
from research.types import UserError

COLUMNS = ("data", "tokens", "ngrams", "estimate", "score", "perplexity", "peak MB")
PEERS = ("nltk estimate", "nltk score", "kenlm score")


def main() -> None:
    """Print a table, tokens a second where no unit is given, or a line of JSON for each text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--order", type=int, default=5, help="of modified Kneser-Ney")
    parser.add_argument("--tokens", type=int, default=0, help="of a synthetic text besides; 0: none")
    parser.add_argument("--peer-tokens", type=int, default=20_000, help="that NLTK counts; 0: no NLTK")
    parser.add_argument("--skip", nargs="*", default=[], choices=("ptb", "wikitext2"), help="texts to leave out")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each text instead of the table")
    options = parser.parse_args()
    if not options.json:
        print("".join(f"{column:>14}" for column in (*COLUMNS, *PEERS)))
    for name, train, test, words in texts(options):
        try:
            row = {"data": name, "order": options.order} | measure(train, test, words, options)
        except UserError as error:
            raise SystemExit(f"error: {error}") from None
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            cells = (row.get(column, "-") for column in (*COLUMNS, *PEERS))
            print("".join(f"{cell:>14}" if isinstance(cell, str) else f"{cell:>14,}" for cell in cells), flush=True)


def texts(options) -> Iterator[tuple[str, Any, Any, list[str]]]:
    """Yield the name, the ids of the training and the test split, of which 0 ends lines, and the words of the ids."""
    import numpy as np

    for name in ("ptb", "wikitext2"):
        folder = FOLDER / name
        if name in options.skip:
            continue
        if not folder.is_dir():
            print(f"note: no {folder}, left out", file=sys.stderr)
            continue
        known, found = {"</s>": 0}, []
        for split in ("train", "test"):
            ids: list[int] = []
            with gzip.open(folder / f"{split}.txt.gz", "rt", encoding="utf-8") as file:
                for words in map(str.split, file):
                    ids += [known.setdefault(word, len(known)) for word in words] + [0] * bool(words)
            found.append(np.array(ids, np.uint32))
        yield name, *found, list(known)
    if options.tokens:
        stream = synthetic(options.tokens + 100_000)
        yield "synthetic", stream[:-100_000], stream[-100_000:], ["</s>", *(f"w{at}" for at in range(1, 50_000))]


def synthetic(total: int, size: int = 50_000, phrases: int = 1 << 18):
    """Return uint16[total]: phrases of 4 words, drawn and made by Zipf's law, and words and line ends in them."""
    import numpy as np

    draw = np.random.default_rng(0)
    zipf = np.cumsum(1 / np.arange(1, phrases + 1))
    sample = lambda many, upto: np.searchsorted(zipf[:upto], draw.random(many) * zipf[upto - 1])  # noqa: E731
    table = sample((phrases, 4), size - 1).astype(np.uint16) + 1
    stream = np.empty(total, np.uint16)
    for start in range(0, total, 1 << 21):
        part = stream[start : start + (1 << 21)]
        part[:] = table[sample(len(part) // 4 + 1, phrases)].ravel()[: len(part)]
        noise = draw.random(len(part)) < 0.3
        part[noise] = sample(int(noise.sum()), size - 1) + 1
        part[draw.random(len(part)) < 0.04] = 0
    return stream


def measure(train, test, words: list[str], options) -> dict[str, Any]:
    """Return the row of one text: speeds in tokens a second."""
    import numpy as np

    from research.models.arpa import KENLM
    from research.models.ngram import Ngram
    from research.models.smoothing import estimate

    vocab = np.ones(len(words), bool)
    model, seconds = timed(lambda: estimate(Ngram(order=options.order), train, eos=0, vocab=vocab))
    row = {"tokens": len(train), "ngrams": model.parameters, "estimate": round(len(train) / seconds)}
    row["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # of the process so far
    scores, seconds = timed(lambda: model.score(test))
    row |= {"score": round(len(test) / seconds), "perplexity": round(float(np.exp(-scores.mean())), 2)}
    if options.peer_tokens and (nltk := optional("nltk.lm")):
        row |= by_nltk(nltk, train[: options.peer_tokens], test[: max(1, options.peer_tokens // 100)], options.order)
    if len(train) < 5_000_000 and options.order in KENLM and (kenlm := optional("kenlm")):
        row |= by_kenlm(kenlm, model, scores, test, words)
    return row


def by_nltk(nltk, train, test, order: int) -> dict[str, Any]:
    """Return NLTK's speeds: its interpolated Kneser-Ney, with one fixed discount."""
    lines = [[*("</s>",) * (order - 1), *line, "</s>"] for line in sentences(train)]
    model = nltk.KneserNeyInterpolated(order)
    grams = [[tuple(s[i : i + n]) for n in range(1, order + 1) for i in range(len(s) - n + 1)] for s in lines]
    _, seconds = timed(lambda: model.fit(grams, [word for line in lines for word in line]))
    padded = ["</s>"] * (order - 1) + [str(word) for word in test]
    reads = [(padded[at + order - 1], tuple(padded[at : at + order - 1])) for at in range(len(test))]
    _, spent = timed(lambda: [model.score(word, history) for word, history in reads])
    return {"nltk estimate": round(len(train) / seconds), "nltk score": round(len(test) / spent, 1)}


def by_kenlm(kenlm, model, scores, test, words: list[str]) -> dict[str, Any]:
    """Return KenLM's speed of scoring the lines of `test` by our ARPA file, and how far its scores are from ours."""
    import numpy as np

    from research.models.arpa import write_arpa

    lines = [" ".join(words[int(word)] for word in line) for line in sentences(test)]
    with tempfile.TemporaryDirectory() as folder:
        write_arpa(model, words, f"{folder}/model.arpa")
        theirs = kenlm.Model(f"{folder}/model.arpa")
        found, seconds = timed(lambda: [prob for line in lines for prob, *_ in theirs.full_scores(line)])
    furthest = np.abs(np.array(found) * np.log(10) - scores[: len(found)]).max()
    return {"kenlm score": round(len(found) / seconds), "kenlm difference": float(f"{furthest:.1g}")}


def sentences(ids) -> list[list[str]]:
    """Return the ids of each whole line as strings, without its end."""
    lines: list[list[str]] = [[]]
    for word in ids.tolist():
        if word:
            lines[-1].append(str(word))
        else:
            lines.append([])
    return lines[:-1]


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `make` makes and the seconds it took."""
    started = time.perf_counter()
    made = make()
    return made, time.perf_counter() - started


def optional(name: str):
    """Return a peer's module, or None: peers are installed for this comparison only and are no requirement."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
