"""Runs of n-gram models: counted in one pass instead of trained, and kept, evaluated and reported as all others."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import numpy as np

from research.config import Run, check, to_json
from research.data.batches import Rows
from research.data.cache import hash_file
from research.data.corpus import Prepared
from research.data.packing import Corpus
from research.data.tokenizer import save as save_tokenizer
from research.models import ngram_file
from research.models.arpa import read_arpa
from research.models.ngram import NgramModel
from research.models.smoothing import estimate
from research.tasks.prepare import prepared_for
from research.train import memory, metrics
from research.train.evaluate import UNIGRAM
from research.train.lock import alone
from research.train.progress import documents_read
from research.train.session import rows_of, with_vocabulary
from research.train.units import Losses, scores
from research.types import UserError

MODEL = "model.npz"  # in a run's folder


def train(run: Run, folder: pathlib.Path) -> None:
    """Estimate the model of `run` in `folder`, and evaluate it on the validation split.

    There are no checkpoints: a run that is killed begins anew, as counting 100 million tokens takes minutes.

    Raises:
        UserError: The configuration cannot work, or there is no text; as `estimate` and `read_arpa`.
    """
    check(run, resolved=True)
    with documents_read() as progress:
        prepared = prepared_for(run, progress=progress)
    resolved = with_vocabulary(run, prepared.vocabulary, run.data.tokenizer.path or "the tokenizer trained on this text")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "another train"):
        save_tokenizer(prepared.tokenizer, folder / "tokenizer")
        began = time.perf_counter()
        corpus = prepared.corpora["train"][0]
        counted = f"counting n-grams of {len(corpus.tokens):,} tokens, up to {run.arch.order} words"
        print(f"reading n-grams from {run.arch.arpa}" if run.arch.arpa else counted, flush=True)
        model = made(resolved, prepared)
        if model.order < run.arch.order and not run.arch.arpa:
            print(f"no document has n-grams of more than {model.order} words: the model is of that order", flush=True)
        resolved = dataclasses.replace(resolved, arch=dataclasses.replace(resolved.arch, order=model.order))
        metrics.drop_scores(folder)
        ngram_file.save(model, folder / MODEL)
        unigram = unigram_nll(corpus, model.size)
        np.save(folder / UNIGRAM, unigram)
        metrics.describe(
            folder,
            to_json(run),
            fingerprints={
                "data": prepared.fingerprint,
                "tokenizer": prepared.tokenizer_fingerprint,
                **prepared.parts,
            },
            resolved=to_json(resolved),
            parameters=model.parameters,
            trainable=model.parameters,
            flops_per_step=None,
            estimated=model.facts,
        )
        with metrics.Metrics(folder, run.tensorboard) as log:
            log.cut(-1)
            read = None if run.arch.arpa else len(corpus.tokens)  # an ARPA file does not say of what it was counted
            taken = {"step": 0, "tokens": read, "elapsed": time.perf_counter() - began}
            rows = rows_of(resolved, prepared, "validation")
            found = scores(losses(model, rows), rows, unigram)
            log.write({"kind": "evaluation", **taken, "split": "validation", **found})
            log.write({"kind": "end", **taken})
    print(f"{model.parameters:,} n-grams; validation perplexity {found['perplexity']:.2f}", flush=True)


def made(run: Run, prepared: Prepared) -> NgramModel:
    """Return the model that `run.arch` describes: read from its ARPA file, or estimated of the training text."""
    arch, words, tokenizer = run.arch, prepared.vocabulary, prepared.tokenizer
    if words.eos is None:
        raise UserError("the tokenizer has no token that ends a text, which n-grams begin and end with: use another")
    if arch.arpa:
        spellings = tokenizer.convert_ids_to_tokens(list(range(words.size)))
        model, _ = read_arpa(arch.arpa, spellings, words.eos, tokenizer.unk_token_id)
        facts = model.facts | {"xxh3": hash_file(pathlib.Path(arch.arpa))}  # of which file of that name
        return dataclasses.replace(model, cache=arch.cache, cache_sizes=arch.cache_sizes, facts=facts)
    text, held_out = prepared.corpora["train"][0], prepared.corpora["validation"][0]
    spoken = ~words.special
    spoken[np.unique(text.tokens)] = True  # of special tokens those that texts have: the end
    if tokenizer.unk_token_id is not None:
        spoken[tokenizer.unk_token_id] = True  # other texts have unknown words, also where this one has none
    held = (held_out.tokens, held_out.starts) if arch.smoothing == "jelinek-mercer" else None
    room = memory.of_machine()
    return estimate(arch, text.tokens, text.starts, eos=words.eos, vocab=spoken, held_out=held, room=room)


def losses(model: NgramModel, rows: Rows) -> Losses:
    """Return the loss of each token of a split, float64[N], as `units.by_token` does of models that read rows.

    Scored is what those score: all tokens but the first, before which nothing stands.
    """
    (corpus,) = rows.corpora
    nll, weights = -model.score(corpus.tokens, corpus.starts), np.ones(len(corpus.tokens), np.float32)
    nll[:1], weights[:1] = 0, 0
    return Losses(nll, weights)


def unigram_nll(corpus: Corpus, size: int) -> np.ndarray:
    """Return float64[size]: -log of each token's share among the training targets, as `evaluate.unigram_nll`."""
    counts = 1.0 + np.bincount(corpus.tokens[1:], minlength=size)
    return np.log(counts.sum()) - np.log(counts)
