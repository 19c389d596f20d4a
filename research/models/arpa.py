r"""ARPA files: n-gram models as text, read and written as KenLM and SRILM do.

    \data\
    ngram 1=10001
    ngram 2=273211

    \1-grams:
    -99	<s>	-0.7366597
    -1.4042702	</s>	0
    ...
    \end\

A line is a base-10 logarithm of a probability, the words, and the logarithm of the history's back-off weight. `<s>` and
`</s>` are one id here (see `research.models.counts`): `<s>` is the first word of an n-gram, `</s>` the last. Words that
the file does not have are `<unk>` to whoever reads it, so the tokenizer's unknown word is written as that.
"""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from research.models.counts import lookup, pieces
from research.models.ngram import Level, NgramModel
from research.models.ngram_file import whole
from research.types import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
SPACE = set(" \t\n\r\v\f\0")  # what ends a word in a file
KENLM = range(2, 7)  # orders that KenLM reads, unless it is built for more
AT_ONCE = 1 << 18  # lines in memory at once while reading and writing: about 100 MB
LOG_10 = math.log(10)
NEVER = -99  # the logarithm that stands for 0: of `<s>`, and of `</s>` where no sentence ends


def write_arpa(model: NgramModel, words: Sequence[str], path: str | os.PathLike, unknown: int | None = None) -> None:
    """Write `model` to `path` (gzipped if it ends in .gz), whole or not at all; `words` are the V spellings of its ids.

    The end of a sentence is written `</s>` and the id `unknown` `<unk>`, whatever their spellings, and ids that are
    never predicted not at all. A model without an unknown word leaves `<unk>` out: KenLM then warns and gives unknown
    words 10^-100.

    Raises:
        UserError: The model has a cache or words without probability (maximum likelihood), which the format cannot
            say; or a spelling is empty, has white space or is that of another word.
    """
    if model.cache:
        raise UserError("an ARPA file cannot hold a cache: set arch.cache to 0")
    if not all(np.isfinite(values).all() for level in model.levels[1:] for values in level[1:]) or not np.isfinite(
        model.levels[0].backoffs
    ).all():
        raise UserError("an ARPA file cannot hold probabilities of zero (maximum-likelihood): change arch.smoothing")
    spoken = np.isfinite(model.levels[0].log_probs)
    names = _spellings(words, spoken, model.eos, unknown)
    spoken[model.eos] = True
    sizes = [int(spoken.sum()) + 1, *(len(level.keys) for level in model.levels[1:])]
    with whole(pathlib.Path(path)) as unfinished, _writing(unfinished, str(path).endswith(".gz")) as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
        for n, level in enumerate(model.levels, 1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                backoff = model.levels[0].backoffs[model.eos] / LOG_10 if model.order > 1 else 0.0
                file.write(f"{NEVER}\t{BEGIN}" + (f"\t{backoff:.8g}\n" if model.order > 1 else "\n"))
            for piece in pieces(len(level.keys), AT_ONCE):
                ids = _ids(model.levels, n, np.arange(piece.start, piece.stop))
                kept = spoken[ids[:, 0]] if n == 1 else slice(None)
                columns = [names[ids[kept, at]] for at in range(n)]
                if n > 1:
                    columns[0] = np.where(ids[kept, 0] == model.eos, BEGIN, columns[0])
                grams = map(" ".join, zip(*columns, strict=True))
                probs = np.maximum(level.log_probs[piece][kept] / LOG_10, NEVER).tolist()
                if n == model.order:
                    file.writelines(f"{prob:.8g}\t{gram}\n" for prob, gram in zip(probs, grams, strict=True))
                else:
                    weights = np.where(ids[kept, -1] == model.eos, 0, level.backoffs[piece][kept] / LOG_10).tolist()
                    rows = zip(probs, grams, weights, strict=True)
                    file.writelines(f"{prob:.8g}\t{gram}\t{weight:.8g}\n" for prob, gram, weight in rows)
        file.write("\n\\end\\\n")


def read_arpa(
    path: str | os.PathLike, words: Sequence[str] = (), eos: int = 0, unknown: int | None = None
) -> tuple[NgramModel, list[str]]:
    """Return the model that an ARPA file holds, gzipped if `path` ends in .gz, and the spellings of its ids.

    Ids are those of `words`, if given, of which `eos` ends sentences and `unknown` is the file's `<unk>`; others of
    them are never predicted. Where there is no unknown word, n-grams of `<unk>` are passed over, as none can come. Else
    ids are numbered as in the file, where `</s>` comes first.

    Raises:
        UserError: The file is cut short or no ARPA file, a count is wrong, a line has another number of fields or what
            is no number, a word is unknown, an n-gram comes twice or its history never; the message names the line.
    """
    special = _special(eos, unknown)
    names = [special.get(at, word) for at, word in enumerate(words)] or [END]
    known = {name.encode("utf-8", "surrogateescape"): at for at, name in enumerate(names)}
    known |= {name.encode(): at for at, name in special.items()}
    if words and UNKNOWN.encode() in known:
        known.setdefault(UNKNOWN.upper().encode(), known[UNKNOWN.encode()])  # KenLM takes both for it
    eos = known[END.encode()]
    with _Lines(path) as lines:
        sizes = _header(lines)
        levels: list[Level] = []
        for n, size in enumerate(sizes, 1):
            parts = list(_section(lines, n, size, n == len(sizes), names, known, bool(words), levels))
            keys, probs, weights, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
            levels.append(_level(lines, n, keys, probs, weights, numbers, len(names), eos, n == len(sizes)))
        lines.expect("\\end\\")
        lines.finish()
    return NgramModel(tuple(levels), eos, facts={"arpa": os.path.basename(path), "words": sizes[0] - 1}), names


class _Lines:
    """The lines of a file that are not blank, split into fields, with the number of the last one for messages."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.number, self.torn = path, 0, False

    def __enter__(self) -> _Lines:
        try:
            self.file = gzip.open(self.path, "rb") if str(self.path).endswith(".gz") else open(self.path, "rb")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the path") from None
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def next(self, missing: str = "\\end\\: it is cut short, fetch it anew") -> list[bytes]:
        """Return the fields of the next line that has any; the error where there is none says what is `missing`."""
        while line := self._line():
            if fields := line.split():
                return fields
        raise self.wrong(f"the file ends here, without {missing}")

    def expect(self, text: str) -> None:
        """Raise unless the next line is `text`."""
        if (found := self.next()) != [text.encode()]:
            raise self.wrong(f"here is {_shown(found)} instead of {text}: a wrong count in \\data\\ or a damaged file")

    def finish(self) -> None:
        """Read what is left, so that the sum at the end of a gzipped file is compared."""
        while self._line():
            pass

    def _line(self) -> bytes:
        self.number += 1
        try:
            line = self.file.readline()
        except (OSError, EOFError, zlib.error) as error:
            raise self.wrong(f"the file cannot be read on ({error}): fetch it anew") from None
        self.torn = line != b"" and not line.endswith(b"\n")
        return line

    def wrong(self, what: str, number: int | None = None) -> UserError:
        """Return the error that says where and what."""
        cut = "; the file ends in this line: it is cut short, fetch it anew" if self.torn and number is None else ""
        return UserError(f"{self.path}, line {self.number if number is None else number}: {what}{cut}")


def _header(lines: _Lines) -> list[int]:
    r"""Return how many n-grams of each order \data\ promises, and read on to the first of them."""
    while lines.next("\\data\\: this is no ARPA file") != [b"\\data\\"]:
        if lines.number > 1000:
            raise lines.wrong("no \\data\\ so far: this is no ARPA file")
    sizes: list[int] = []
    while (fields := lines.next()) != [b"\\1-grams:"]:
        order, _, size = b"".join(fields[1:]).partition(b"=")
        if fields[0] != b"ngram" or order != str(len(sizes) + 1).encode() or not size.isdigit():
            raise lines.wrong(f"{_shown(fields)} is not 'ngram {len(sizes) + 1}=' and a number, nor \\1-grams:")
        sizes.append(int(size))
    if not sizes:
        raise lines.wrong("\\data\\ counts no n-grams")
    return sizes


def _section(lines, n, size, last, names, known, closed, levels) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield (keys int64, log_probs, backoffs float32, line numbers int64) of one order's lines, many at once.

    New single words are added to `names` and `known` unless the vocabulary is `closed`.
    """
    begin, end = BEGIN.encode(), END.encode()
    passed_over = {UNKNOWN.encode(), UNKNOWN.upper().encode()} - known.keys() if closed else None
    if n > 1:
        lines.expect(f"\\{n}-grams:")
    yield np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    for piece in pieces(size, AT_ONCE):
        ids, probs, weights, numbers = [], [], [], []
        for _ in range(piece.start, piece.stop):
            fields = lines.next()
            if fields[0].startswith(b"\\") and len(fields) == 1:
                found = piece.start + len(probs)
                raise lines.wrong(f"{_shown(fields)} after {found} of the {size} {n}-grams that \\data\\ promises")
            if len(fields) != n + 1 and (len(fields) != n + 2 or last):
                raise lines.wrong(f"{_shown(fields)} is not a number, {n} words" + ("" if last else " and a number"))
            prob, weight = _number(lines, fields[0]), _number(lines, fields[n + 1]) if len(fields) > n + 1 else 0.0
            gram = fields[1 : n + 1]
            if passed_over and not passed_over.isdisjoint(gram):
                continue
            if prob > 0 and gram != [begin]:
                raise lines.wrong(f"{_shown(fields)}: a probability above 1")
            if begin in gram[1:] or end in gram[:-1]:
                raise lines.wrong(f"{_shown(fields)}: {BEGIN} can only come first, {END} only last")
            if n == 1:
                if gram[0] not in known and gram[0] != begin:
                    if closed:
                        raise lines.wrong(f"{_shown(gram)} is not among the {len(names)} words of the vocabulary")
                    known[gram[0]] = len(names)
                    names.append(gram[0].decode("utf-8", "surrogateescape"))
                ids.append(-1 if gram[0] == begin else known[gram[0]])
            else:
                try:
                    ids.append([known[END.encode() if word == begin else word] for word in gram])
                except KeyError as unknown:
                    raise lines.wrong(f"{_shown([unknown.args[0]])} is not among the \\1-grams:") from None
            probs.append(prob)
            weights.append(weight)
            numbers.append(lines.number)
        at = np.array(numbers)
        keys = np.array(ids, np.int64) if n == 1 else _rows(lines, levels, np.array(ids, np.int64), at)
        yield keys, *((np.array(logs) * LOG_10).astype(np.float32) for logs in (probs, weights)), at


def _level(lines, n, keys, probs, weights, numbers, size, eos, last) -> Level:
    """Return the table of one order's lines, sorted."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    twice = np.flatnonzero(np.diff(ordered) == 0)
    if len(twice):
        raise lines.wrong("an n-gram that is there already", int(numbers[order][twice[0] + 1]))
    if n > 1:
        return Level(ordered, probs[order], np.zeros(0, np.float32) if last else weights[order])
    begin = keys == -1
    if not begin.any() or not (keys == eos).any():
        raise lines.wrong(f"the \\1-grams: have no {END if begin.any() else BEGIN}, which sentences need")
    log_probs, backoffs = np.full(size, -np.inf, np.float32), np.zeros(size, np.float32)
    log_probs[keys[~begin]], backoffs[keys[~begin]] = probs[~begin], weights[~begin]
    backoffs[eos] = weights[begin][0]
    return Level(np.arange(size, dtype=np.int64), log_probs, np.zeros(0, np.float32) if last else backoffs)


def _rows(lines: _Lines, levels: list[Level], ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return int64[L]: the keys of n-grams `ids` int64[L, n], whose histories are looked up order by order."""
    size = len(levels[0].keys)
    row = ids[:, 0]
    for level, word in zip(levels[1:], ids[:, 1:-1].T, strict=True):
        row = lookup(level.keys, row * size + word).astype(np.int64)
        if (row < 0).any():
            number = int(numbers[np.argmin(row)])
            raise lines.wrong("the n-gram's first words are no n-gram of the order before", number)
    return row * size + ids[:, -1]


def _ids(levels: Sequence[Level], n: int, rows: np.ndarray) -> np.ndarray:
    """Return int64[M, n]: the words of n-grams."""
    found = np.empty((len(rows), n), np.int64)
    for at in range(n - 1, -1, -1):
        rows, found[:, at] = np.divmod(levels[at].keys[rows], len(levels[0].keys))
    return found


def _special(eos: int, unknown: int | None) -> dict[int, str]:
    """Return how the ids are written that have names of their own; GPT-2's unknown token is its end: that it stays."""
    return ({} if unknown is None else {unknown: UNKNOWN}) | {eos: END}


def _spellings(words: Sequence[str], spoken: np.ndarray, eos: int, unknown: int | None) -> np.ndarray:
    """Return object[V], `words` as they are written, after a look at each that is."""
    if len(words) != len(spoken):
        raise UserError(f"{len(words)} words for an n-gram model of {len(spoken)} ids: give each its spelling")
    special = _special(eos, unknown)
    seen = {BEGIN, *special.values()}
    for at in np.flatnonzero(spoken).tolist():
        word = words[at]
        if at in special:
            continue
        if not word or SPACE & set(word):
            raise UserError(f"word {at}, {word!r}, is empty or has white space, which an ARPA file cannot hold")
        if word in seen:
            raise UserError(f"word {at}, {word!r}, is the spelling of another one: give each word its own")
        seen.add(word)
    return np.array([special.get(at, word) for at, word in enumerate(words)], dtype=object)


def _number(lines: _Lines, text: bytes) -> float:
    try:
        if (found := float(text)) < math.inf:  # and so not NaN
            return found
    except ValueError:
        pass
    raise lines.wrong(f"{_shown([text])} is no number")


def _shown(fields: Sequence[bytes]) -> str:
    text = b" ".join(fields).decode("utf-8", "replace")
    return repr(text if len(text) < 80 else text[:77] + "...")


@contextmanager
def _writing(path: pathlib.Path, zipped: bool) -> Iterator:
    how = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with gzip.open(path, "wt", 6, **how) if zipped else open(path, "w", **how) as file:
        yield file
