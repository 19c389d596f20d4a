"""N-gram models in plain Python, from the formulas of the papers: slow, with dictionaries, one word at a time."""

from collections import Counter, defaultdict

BEGIN = "<s>"  # a word of its own here


def documents(tokens, starts, eos):
    """Return the documents as lists of tokens."""
    found = []
    for at, token in enumerate(tokens):
        if at == 0 or tokens[at - 1] == eos or (starts is not None and starts[at]):
            found.append([])
        found[-1].append(token)
    return found


def histories(tokens, starts, eos):
    """Return, for every token, the tuple of all that its document has before it, `<s>` first."""
    return [(BEGIN, *document[:at]) for document in documents(tokens, starts, eos) for at in range(len(document))]


def ngrams(tokens, starts, eos, order):
    """Return a Counter of tuples for each order up to `order`; index 0 is unused."""
    found = [Counter() for _ in range(order + 1)]
    for history, word in zip(histories(tokens, starts, eos), tokens, strict=True):
        for n in range(1, order + 1):
            if n - 1 <= len(history):
                found[n][(*history[len(history) - n + 1 :], word)] += 1
    return found


class Oracle:
    """p(history, word) of one smoothing; `words` are those that may be predicted."""

    def __init__(self, smoothing, order, counts, words, k=1.0, weights=()):
        self.smoothing, self.order, self.words, self.k, self.weights = smoothing, order, words, k, weights
        self.counts = list(counts)
        if "kneser-ney" in smoothing:
            for n in range(1, order):
                before = defaultdict(set)
                for gram in counts[n + 1]:
                    before[gram[1:]].add(gram[0])
                self.counts[n] = Counter({g: c if g[0] == BEGIN else len(before[g]) for g, c in counts[n].items()})
        self.totals = [defaultdict(int) for _ in range(order + 1)]
        self.kinds = [defaultdict(Counter) for _ in range(order + 1)]  # how many successors occur 1, 2, 3+ times
        for n in range(1, order + 1):
            for gram, times in self.counts[n].items():
                self.totals[n][gram[:-1]] += times
                self.kinds[n][gram[:-1]][min(times, 3)] += 1
        self.discounts = [self._discount(n) for n in range(order + 1)]

    def _discount(self, n):
        have = Counter(self.counts[n].values())
        if self.smoothing in ("absolute-discounting", "kneser-ney"):
            d = have[1] / (have[1] + 2 * have[2]) if have[1] and have[2] else 0.5
            return {1: d, 2: d, 3: d}
        if self.smoothing == "modified-kneser-ney":
            if have[1] and have[2] and have[3]:
                y = have[1] / (have[1] + 2 * have[2])
                d = {i: i - (i + 1) * y * have[i + 1] / have[i] for i in (1, 2, 3)}
                if min(d.values()) > 0:
                    return d
            return {1: 0.5, 2: 1.0, 3: 1.5}
        return None

    def __call__(self, history, word):
        """Return the probability of `word` after `history`, all of its document with `<s>` first."""
        history = tuple(history)[max(0, len(history) - self.order + 1) :] if self.order > 1 else ()
        if self.smoothing == "add-k":
            n = len(history) + 1
            return (self.counts[n][(*history, word)] + self.k) / (self.totals[n][history] + self.k * len(self.words))
        return self._interpolated(history, word)

    def _interpolated(self, history, word):
        n = len(history) + 1
        lower = self._interpolated(history[1:], word) if history else 1 / len(self.words)
        total, times = self.totals[n][history], self.counts[n][(*history, word)]
        if not total:
            return lower
        if self.smoothing == "maximum-likelihood":
            return times / total
        if self.smoothing == "jelinek-mercer":
            return self.weights[n - 1] * times / total + (1 - self.weights[n - 1]) * lower
        discount = self.discounts[n]
        left = sum(discount[kind] * many for kind, many in self.kinds[n][history].items()) / total
        return (times - discount[min(times, 3)] if times else 0) / total + left * lower
