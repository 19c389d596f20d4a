"""A model for EleutherAI's lm-evaluation-harness, whose tasks and figures are those of its own `hf` models.

    python -m research.generate.lm_eval MODEL --tasks lambada_openai --limit 100

MODEL is a folder in Hugging Face's layout (what `python -m research export` writes) or a hub id; what follows are the
options of `lm-eval run`. Or in Python:

    import lm_eval
    from research.generate.lm_eval import Tercet
    results = lm_eval.simple_evaluate(model=Tercet("runs/exported", batch_size=32), tasks=["lambada_openai"])
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data.tokenizer import vocabulary
from research.generate.decoding import Prompt, bucket, generate
from research.generate.scores import likeliest
from research.generate.settings import Decoding
from research.interop.config_json import ends
from research.interop.folder import Pretrained, load, locate
from research.models.heads import project
from research.models.transformer import Transformer
from research.types import UserError, did_you_mean

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    missing = UserError(f"lm-evaluation-harness cannot be imported ({error}): pip install lm_eval")
    raise SystemExit(f"error: {missing}") if __name__ == "__main__" else missing from None

CHUNK_BYTES = 64 * 2**20  # of float32 logits at a time: some cache misses, no memory peak
NEW_TOKENS = 256  # where a task does not say, as the harness
SETTINGS = {  # their names of what Decoding has
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
}


class Row(NamedTuple):
    """What one request asks of the model."""

    tokens: list[int]  # read by the decoder
    source: list[int]  # read by the encoder, if there is one
    targets: list[int]  # what follows each of the last of `tokens`: what is scored


@register_model("tercet")
class Tercet(TemplateLM):
    """A decoder or encoder-decoder that answers the harness's requests as its `hf` models do.

    A decoder scores a continuation after its context; an encoder-decoder reads the context with its encoder. What is
    longer than the model loses its beginning. Unlike `hf`, a decoder's context never ends in the end token that some
    tokenizers add, for the continuation would then follow the end.
    """

    def __init__(
        self,
        pretrained: str | Pretrained,
        batch_size: int = 16,
        max_length: int = 0,
        prefix_token_id: int | None = None,
        start: int | None = None,
        stop: Sequence[int] = (),
        device: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        """Take the model.

        Args:
            pretrained: A folder in Hugging Face's layout, a hub id, or what `research.load` returns.
            batch_size: Most rows computed at the same time.
            max_length: Most tokens that the model reads; 0: as many as it has positions, or was trained with.
            prefix_token_id: Stands for an empty context; None: bos, else eos, as the harness has it. A decoder that was
                trained here with byte-level BPE has met no bos: give its eos.
            start: What an encoder-decoder's decoder begins with; None: as the folder says.
            stop: Ids that end a text; none: as the folder says, else eos.
            device, max_batch_size: Passed by the harness to every model; not used, as jax has its own devices.

        Raises:
            UserError: An encoder alone, no tokenizer, no first token, or a size that cannot be.
        """
        super().__init__()
        if isinstance(pretrained, str):
            folder = locate(pretrained)
            pretrained = load(folder)
            first, last = ends(folder, pretrained.arch.vocab_size)
            start, stop = first if start is None else start, stop or last
        self.model, self.params, self.tokenizer, self.arch = pretrained
        if self.arch.structure == "encoder":
            raise UserError(f"a {self.arch.family} gives no text a likelihood: use a decoder or encoder-decoder")
        if self.tokenizer is None:
            raise UserError("the model has no tokenizer: put the files of the one it was trained with into its folder")
        self.backend = "causal" if self.arch.structure == "decoder" else "seq2seq"  # the harness's words
        if start is None and self.backend == "seq2seq":
            raise UserError("config.json has no decoder_start_token_id: add it, or give start=ID")
        self.start, self.stop = start, tuple(stop) or tuple(_known(self.tokenizer.eos_token_id))
        self.batch_size = _positive("batch_size", batch_size)
        self.max_length = _positive("max_length", max_length or self.arch.max_length)
        if self.arch.positions == "learned" and self.max_length > self.arch.max_length:
            raise UserError(f"max_length is {self.max_length}, but the model has {self.arch.max_length} positions")
        known = _known(prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        if not known:
            raise UserError("the tokenizer has no bos and no eos to stand for an empty context: give prefix_token_id")
        self._prefix = known[0]
        self._size = vocabulary(self.tokenizer).size
        self._ends = self.tokenizer.encode("a")[-1:] == _known(self.tokenizer.eos_token_id)

    @property
    def eot_token_id(self) -> int | None:
        """The id that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands for an empty context."""
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of `string`, with what the tokenizer adds to a text unless told not to.

        None adds nothing to what begins with the prefix token already, and no end to what a decoder goes on from.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode([self._prefix]))
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids[:-1] if self._ends and add_special_tokens and self.backend == "causal" else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether greedy decoding makes it) of each (name, context, continuation)."""
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].source), len(rows[i].tokens)), reverse=True)
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for some in _batches(order, self.batch_size, "log-likelihoods", disable_tqdm):
            batch = arrays([rows[i] for i in some], self.batch_size, self.max_length)
            logp, greedy = (np.asarray(x).tolist() for x in score(self.params, *batch, model=self.model))
            for i, *answer in zip(some, logp, greedy, strict=False):  # the batch ends in rows that nobody asked for
                answers[i] = answer[0], answer[1]
                if requests[i][0] is not None:  # a window of a longer text has no name
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
        return answers

    def _row(self, context: list[int], continuation: list[int]) -> Row:
        if len(continuation) > self.max_length:
            raise UserError(
                f"a continuation has {len(continuation)} tokens, but the model reads {self.max_length}: "
                "choose another task, or one of rolling log-likelihoods"
            )
        context = context or [self._prefix]
        if self.backend == "seq2seq":
            return Row([self.start, *continuation][:-1] or [self.start], context[-self.max_length :], continuation)
        return Row([*context, *continuation][-self.max_length - 1 :][:-1] or context, [], continuation)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in nats: in windows of the model's length, each token once."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(tokens, self._prefix, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (logp, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[i] += logp
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text made after each context, up to the first of its `until` strings or the model's end token.

        Raises:
            UserError: Settings of a task that have no equal here, or leave no room for its contexts.
        """
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        met: Counter[tuple[str, str]] = Counter()
        for i, (context, wanted) in enumerate(request.args for request in requests):
            settings = json.dumps(wanted, sort_keys=True)
            groups[settings, met[context, settings]].append(i)
            met[context, settings] += 1
        texts = [""] * len(requests)
        for (settings, again), members in groups.items():
            until, decoding = settings_of(json.loads(settings))
            # Random bits are named by the prompt and the seed: a task that asks the same again wants another sample.
            decoding = replace(decoding, seed=again, stop=(*self.stop, *self._stops(until)))
            prompts = {i: self._prompt(requests[i].args[0], decoding.max_new_tokens) for i in members}
            order = sorted(members, key=lambda i: len(prompts[i].source or prompts[i].tokens), reverse=True)
            for some in _batches(order, self.batch_size, "texts", disable_tqdm):
                batch = [prompts[i] for i in some]
                made = generate(self.model, self.params, batch, decoding, batch_size=self.batch_size, size=self._size)
                for i, (best, *_) in zip(some, made, strict=True):
                    texts[i] = before(self.tokenizer.decode(best.tokens, skip_special_tokens=True), until)
                    self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return texts

    def _prompt(self, context: str, new: int) -> Prompt:
        ids = self.tok_encode(context) or [self._prefix]
        if self.backend == "seq2seq":
            return Prompt((self.start,), tuple(ids[-self.max_length :]))
        if new >= self.max_length:
            raise UserError(
                f"the task makes {new} tokens, but the model reads {self.max_length}, which leaves no room: "
                f"lower max_gen_toks, as by --gen_kwargs max_gen_toks={self.max_length // 2}"
            )
        return Prompt(tuple(ids[new - self.max_length :]))

    def _stops(self, until: Iterable[str]) -> tuple[int, ...]:
        """Return the ids whose own text holds one of `until`: what comes after them would be cut off.

        A string that several tokens spell does not stop the decoding; the text is cut all the same.
        """
        return tuple(i for i, text in enumerate(self._texts) if any(stop in text for stop in until))

    @functools.cached_property
    def _texts(self) -> list[str]:
        """The text that each id adds to what stands before it: by itself, a token may read otherwise."""
        first = self.tokenizer.encode("a", add_special_tokens=False)
        start = len(self.tokenizer.decode(first, skip_special_tokens=True))
        pairs = [[*first, i] for i in range(self._size)]
        return [text[start:] for text in self.tokenizer.batch_decode(pairs, skip_special_tokens=True)]


@functools.partial(jax.jit, static_argnames="model")
def score(
    params: Any, inputs: Mapping[str, jax.Array], targets: jax.Array, real: jax.Array, *, model: Transformer
) -> tuple[jax.Array, jax.Array]:
    """Return the log-probability of each row of targets, float32[B], and whether each was the likeliest, bool[B].

    Args:
        params: Of the model.
        inputs: Its keyword arguments, with the K positions that are scored as `select`.
        targets: int32[B, K].
        real: bool[B, K], which of them count.
        model: A decoder or encoder-decoder.
    """
    hidden = model.apply({"params": params}, **inputs)  # [B, K, D]

    def place(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, target = part  # [B, D], [B]
        logits = project(model.arch, params, states)  # [B, V]
        picked = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
        return picked - jax.nn.logsumexp(logits, axis=-1), likeliest(logits) == target

    together = max(1, CHUNK_BYTES // (4 * model.arch.vocab_size * len(targets)))
    logp, best = jax.lax.map(place, (hidden.swapaxes(0, 1), targets.T), batch_size=together)
    return jnp.sum(jnp.where(real.T, logp, 0.0), axis=0), jnp.all(best | ~real.T, axis=0)


def arrays(rows: Sequence[Row], most: int, longest: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return what `score` takes of `rows`: (inputs, targets int32[B, K], bool[B, K]), of rounded-up sizes.

    Args:
        rows: At most `most` of them; the last is repeated up to a power of two.
        most: Rows at a time.
        longest: Tokens that the model can read.
    """
    rows = [*rows, *[rows[-1]] * (min(most, 1 << (len(rows) - 1).bit_length()) - len(rows))]
    tokens, source, targets = (_pad(part, longest) for part in zip(*rows, strict=True))
    places = [range(len(row.tokens) - len(row.targets), len(row.tokens)) for row in rows]
    inputs = {"tokens": tokens, "select": _pad(places, longest)}
    if rows[0].source:
        inputs |= {"source": source, "source_segments": _mask([row.source for row in rows], source).astype(np.int32)}
    return inputs, targets, _mask([row.targets for row in rows], targets)


