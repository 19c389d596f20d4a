"""Runs of every task small enough for a test, on sentences made of a few words."""

import dataclasses
import json
import pathlib
import random

from research.config import Mesh, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives.classification import Classification
from research.objectives.completion import Completion
from research.objectives.seq2seq import Seq2Seq
from research.objectives.tagging import Tagging

PRESETS = {"tagging": "bert-nano", "seq2seq": "t5-nano", "completion": "gpt2-nano"}
PRESETS |= dict.fromkeys(["classification", "multi_label", "regression", "pairs"], "bert-nano")
KINDS = {"bert-nano": "wordpiece", "t5-nano": "unigram", "gpt2-nano": "bpe"}  # of tokenizers
OBJECTIVES = {
    "classification": Classification(),
    "multi_label": Classification("multi_label", label="several"),
    "regression": Classification("regression", label="number"),
    "pairs": Classification(text="text", pair="target", label="label"),
    "tagging": Tagging(overlap=8),
    "seq2seq": Seq2Seq(prompt="turn: {source}", target_length=24),
    "completion": Completion(prompt="{source} =>", target_length=16),
}
NAMES, PLACES = ("Ann", "Bob", "Eve Lee"), ("Rome", "New York")
WORDS = ("a", "the", "red", "blue", "cat", "dog", "runs", "sits", "far", "home")


def record(draw: random.Random) -> dict:
    """Return a record that every task can read: its label is whether it is about a cat, its number how long it is."""
    words, tags = [], []
    for _ in range(draw.randint(2, 6)):
        kind = draw.random()
        some = draw.choice(NAMES if kind < 0.2 else PLACES if kind < 0.3 else WORDS).split()
        words += some
        mark = "PER" if kind < 0.2 else "LOC" if kind < 0.3 else ""
        tags += [f"{'I' if i else 'B'}-{mark}" if mark else "O" for i in range(len(some))]
    text = " ".join(words)
    label = "cat" if "cat" in words else "none"
    others = {"several": [word for word in ("cat", "dog", "red") if word in words], "number": len(words) / 4}
    return {"text": text, "label": label, "tokens": words, "tags": tags, "target": " ".join(reversed(words))} | others


def data(folder: pathlib.Path, count: int = 160) -> pathlib.Path:
    """Write train.jsonl, validation.jsonl and test.jsonl into `folder` and return it."""
    draw = random.Random(0)
    for split, size in (("train", count), ("validation", count // 4), ("test", count // 4)):
        lines = [json.dumps(record(draw)) + "\n" for _ in range(size)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def run(name: str, folder: pathlib.Path, **fields) -> Run:
    """Return a run of the task `name` with dropout on: 8 steps of 4 rows of 32 tokens."""
    arch = dataclasses.replace(preset(PRESETS[name]), width=32, mlp_width=64, layers=1, max_length=64)
    arch = dataclasses.replace(arch, dropout=0.1, attention_dropout=0.1)
    kind = KINDS[PRESETS[name]]
    objective = OBJECTIVES[name]
    if name in ("seq2seq", "completion"):
        objective = dataclasses.replace(objective, source="text", target="target")
    fields = {"steps": 8, "batch_size": 4, "log_every": 1, "evaluate_every": 4, "save_every": 4} | fields
    return Run(
        name,
        arch,
        objective,
        Data(sources=(Source(str(folder)),), tokenizer=Tokenizer(kind=kind, size=300, sentinels=0), length=32),
        optimizer=Optimizer(learning_rate=5e-3),
        schedule=Schedule(warmup=2),
        mesh=Mesh(data=1),
        **fields,
    )
