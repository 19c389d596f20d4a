"""Runs of n-gram models: counted in one pass instead of trained, and kept, evaluated and reported as all others."""

from __future__ import annotations

import math
import pathlib
import time
from typing import Any

import numpy as np

from research.config import Run, check, to_json
from research.data.batches import Rows
from research.data.corpus import Prepared
from research.data.packing import Corpus
from research.data.tokenizer import save as save_tokenizer
from research.models import ngram_file
from research.models.arpa import read_arpa
from research.models.ngram import NgramModel
from research.models.smoothing import estimate
from research.tasks.prepare import prepared_for
from research.train import metrics
from research.train.evaluate import UNIGRAM
from research.train.progress import documents_read
from research.train.session import rows_of, with_vocabulary
from research.train.units import Losses
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
    save_tokenizer(prepared.tokenizer, folder / "tokenizer")
    began = time.perf_counter()
    corpus = prepared.corpora["train"][0]
    print(f"counting n-grams of {len(corpus.tokens):,} tokens, up to {run.arch.order} words", flush=True)
    model = made(resolved, prepared)
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
        taken = {"step": 0, "tokens": len(corpus.tokens), "elapsed": time.perf_counter() - began}
        found, _ = scores(model, rows_of(resolved, prepared, "validation"), unigram)
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
        model, _ = read_arpa(arch.arpa, spellings, words.eos)
        return model
    text, held_out = prepared.corpora["train"][0], prepared.corpora["validation"][0]
    spoken = ~words.special
    spoken[np.unique(text.tokens)] = True  # of special tokens those that texts have: the end, the unknown word
    held = (held_out.tokens, held_out.starts) if arch.smoothing == "jelinek-mercer" else None
    return estimate(arch, text.tokens, text.starts, eos=words.eos, vocab=spoken, held_out=held)


def scores(model: NgramModel, rows: Rows, unigram: np.ndarray | None) -> tuple[dict[str, Any], Losses]:
    """Return how good `model` is on a split, as `evaluate.scores` says it of others, and the loss of each token.

    Scored is what models that read rows score: all tokens but the first of the split, before which nothing stands.
    """
    losses = [_losses(model, corpus) for corpus in rows.corpora]
    nll, weights = (np.concatenate(parts) for parts in zip(*losses, strict=True))
    count = float(weights.sum())
    loss = float(np.sum(nll * weights) / max(count, 1e-8))
    found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "scored": int(count)}
    spelled = sum(int(corpus.bytes[1:].sum()) for corpus in rows.corpora)
    if spelled:
        found["bits_per_byte"] = loss * count / math.log(2) / spelled
    if unigram is not None:
        tokens = np.concatenate([corpus.tokens for corpus in rows.corpora])
        found["unigram_loss"] = float(np.sum(unigram[tokens] * weights) / max(count, 1e-8))
    return found, Losses(nll.astype(np.float32), weights)


def _losses(model: NgramModel, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    weights = np.ones(len(corpus.tokens), np.float32)
    weights[:1] = 0
    return -model.score(corpus.tokens, corpus.starts), weights


def unigram_nll(corpus: Corpus, size: int) -> np.ndarray:
    """Return float64[size]: -log of each token's share among the training targets, as `evaluate.unigram_nll`."""
    counts = 1.0 + np.bincount(corpus.tokens[1:], minlength=size)
    return np.log(counts.sum()) - np.log(counts)
