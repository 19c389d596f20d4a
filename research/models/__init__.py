"""Models: the transformer, its presets, and the names under which others store them.

This module and the families' tables import no jax: `create`, `parameter_count` and the like come from
`research.models.build`, `logits` and `output_projection` from `research.models.heads`.
"""

from __future__ import annotations

import difflib

from research.models import bart, bert, gpt2, roberta, t5
from research.models import arch as transformers
from research.models import ladder, ngram
from research.models.arch import Arch
from research.models.ladder import FeedForward, Recurrent
from research.models.ngram import Ngram
from research.types import UserError

ARCHITECTURES = {"transformer": Arch, "recurrent": Recurrent, "feed-forward": FeedForward, "n-gram": Ngram}
"""What `Run.arch` may be, by the name that its JSON carries."""

FAMILIES = {"bert": bert, "roberta": roberta, "gpt2": gpt2, "t5": t5, "bart": bart}


def validate(arch: Arch | FeedForward | Recurrent | Ngram) -> None:
    """Refuse an architecture that cannot be built, with the errors of its own `validate`."""
    room = {Arch: transformers, Ngram: ngram}.get(type(arch), ladder)
    room.validate(arch)


def presets() -> dict[str, Arch]:
    """Return every preset by its name; those called nano have vocab_size 0, to be set from the tokenizer."""
    return {name: arch for family in FAMILIES.values() for name, arch in family.PRESETS.items()}


def preset(name: str) -> Arch:
    """Return the architecture called `name`: the published model as it is pre-trained, with its language-model head.

    Raises:
        UserError: No preset has this name; the message gives the nearest.
    """
    table = presets()
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no model preset {name!r}: did you mean {near!r}? All: {', '.join(table)}")
    return table[name]
