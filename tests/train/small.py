"""Runs small enough for a test, on real English that every Python carries: the language reference of pydoc."""

import dataclasses
import pathlib
import pydoc_data.topics

from research.config import Run, Schedule
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives import OBJECTIVES

PRESETS = {
    "masked": "bert-nano",
    "causal": "gpt2-nano",
    "prefix": "gpt2-nano",
    "span_corruption": "t5-nano",
    "denoising": "bart-nano",
    "mixture": "t5-nano",
}


def text(folder: pathlib.Path) -> pathlib.Path:
    """Write 60 kB of English to a file in `folder` and return its path."""
    path = folder / "text.txt"
    path.write_text("\n".join(pydoc_data.topics.topics.values())[:60_000], encoding="utf-8")
    return path


def run(name: str, source: pathlib.Path, **fields) -> Run:
    """Return a run of objective `name` with dropout on: 8 steps of 8 rows of 32 tokens."""
    arch = dataclasses.replace(preset(PRESETS[name]), width=32, mlp_width=64, layers=1, max_length=64)
    arch = dataclasses.replace(arch, dropout=0.1, attention_dropout=0.1)
    data = Data(
        sources=(Source(str(source), boundary="blank", holdout=0.1),),
        tokenizer=Tokenizer(kind="bpe", size=512),
        length=32,
        framing="none" if arch.structure == "encoder-decoder" else "template",
    )
    fields = {"steps": 8, "batch_size": 8, "log_every": 1, "evaluate_every": 4, "evaluate_rows": 16, "save_every": 4} | fields
    return Run(name, arch, OBJECTIVES[name](), data, schedule=Schedule(warmup=2), **fields)


EXPERIMENT = '''
import pathlib
from tests.train import small

def config():
    return small.run({name!r}, pathlib.Path({source!r}), **{fields!r})
'''


def experiment(name: str, source: pathlib.Path, path: pathlib.Path, **fields) -> pathlib.Path:
    """Write the experiment file of `run(name, source, **fields)` to `path` and return it."""
    path.write_text(EXPERIMENT.format(name=name, source=str(source), fields=fields))
    return path
