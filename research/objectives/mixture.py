"""UL2's mixture of denoisers: each row is corrupted lightly, heavily or at its end, and told so by a mode token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from research.objectives import checks, spans
from research.objectives.prefix import Prefix
from research.objectives.span_corruption import SpanCorruption, lay_spans, render
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary

R, S, X = range(3)  # the order of Vocabulary.modes


@dataclass(frozen=True)
class Mixture:
    """Mixture of denoisers (Tay et al., 2022, section 3.1): R, S and X, one drawn for each row.

    R corrupts short spans lightly; X corrupts long spans, or many; S hides the end of each document in one span, so
    that it is a prefix language model. The seven settings are those of UL2's Table 1, which it mixes evenly. Each
    document's source begins with its row's mode token. Spans are rotated by a random offset (`SpanCorruption.roll`): a
    single long span would otherwise always be the end of the row, which is S.

    All denoisers read the whole row and share static lengths, the largest that any of them (of a share above 0) needs
    for a row of one document; `padding` gives the share of those lengths that is padding.

    >>> import jax, numpy as np
    >>> from research.types import Vocabulary
    >>> ids = np.arange(30)
    >>> vocabulary = Vocabulary(size=30, pad=0, eos=1, mask=None, sentinels=np.array([29, 28, 27, 26, 25]),
    ...     modes=np.array([24, 23, 22]), special=(ids < 3) | (ids > 21), continues=ids < 0, ends_sentence=ids < 0)
    >>> record = {"tokens": np.arange(10, 20), "segments": np.ones(10, int)}
    >>> objective = Mixture(r_share=0.0, s_share=1.0, x_share=0.0)
    >>> example = jax.jit(lambda key: objective(key, record, vocabulary))(jax.random.key(0))
    >>> example.inputs["source"].tolist()
    [23, 10, 11, 12, 13, 14, 15, 16, 17, 29, 1]
    >>> example.targets.tolist()
    [29, 18, 19, 1]
    """

    r_share: float = 2 / 7
    """Share of rows with a regular denoiser; the three shares sum to 1."""
    s_share: float = 1 / 7
    """Share of rows with the sequential denoiser, a prefix language model."""
    x_share: float = 4 / 7
    """Share of rows with an extreme denoiser."""
    r_densities: tuple[float, ...] = (0.15, 0.15)
    """Share of the tokens hidden by each regular denoiser; all are equally likely."""
    r_mean_spans: tuple[float, ...] = (3.0, 8.0)
    """Mean length of the spans of each regular denoiser, in tokens."""
    x_densities: tuple[float, ...] = (0.5, 0.5, 0.15, 0.5)
    """Share of the tokens hidden by each extreme denoiser; all are equally likely."""
    x_mean_spans: tuple[float, ...] = (3.0, 8.0, 64.0, 64.0)
    """Mean length of the spans of each extreme denoiser, in tokens."""
    s_shortest: float = 0.75
    """Shortest prefix of the sequential denoiser as a share of its document."""
    s_longest: float = 0.75
    """Longest prefix of the sequential denoiser as a share of its document."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder-decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("pad", "eos", "sentinels", "modes")
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    start: ClassVar[str] = "pad"

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field, the length of rows or the vocabulary cannot work."""
        checks.row(self, length, 2, vocabulary)
        for name in ("r_share", "s_share", "x_share"):
            checks.within(name, getattr(self, name), 0, 1)
        total = self.r_share + self.s_share + self.x_share
        if abs(total - 1) > 1e-6:
            raise UserError(f"objective.r_share + s_share + x_share is {total:g}: it must be 1")
        for kind in "rx":
            densities, means = getattr(self, f"{kind}_densities"), getattr(self, f"{kind}_mean_spans")
            if not len(densities) == len(means) > 0:
                raise UserError(
                    f"objective.{kind}_densities has {len(densities)} values and {kind}_mean_spans {len(means)}: give "
                    f"both the same number, at least 1"
                )
            for density, mean in zip(densities, means, strict=True):
                checks.within(f"{kind}_densities", density, 0, 1)
                checks.within(f"{kind}_mean_spans", mean, 1, np.inf)
        checks.interval("s_shortest", self.s_shortest, "s_longest", self.s_longest)
        for denoiser in self._spans:
            denoiser.check(length, vocabulary)

    @property
    def _prefix(self) -> Prefix:
        return Prefix(self.s_shortest, self.s_longest)

    @property
    def _spans(self) -> tuple[SpanCorruption, ...]:
        """Return R's denoisers, then X's."""
        densities, means = self.r_densities + self.x_densities, self.r_mean_spans + self.x_mean_spans
        return tuple(SpanCorruption(*pair, roll=True) for pair in zip(densities, means, strict=True))

    def _shares(self) -> list[float]:
        """Return the share of rows of each denoiser: S, then R's, then X's."""
        r, x = len(self.r_densities), len(self.x_densities)
        return [self.s_share, *[self.r_share / r] * r, *[self.x_share / x] * x]

    def _needed(self, length: int) -> list[Lengths]:
        """Return the lengths that each denoiser needs of a full row of one document, mode token and eos included."""
        needed = []
        prefixes = {self._prefix.split(share, length) for share in (self.s_shortest, self.s_longest)}
        target = length - min(prefixes) + 2
        needed.append(Lengths(max(prefixes) + 3, target, target))
        for denoiser in self._spans:
            source, target, scored = denoiser.lengths(length)
            needed.append(Lengths(source + 1, target, scored))
        return needed

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens, which all denoisers share."""
        drawn = [need for need, share in zip(self._needed(length), self._shares(), strict=True) if share > 0]
        return Lengths(*(max(sizes) for sizes in zip(*drawn, strict=True)))

    def padding(self, length: int) -> float:
        """Return the expected share of source and target slots that are padding, of full rows of one document."""
        source, target, _ = self.lengths(length)
        used = [need.source + need.target for need in self._needed(length)]
        return 1 - float(np.dot(self._shares(), used)) / (source + target)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of a row of T tokens; inputs and targets as of SpanCorruption."""
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        length = tokens.shape[0]
        self.check(length, vocabulary)
        which, *random = spans.random(key, 1, length, length, 1)
        chosen = spans.draw(which, np.cumsum(self._shares()))[0]
        eligible = spans.is_eligible(tokens, segments, vocabulary)

        # The denoisers differ in two counts, so one table of them does what a switch would compute seven times: under
        # vmap every branch of a switch is computed.
        index = jnp.maximum(chosen - 1, 0), jnp.sum(segments > 0)
        hidden = jnp.stack([spans.table(denoiser.hidden, length) for denoiser in self._spans])[index]
        parts = jnp.stack([spans.table(denoiser.parts, length) for denoiser in self._spans])[index]
        more = jnp.maximum(jnp.sum(spans.opens(segments)) - 1, 0)  # documents: a mode token takes the place of a span
        most = max(denoiser.parts(length) for denoiser in self._spans)
        inside = lay_spans(random, eligible, segments, hidden, parts - more, most, roll=True)
        end = eligible & ~self._prefix.in_prefix(random[0], segments)
        noise = jnp.where(chosen == 0, end, inside)

        modes = [S, *[R] * len(self.r_densities), *[X] * len(self.x_densities)]
        mode = jnp.asarray(vocabulary.modes, tokens.dtype)[jnp.asarray(modes)[chosen]]
        return render(noise, tokens, segments, vocabulary, self.lengths(length), mode)
