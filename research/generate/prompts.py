"""Prompts as a model was trained to read them, and text out of what it answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from research.generate.decoding import Prompt
from research.generate.settings import Decoding
from research.objectives.completion import Completion
from research.objectives.mixture import Mixture, R, S
from research.objectives.prefix import Prefix
from research.objectives.seq2seq import Seq2Seq
from research.objectives.span_corruption import SpanCorruption
from research.types import Objective, Structure, UserError, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Reader(NamedTuple):
    """What it takes to turn text into a model's prompt and its answer into text."""

    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    structure: Structure
    objective: Objective | None = None  # what it was trained for; None: not known, as of a folder from elsewhere
    start: int | None = None  # what an encoder-decoder's decoder begins with
    stop: tuple[int, ...] = ()  # ids that end a text

    @property
    def bidirectional(self) -> bool:
        """Whether prompts are read in both directions, as a prefix LM's prefix is."""
        return isinstance(self.objective, Prefix) or getattr(self.objective, "bidirectional", False)

    def prompt(self, text: str) -> Prompt:
        """Return what the model reads of `text`.

        A decoder reads it as it stands; nothing at all is the beginning of a document. An encoder reads it with its
        end token, after UL2's mode token where the model knows those. Who was trained to fill sentinels in is asked to
        fill one in after a text that has none. Who was fine-tuned on prompts reads it in the same template.

        Raises:
            UserError: The prompt is empty, and the tokenizer has no token that begins a document.
        """
        words = self.vocabulary
        if isinstance(self.objective, Seq2Seq | Completion):
            text = _filled(self.objective.prompt, text)
        if self.structure != "encoder-decoder":
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # some would end the prompt
            if not ids and words.eos is None:
                raise UserError("the prompt is empty, and the tokenizer has no token that begins a document")
            return Prompt(tuple(ids or [words.eos]))
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.objective is None or isinstance(self.objective, Seq2Seq):
            ids = self.tokenizer(text)["input_ids"]
            ids = ids if words.eos is None or ids[-1:] == [words.eos] else [*ids, words.eos]
            return Prompt((self._start(),), tuple(ids))
        marked = bool(np.isin(ids, words.sentinels).any())
        if not marked and isinstance(self.objective, SpanCorruption | Mixture):
            ids = [*ids, int(words.sentinels[0])]
        if isinstance(self.objective, Mixture):
            ids = [int(words.modes[R if marked else S]), *ids]
        return Prompt((self._start(),), (*ids, words.eos))

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
        forbidden.
        """
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


def _filled(template: str, text: str) -> str:
    """Return the prompt that `template` makes of a source.

    Raises:
        UserError: It reads other columns too: those are in records alone.
    """
    try:
        return template.format(source=text)
    except (KeyError, IndexError) as error:
        raise UserError(f"the model reads {template!r}, of records with {error}: use predict with a file of them") from None
