"""Data that a run was not trained on: all of its records are scored, whatever their columns are called."""

import dataclasses
import json

import pytest

from research.data.sources import Source
from research.data.tokenizer import Tokenizer, save, train
from research.objectives.classification import Classification
from research.train.restore import prepared_again
from research.types import UserError
from tests.tasks.tiny import TEXT
from tests.train import small_tasks


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Return what prepares records for a run that told cats from others, trained on a folder that is not there."""
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    save(train(Tokenizer(kind="wordpiece", size=150, sentinels=0), TEXT), tmp_path / "tokenizer")
    objective = Classification(text="text", label="label", labels=("cat", "none"))
    run = dataclasses.replace(small_tasks.run("classification", tmp_path / "nowhere"), objective=objective)

    def prepared(*records):
        path = tmp_path / "other.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        other = Source(str(path), holdout=0.0)
        return prepared_again(run, tmp_path, "train", other)

    return prepared


def test_every_record_is_scored(again):
    found = again({"text": "the cat", "label": "cat"}, {"text": "", "label": "cat"}, {"text": "cat", "label": "cat"})
    assert len(found.table("train").examples) == 3 and found.table("train").arrays["weights"].sum() == 3
    found = again({"sentence": "the dog", "id": 3, "class": 1})
    assert found.table("train").examples[0]["label"] == "none"
    with pytest.raises(UserError, match="other.jsonl:2: the label is missing"):
        again({"text": "the cat", "label": "cat"}, {"text": "the cat", "label": None})