def _pad(rows: Sequence[Sequence[int]], longest: int) -> np.ndarray:
    """Return `rows` as int32[B, L], zeros on the right, where L is rounded up to one of few."""
    width = min(bucket(max(map(len, rows))), longest)
    return np.asarray([[*row, *[0] * (width - len(row))] for row in rows], np.int32)


def _mask(rows: Sequence[Sequence[int]], padded: np.ndarray) -> np.ndarray:
    """Return which of `padded` are not padding, bool[B, L]."""
    return np.arange(padded.shape[1]) < np.asarray([len(row) for row in rows])[:, None]


def settings_of(wanted: Mapping[str, Any]) -> tuple[list[str], Decoding]:
    """Return the strings that end a text and the decoding that a task's generation_kwargs ask for.

    Raises:
        UserError: A setting that has no equal here.
    """
    wanted = dict(wanted)
    until = wanted.pop("until", None) or []
    new = wanted.pop("max_new_tokens", None)
    new = wanted.pop("max_gen_toks", new) or NEW_TOKENS
    sample = wanted.pop("do_sample", None)
    sample = wanted.get("temperature", 0.0) > 0 if sample is None else sample
    if not sample:  # the harness says 0.0 then
        wanted.pop("temperature", None)
    for name in wanted.keys() - SETTINGS.keys():
        near = did_you_mean(name, SETTINGS) or f": known are {', '.join(SETTINGS)}"
        raise UserError(f"generation_kwargs: {name} is not supported{near}")
    method = "sample" if sample else "beam" if wanted.get("num_beams", 1) > 1 else "greedy"
    decoding = Decoding(method=method, max_new_tokens=int(new), **{SETTINGS[name]: wanted[name] for name in wanted})
    return [until] if isinstance(until, str) else [text for text in until if text], decoding


def before(text: str, until: Iterable[str]) -> str:
    """Return `text` up to the first of the strings `until` in it."""
    return text[: min((text.find(stop) for stop in until if stop in text), default=len(text))]


def _batches(order: Sequence[int], size: int, what: str, quiet: bool) -> Iterator[Sequence[int]]:
    """Yield `order` in pieces of at most `size`, showing on a terminal how far it is."""
    from rich.console import Console
    from rich.progress import track

    pieces = [order[i : i + size] for i in range(0, len(order), size)]
    console = Console(stderr=True)
    yield from track(pieces, f"{len(order)} {what}", console=console, disable=quiet or not console.is_terminal)


def _known(*ids: int | None) -> list[int]:
    return [id_ for id_ in ids if id_ is not None]


def _positive(name: str, value: Any) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise UserError(f"{name} is {value}: it must be a whole number, at least 1")
    return int(value)


def main(arguments: list[str]) -> int:
    """Run the harness's own command line on the model that `arguments` begin with, and return an exit status."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    model = json.dumps({"pretrained": arguments[0]})  # as key=value, a comma in the path would end it
    options = ["--model", "tercet", "--model_args", model, "--batch_size", "16"]
    sys.argv = ["lm-eval", "run", *options, *arguments[1:]]
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
