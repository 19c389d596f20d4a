"""Folders of runs as `train` and `evaluate` leave them, made without either."""

import json
import math

import numpy as np

SENTENCES = 200
TEST = "7e57" * 8


def configuration(name="lstm", seed=0, **fields):
    """Return a configuration as JSON; `fields` are dotted paths spelled with two underscores."""
    values = {
        "name": name,
        "arch": {"family": "recurrent", "cell": "lstm", "width": 200, "layers": 2},
        "objective": {"name": "causal"},
        "data": {
            "sources": [{"path": "/data/ptb", "name": "", "train": "train", "test": "test", "share": 1.0}],
            "cleaning": {"wikitext": False, "overlap": 0},
            "tokenizer": {"path": "", "kind": "word"},
            "length": 35,
        },
        "seed": seed,
        "init": {"path": ""},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "best_by": "loss",
        "steps": 2000,
        "log_every": 10,
    }
    for path, value in fields.items():
        *groups, last = path.split("__")
        at = values
        for group in groups:
            at = at[int(group)] if isinstance(at, list) else at.setdefault(group, {})
        at[last] = value
    return values


def change(folder, file, **fields):
    """Set fields of a run's JSON file, dotted paths spelled with two underscores."""
    path = folder / file
    values = json.loads(path.read_text())
    for name, value in fields.items():
        *groups, last = name.split("__")
        at = values
        for group in groups:
            at = at[group]
        at[last] = value
    path.write_text(json.dumps(values))


def run(
    folder,
    name="lstm",
    seed=0,
    loss=4.6,
    *,
    ended=True,
    trained=True,
    scores=True,
    units=SENTENCES,
    dirty=False,
    parameters=4_650_000,
    flops=2.5e10,
    seconds=840.0,
    fingerprint=TEST,
    tokenizer="a11" * 8,
    scale=1.0,
    more=None,
    split="test",
    **fields,
):
    """Write the folder of a run whose test loss is `loss` nats, in units of `units` sentences, and return it."""
    folder.mkdir(parents=True)
    values = configuration(name, seed, **fields)
    record = {
        "configuration": values,
        "resolved": values,
        "started": "2026-11-20T08:00:00+00:00",
        "command": f"python -m research train experiments/{name}.py --out {folder}",
        "git": {"commit": "c0ffee" * 6 + "1234", "dirty": dirty},
        "versions": {"python": "3.11.7"},
        "devices": {"platform": "cpu", "kind": "cpu", "count": 1},
        "fingerprints": {"data": "da7a" * 8, "tokenizer": tokenizer, "train": "7a1" * 8, split: fingerprint},
        "parameters": parameters,
        "flops_per_step": flops,
        "resumed": [],
    }
    (folder / "run.json").write_text(json.dumps(record))
    logged = rows(loss, seconds, ended, trained)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    if scores:
        score(folder, loss, seed, units, fingerprint, scale, {"step": 1800 if trained else 0, **(more or {})}, split)
    return folder


def rows(loss, seconds=840.0, ended=True, trained=True, steps=2000):
    """Return rows of metrics.jsonl: one evaluation of a model that is counted, or a curve and an end."""
    if not trained:
        place = {"step": 0, "tokens": 929_589, "elapsed": seconds}
        found = [{"kind": "evaluation", **place, "split": "validation", "loss": loss, "perplexity": math.exp(loss)}]
        return [*found, *([{"kind": "end", **place}] if ended else [])]
    found, last = [], steps if ended else 800
    for step in range(0, last + 1, 200):
        place = {"step": step, "tokens": step * 700, "elapsed": 5 + seconds * step / steps}
        value = loss + 4.6 * math.exp(-step / 260)
        if step:
            found.append({"kind": "train", **place, "loss": value - 0.1, "seconds": 1.0})
        found.append(
            {"kind": "evaluation", **place, "split": "validation", "loss": value, "perplexity": math.exp(value)}
        )
    return [*found, *([{"kind": "end", **place}] if ended else [])]


def score(folder, loss, seed=0, units=SENTENCES, fingerprint=TEST, scale=1.0, more=None, split="test"):
    """Write scores/<split>.json: sentences differ in difficulty, the same for every model, and a little by model.

    They are kept as units of the kind "document", as a text whose lines are documents is.
    """
    weight = 10.0 + np.arange(units or 1) % 21
    hard = np.random.default_rng(0).normal(0, 0.4, len(weight))
    own = np.random.default_rng([seed, int(loss * 1e6)]).normal(0, 0.05 * scale, len(weight))
    nll = weight * (loss + hard + own)
    nll *= loss * weight.sum() / nll.sum()
    values = {
        "split": split,
        "checkpoint": "best",
        "fingerprint": fingerprint,
        "evaluated": "2026-11-20T09:00:00+00:00",
        "loss": loss,
        "perplexity": math.exp(loss),
        "scored": int(weight.sum()),
        "bits_per_byte": loss / math.log(2) / 5.5,
        "accuracy": 0.3,
        **(more or {}),
    }
    if units:
        values["units"] = {"kind": "document", "nll": nll.tolist(), "weight": weight.tolist()}
    (folder / "scores").mkdir(exist_ok=True)
    (folder / "scores" / f"{split}.json").write_text(json.dumps(values))


LADDER = {  # name: (loss, parameters, FLOPs a step, seconds, family)
    "kn3": (math.log(148.3), 1_960_000, None, 2.1, "ngram"),
    "kn5": (math.log(141.2), 3_400_000, None, 3.9, "ngram"),
    "nnlm": (math.log(140.2), 3_100_000, 1.2e10, 610.0, "feedforward"),
    "rnnlm": (math.log(124.7), 5_300_000, 2.1e10, 1800.0, "recurrent"),
    "lstm": (math.log(114.5), 4_650_000, 2.5e10, 2400.0, "recurrent"),
    "transformer": (math.log(113.9), 4_700_000, 2.9e10, 1900.0, "gpt2"),
}


def ladder(folder, dataset="ptb", worse=0.0):
    """Write the runs of a ladder, n-grams once and the others with three seeds, and return their folders."""
    found = []
    for name, (loss, parameters, flops, seconds, family) in LADDER.items():
        for seed in range(1 if flops is None else 3):
            found.append(
                run(
                    folder / f"{name}-{dataset}-{seed}",
                    name,
                    seed,
                    loss + worse + 0.004 * (seed - 1) * (flops is not None),
                    trained=flops is not None,
                    parameters=parameters,
                    flops=flops,
                    seconds=seconds,
                    arch__family=family,
                    data__sources__0__path=f"/data/{dataset}",
                    fingerprint=TEST if dataset == "ptb" else "0711" * 8,
                )
            )
    return found
