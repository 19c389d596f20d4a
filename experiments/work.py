"""One piece of work that training programs are compared on: a model, a batch, and what is predicted of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from research.types import UserError, Vocabulary

if TYPE_CHECKING:
    from research.config import Run
    from research.data.batches import Rows
    from research.objectives.span_corruption import SpanCorruption

FAMILIES = {"mlm": "bert-tiny", "clm": "gpt2", "seq2seq": "t5-small"}  # objective -> preset whose sizes are replaced
MASKED = 0.15  # share of a row's positions that mlm scores
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
SPECIAL, SENTINELS = 3, 100  # ids at the beginning and at the end that texts are not made of


@dataclass(frozen=True)
class Work:
    """Updates of a BERT (mlm), GPT-2 (clm) or T5 v1.0 (seq2seq) with random weights on random tokens.

    Each is a forward and a backward pass with dropout, clipping to a global norm of 1, and AdamW at 1e-4.
    """

    objective: str
    batch: int = 16
    length: int = 256  # tokens that a row has for the encoder, or for the decoder where there is no encoder
    targets: int = 0  # of a row of seq2seq; 0: a quarter of its length
    vocabulary: int = 8192
    width: int = 256
    layers: int = 4  # of the encoder, and again of the decoder
    heads: int = 4
    dropout: float = 0.1  # wherever the family has it; with it our attention is no fused kernel on GPUs
    dtype: str = "float32"
    remat: bool = False

    @property
    def scored(self) -> int:
        """Positions of a row that the loss is taken of."""
        if self.objective == "mlm":
            return round(MASKED * self.length)
        return self.length if self.objective == "clm" else self.targets or self.length // 4

    @property
    def positions(self) -> int:
        """Rows of the table of positions, where there is one."""
        return max(512, self.length)


def run_of(work: Work) -> Run:
    """Return the run whose updates are this work.

    Raises:
        UserError: It cannot be done, as heads that do not divide the width; the message names a field of the run.
    """
    from research.config import Compute, Optimizer, Run, Schedule, check
    from research.data.corpus import Data
    from research.models import preset
    from research.objectives.causal import Causal
    from research.objectives.masked import Masked

    published = preset(FAMILIES[work.objective])
    arch = replace(
        published,
        **{name: work.dropout for name in DROPOUTS if getattr(published, name)},
        vocab_size=work.vocabulary,
        width=work.width,
        layers=work.layers,
        heads=work.heads,
        head_width=0,
        mlp_width=4 * work.width,
        max_length=work.positions,
    )
    length, objective = work.length, Masked(rate=MASKED) if work.objective == "mlm" else Causal()
    if work.objective == "seq2seq":
        objective, length = spans_of(work.length, work.scored)
    run = Run(
        name=f"bench_{work.objective}",
        arch=arch,
        objective=objective,
        data=Data(length=length),
        optimizer=Optimizer(learning_rate=1e-4, clip=1.0),
        schedule=Schedule("constant", warmup=0),
        compute=Compute(work.dtype, work.remat),
        steps=1_000_000,
        batch_size=work.batch,
    )
    check(run, resolved=True)
    objective.check(length, vocabulary_of(work))
    return run


def spans_of(source: int, target: int) -> tuple[SpanCorruption, int]:
    """Return the span corruption, of spans of about three tokens, and the length of the rows that it turns into exactly
    `source` and `target` tokens: 568 tokens for T5's 512 and 114.

    Raises:
        UserError: There is none for these.
    """
    from research.objectives.span_corruption import SpanCorruption

    spans = max(1, round((target - 1) / 4))  # a span's tokens are hidden, and a sentinel stands for it on both sides
    hidden = target - 1 - spans
    row = source - 1 + hidden - spans
    if not spans <= min(hidden, row - hidden):
        raise UserError(f"no spans turn a row into {source} and {target} tokens: give at least 3 targets, or fewer")
    return SpanCorruption(density=hidden / row, mean_span=hidden / spans), row


def vocabulary_of(work: Work) -> Vocabulary:
    """Return a vocabulary of ordinary tokens, but for pad, eos, mask, and sentinels at the end.

    Raises:
        UserError: There is no room for it.
    """
    if work.vocabulary <= SPECIAL + SENTINELS:
        least = SPECIAL + SENTINELS + 1
        raise UserError(f"a vocabulary of {work.vocabulary} has no ordinary token: give {least} or more")
    ids = np.arange(work.vocabulary, dtype=np.int32)
    sentinels = ids[: -SENTINELS - 1 : -1]
    special = (ids < SPECIAL) | (ids >= sentinels[-1])
    no = np.zeros(work.vocabulary, bool)
    return Vocabulary(work.vocabulary, 0, 1, 2, sentinels, ids[:0], special, no, no)


def rows_of(work: Work, run: Run, tokens: int = 1 << 20) -> Rows:
    """Return rows of one text of random ordinary `tokens`, in batches, as `run` reads them."""
    from research.data.batches import Rows
    from research.data.packing import Corpus

    draw = np.random.default_rng(0)
    ids = draw.integers(SPECIAL, work.vocabulary - SENTINELS, tokens, np.uint32)
    starts = np.zeros(tokens, np.uint8)
    starts[0] = 1
    corpus = Corpus("random", ids.astype(np.uint16 if work.vocabulary <= 1 << 16 else np.uint32), starts, starts, {})
    return Rows((corpus,), run.data.length, run.objective.lookahead, work.batch)
