"""Records of the hub through `prepare`: labels by name, and a validation split that is there or held out."""

import dataclasses

import pytest

from research.data import hub
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.objectives import Classification, Tagging
from research.tasks.prepare import prepare
from research.types import UserError

SIZES = {"train": 40, "validation": 8, "test": 6}
TINY = Tokenizer(kind="wordpiece", size=120, sentinels=0, min_frequency=1)


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Return what puts a data set of the splits named on a hub in memory; it returns the splits that were asked for."""
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "words": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-X", "I-X"])),
        }
    )

    def record(split, n):
        hidden = split == "test"  # as GLUE's
        words = ["the", "cat", split, str(n)]
        fields = {"sentence": f"the cat {split} {n}", "label": -1 if hidden else n % 2, "words": words}
        return fields | {"ner_tags": [0, 1, 2, 0]}

    def make(*splits):
        rows = {split: [record(split, n) for n in range(SIZES[split])] for split in splits}
        made = {split: datasets.Dataset.from_list(each, features=features) for split, each in rows.items()}
        calls = []

        def load_dataset(path, name=None, *, split):
            calls.append(split)
            if split not in made:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(made)}.')
            return made[split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "answers", lambda address: True)
    hub.lacks.cache_clear()
    yield make
    hub.lacks.cache_clear()


def made(objective, splits=("train", "validation"), **fields):
    return prepare(objective, Data(sources=(Source("someone/set", **fields),), tokenizer=TINY, length=32), splits)


def test_splits_of_the_hub_are_prepared_as_they_are(publish, capsys):
    publish(*SIZES)
    found = made(Classification())
    assert found.objective == Classification(text="sentence", label="label", labels=("neg", "pos"))
    for split in ("train", "validation"):
        examples = list(found.table(split).examples)
        assert [each["place"] for each in examples] == [f"someone/set: {split} record {n}" for n in range(SIZES[split])]
        assert [each["text"] for each in examples] == [f"the cat {split} {n}" for n in range(SIZES[split])]
        assert [each["label"] for each in examples] == ["neg", "pos"] * (SIZES[split] // 2)
        (report,) = found.reports[split]
        assert report["labels"] == {"neg": SIZES[split] // 2, "pos": SIZES[split] // 2} and report["unlabelled"] == 0
    assert "held out" not in capsys.readouterr().err
    with pytest.raises(UserError) as caught:  # its labels are hidden
        made(Classification(), ("test",))
    assert "someone/set: test record 0: no record has a label" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_validation_split_a_part_of_training_is_held_out(publish, capsys):
    publish("train", "test")
    found = made(Classification(), holdout=0.25)
    said = "someone/set has no validation split: 25.0% of train is held out for it (holdout)\n"
    assert capsys.readouterr().err == said
    texts = {split: {each["text"] for each in found.table(split).examples} for split in ("train", "validation")}
    assert texts["train"] | texts["validation"] == {f"the cat train {n}" for n in range(40)}
    assert not texts["train"] & texts["validation"] and 4 <= len(texts["validation"]) <= 18
    assert all(each["place"].startswith("someone/set: train record ") for each in found.table("validation").examples)
    told = made(Classification(), holdout=0.25, validation="")  # said in the source, it is the same
    assert (told.parts, told.objective) == (found.parts, found.objective)
    with pytest.raises(UserError) as caught:
        made(Classification(), holdout=0.0)
    assert "Unknown split" in str(caught.value) and "\n" not in str(caught.value)


def test_the_second_time_nothing_is_built_and_another_revision_is_other_data(publish, monkeypatch):
    publish(*SIZES)
    first = made(Classification())
    with monkeypatch.context() as patch:
        patch.setattr("research.tasks.prepare._write", lambda *_: pytest.fail("built again"))
        assert made(Classification()).fingerprint == first.fingerprint
    monkeypatch.setitem(SIZES, "train", 42)
    publish(*SIZES)
    again = made(Classification())
    assert again.parts["train"] != first.parts["train"] and len(again.table("train").examples) == 42


def test_tags_of_the_hub_are_spelled_out(publish):
    publish(*SIZES)
    objective = Tagging(words="words", overlap=8)
    found = made(objective, ("train", "test"))
    assert found.objective == dataclasses.replace(objective, tags="ner_tags", labels=("O", "B-X", "I-X"))
    example = found.table("test").examples[0]
    assert example["words"] == ["the", "cat", "test", "0"] and example["tags"] == ["O", "B-X", "I-X", "O"]
