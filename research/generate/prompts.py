"""Prompts as a model was trained to read them, and text out of what it answers."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from research.generate.decoding import Prompt
from research.generate.settings import Decoding
from research.objectives.completion import Completion
from research.objectives.mixture import Mixture, R, S
from research.objectives.prefix import Prefix
from research.objectives.seq2seq import Seq2Seq
from research.objectives.span_corruption import SpanCorruption
from research.tasks import TASKS
from research.tasks.coder import Coder
from research.tasks.prompts import fields
from research.tasks.rows import Example
from research.types import Objective, Structure, UserError, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN = 64  # tokens of an answer, where nothing says how long answers are


class Reader(NamedTuple):
    """What it takes to turn text into a model's prompt and its answer into text."""

    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    structure: Structure
    objective: Objective | None = None  # what it was trained for; None: not known, as of a folder from elsewhere
    start: int | None = None  # what an encoder-decoder's decoder begins with
    stop: tuple[int, ...] = ()  # ids that end a text
    coder: Coder | None = None  # what a task's records are read with, and
    length: int = 0  # the tokens of a row of them

    @property
    def bidirectional(self) -> bool:
        """Whether prompts are read in both directions, as a prefix LM's prefix is."""
        return isinstance(self.objective, Prefix) or getattr(self.objective, "bidirectional", False)

    def prompt(self, text: str) -> Prompt:
        """Return what the model reads of `text`.

        A decoder reads it as it stands; nothing at all is the beginning of a document. An encoder reads it with its
        end token, after UL2's mode token where the model knows those. Who was trained to fill sentinels in is asked to
        fill one in after a text that has none. Who was fine-tuned on prompts reads it as the source of a record.

        Raises:
            UserError: The prompt is empty, and the tokenizer has no token that begins a document; or the model reads
                other columns too, which are in records alone.
        """
        words = self.vocabulary
        if isinstance(self.objective, Seq2Seq | Completion):
            if others := [name for name in fields(self.objective.prompt) if name != "source"]:
                asked = f"{self.objective.prompt!r}, of records with {', '.join(map(repr, others))}"
                raise UserError(f"the model reads {asked}: use predict with a file of them")
            read, cut = self.record(self.objective, {"place": "the prompt", "source": text})
            if cut:
                print(f"warning: the prompt was cut to the {self.length} tokens of a row in training", file=sys.stderr)
            return read
        if self.structure != "encoder-decoder":
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # some would end the prompt
            if not ids and words.eos is None:
                raise UserError("the prompt is empty, and the tokenizer has no token that begins a document")
            return Prompt(tuple(ids or [words.eos]))
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.objective is None:
            ids = self.tokenizer(text)["input_ids"]
            ids = ids if words.eos is None or ids[-1:] == [words.eos] else [*ids, words.eos]
            return Prompt((self._start(),), tuple(ids))
        marked = bool(np.isin(ids, words.sentinels).any())
        if not marked and isinstance(self.objective, SpanCorruption | Mixture):
            ids = [*ids, int(words.sentinels[0])]
        if isinstance(self.objective, Mixture):
            ids = [int(words.modes[R if marked else S]), *ids]
        return Prompt((self._start(),), (*ids, words.eos))

    def record(self, objective: Seq2Seq | Completion, example: Example) -> tuple[Prompt, bool]:
        """Return what the model reads of an example of `objective`, as in training, and whether it had to be cut.

        Raises:
            UserError: The objective's template alone is longer than a row.
        """
        (read,) = TASKS[type(objective)].sources(objective, self.coder, self.length, [example])
        if isinstance(objective, Seq2Seq):
            return Prompt((self._start(),), tuple(read.ids)), read.cut
        return Prompt(tuple(read.ids)), read.cut

    def text(self, prompt: Prompt, tokens: tuple[int, ...]) -> str:
        """Return the text of an answer: what follows the prompt, or a source with its sentinels filled in."""
        if self.structure == "encoder-decoder":
            marked = np.isin(prompt.source, self.vocabulary.sentinels).any()
            return self.tokenizer.decode(self.fill(prompt.source, tokens) if marked else tokens, skip_special_tokens=True)
        read = self.tokenizer.decode(prompt.tokens, skip_special_tokens=True)
        whole = self.tokenizer.decode([*prompt.tokens, *tokens], skip_special_tokens=True)  # spaces hang on what is before
        return whole[len(read) :] if whole.startswith(read) else self.tokenizer.decode(tokens, skip_special_tokens=True)

    def spans(self, tokens: tuple[int, ...]) -> dict[int, list[int]]:
        """Return {sentinel: the ids that an answer puts in its place}."""
        spans: dict[int, list[int]] = {}
        now: list[int] | None = None
        for token in tokens:
            if token in self.vocabulary.sentinels:
                now = spans.setdefault(token, [])
            elif now is not None and token not in self.stop:
                now.append(token)
        return spans

    def fill(self, source: tuple[int, ...], tokens: tuple[int, ...]) -> list[int]:
        """Return `source` with each sentinel replaced by what the answer puts in its place."""
        spans = self.spans(tokens)
        return [token for place in source for token in spans.get(place, [place])]

    def settings(self, decoding: Decoding) -> Decoding:
        """Return `decoding` with the model's end tokens, and without the special tokens that it was never shown as text.

        A sentinel is text to who was trained on sentinels. Of a model from elsewhere nothing is known, and nothing
        forbidden. How many tokens are made at most, where that is not said, is what answers had in training.
        """
        answers = self.objective.target_length if isinstance(self.objective, Seq2Seq | Completion) else UNKNOWN
        decoding = dataclasses.replace(decoding, max_new_tokens=decoding.max_new_tokens or answers)
        if self.objective is None:
            return dataclasses.replace(decoding, stop=decoding.stop or self.stop)
        known = {*self.stop, *decoding.stop}
        if isinstance(self.objective, SpanCorruption | Mixture):
            known |= set(self.vocabulary.sentinels.tolist())
        never = tuple(int(i) for i in np.flatnonzero(self.vocabulary.special) if int(i) not in known)
        return dataclasses.replace(
            decoding, stop=decoding.stop or self.stop, forbidden=(*decoding.forbidden, *never)
        )

    def _start(self) -> int:
        if self.start is None:
            raise UserError("the model's config.json has no decoder_start_token_id: add it")
        return self.start
