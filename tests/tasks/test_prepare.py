"""Prepared tasks: labels, reports and bad data, the cache, and rows in the order that running text has."""

import dataclasses
import json

import numpy as np
import pytest

from research.data import batches
from research.data.cache import root
from research.data.corpus import Data
from research.data.packing import Corpus
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.objectives import Classification, Completion, Seq2Seq, Tagging
from research.tasks.coder import Coder
from research.tasks.prepare import encode_rows, prepare
from research.tasks.rows import HOST, Rows
from research.tasks.summary import lines
from research.types import UserError
from tests.tasks.tiny import write

TRAIN = [{"text": f"the cat number {i}", "label": "ab"[i % 2]} for i in range(40)]
TINY = Tokenizer(kind="wordpiece", size=120, sentinels=0, min_frequency=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))


def made(folder, objective=None, splits=("train", "validation"), length=32, structure="encoder", **splits_of_records):
    if splits_of_records:
        write(folder, **splits_of_records)
    data = Data(sources=(Source(str(folder)),), tokenizer=TINY, length=length)
    return prepare(Classification() if objective is None else objective, data, splits, structure=structure)


def refused(*args, **options):
    with pytest.raises(UserError) as caught:
        made(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_is_found_counted_and_kept(tmp_path):
    train = [*TRAIN, {"text": " ", "label": "a"}, {"text": "x", "label": None}, {"text": "x", "label": -1}]
    train.append({"text": "cat " * 200, "label": "a"})
    validation = [{"text": "", "label": "a"}, {"text": "the cat", "label": "c"}]
    test = [{"text": "the", "label": "d"}]
    found = made(tmp_path / "d", train=train, validation=validation, test=test)
    assert found.objective == Classification(text="text", label="label", labels=("a", "b", "c", "d"))
    (report,) = found.reports["train"]
    expected = {"read": 44, "examples": 41, "empty": 1, "unlabelled": 2, "cut": 1, "items": 41, "unseen": {}}
    assert {name: report[name] for name in expected} == expected
    assert report["labels"] == {"a": 21, "b": 20, "c": 0, "d": 0} and report["rows"] == found.rows("train").count
    (report,) = found.reports["validation"]
    assert (report["examples"], report["empty"], report["unseen"]) == (2, 1, {"c": 1})
    examples = found.table("train").examples
    assert len(examples) == 41 and examples[0] == {"place": f"{tmp_path / 'd/train.jsonl'}:1", **TRAIN[0]}
    assert examples[-1]["label"] == "a" and [each["text"] for each in examples[1:3]] == [r["text"] for r in TRAIN[1:3]]
    assert examples[40] == list(examples)[40]
    with pytest.raises(IndexError):
        examples[41]


def test_the_second_time_comes_from_the_cache_and_is_the_same(tmp_path, monkeypatch):
    first = made(tmp_path / "d", train=TRAIN, validation=TRAIN[:4])
    stamps = {path: path.stat().st_mtime_ns for path in root().rglob("*")}
    second = made(tmp_path / "d")
    assert {path: path.stat().st_mtime_ns for path in root().rglob("*")} == stamps
    assert (second.fingerprint, second.parts, second.objective) == (first.fingerprint, first.parts, first.objective)
    assert (second.rows("train", 0, 2, 7).batch(3)["tokens"] == first.rows("train", 0, 2, 7).batch(3)["tokens"]).all()
    again = made(tmp_path / "d", first.objective)  # a resolved objective: the same rows
    assert again.objective == first.objective and again.parts == first.parts

    moved = made(tmp_path / "elsewhere", train=TRAIN, validation=TRAIN[:4])
    assert moved.parts == first.parts and "elsewhere" in moved.table("train").examples[0]["place"]
    others = [
        made(tmp_path / "d", structure="decoder"),
        made(tmp_path / "d", length=31),
        made(tmp_path / "d", Classification(per_row=2)),
        made(tmp_path / "d", Classification(labels=("b", "a"))),
        made(tmp_path / "e", train=TRAIN[:-1], validation=TRAIN[:4]),
    ]
    assert len({first.parts["train"], *(each.parts["train"] for each in others)}) == 6


def test_a_broken_cache_is_said(tmp_path):
    made(tmp_path / "d", train=TRAIN, validation=TRAIN)
    path = next(root().glob("tasks/*/offsets.npy"))
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read" in refused(tmp_path / "d") and "delete it" in refused(tmp_path / "d")


@pytest.mark.parametrize(
    ("objective", "splits", "said"),
    [
        (None, {"validation": [{"text": "x", "label": None}, TRAIN[0]]}, "validation.jsonl:1: the label is missing"),
        (None, {"validation": [{"text": "x", "label": -1}] * 3}, "no record has a label, as where test labels are"),
        (Classification("regression"),
         {"train": [{"text": "x", "label": 0.5}], "validation": [{"text": "x", "label": -1}] * 3}, "labels are hidden"),
        (Classification(labels=("a", "bb")), {}, "label 'b' is not among objective.labels: did you mean bb?"),
        (None, {"train": TRAIN[::2]}, "all training records have the label 'a': nothing to learn"),
        (None, {"train": [{"text": "x", "label": 1 - 2 * (i % 2)} for i in range(8)],
                "validation": [{"text": "x", "label": 1}]},
         "the label '1': nothing to learn; 4 have none (null, empty or -1): where -1 is a label, name it in"),
        (Classification("multi_label"), {"train": [{"text": "x", "label": [i % 2, 1]} for i in range(8)],
                                         "validation": [{"text": "x", "label": [0, 0]}]},
         "column 'label' has a 0 or 1 for each of 2 labels (multi-hot): give the list of those that a text has"),
        (Classification("multi_label", labels=("a", "b")),
         {"train": [{"text": "x", "label": [0.0, 1.0]}], "validation": [{"text": "x", "label": [True, False]}]},
         "(multi-hot)"),
        (None, {"train": [{"text": "", "label": "a"}, {"text": "", "label": "b"}]}, "no text to train a tokenizer on"),
        (None, {"train": [{"text": "x", "label": None}]}, "no record of the train split can be used"),
        (None, {"train": [{"text": "x", "label": None}], "validation": [{"text": "x", "label": -1}]},
         "no record has a label"),
        (Classification("regression"), {}, "train.jsonl:1: 'a' in column 'label' is not a number"),
        (None, {"train": [*TRAIN, {"body": "x"}]}, "train.jsonl:41: no column 'text', only 'body'"),
        (Tagging(), {}, "train.jsonl:1: no column is called tokens or alike, only 'text', 'label'"),
        (Tagging(), {"train": [{"tokens": ["a"], "tags": ["O", "O"]}]}, "train.jsonl:1: 1 words"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_is_refused(tmp_path, objective, splits, said):
    assert said in refused(tmp_path / "d", objective, **{"train": TRAIN, "validation": TRAIN[:2]} | splits)
    assert not list(root().glob("*/.*"))


def test_a_test_split_without_labels_hinders_only_who_scores_it(tmp_path):
    splits = {"train": TRAIN, "validation": TRAIN[:2], "test": [{"text": "x"}]}
    assert made(tmp_path / "d", **splits).objective.labels == ("a", "b")
    assert "test.jsonl:1: no column 'label'" in refused(tmp_path / "d", splits=("test",))


def test_what_is_odd_about_a_split_is_said_in_the_words_of_its_task(tmp_path):
    text, words, pair = {"text": " ", "label": "a"}, {"tokens": [], "tags": []}, {"source": "the cat", "target": ""}
    tagged, told = {"tokens": ["the"], "tags": ["O"]}, {"source": "the cat", "target": "a dog"}
    untold = ({"text": "x", "label": None}, {"tokens": ["x"], "tags": [-1]}, {"source": "x", "target": None})
    long = ({"text": "cat " * 50, "label": "b"}, tagged, {"source": "cat " * 50, "target": "a"})
    for name, objective, good, empty, none, cut, structure, said, kept in (
        ("c", None, TRAIN, text, untold[0], long[0], "encoder",
         ["1 have no text", "1 have no label", "1 are longer than a row: cut"], "kept"),
        ("t", Tagging(overlap=8), [tagged] * 9, words, untold[1], long[1], "encoder",
         ["1 have no words", "1 have no tags", "1 words are longer than a row: cut"], "left out"),
        ("s", Seq2Seq(target_length=8), [told] * 9, pair, untold[2], long[2], "encoder-decoder",
         ["1 have nothing to read, or nothing to write", "1 have no target",
          "1 have a source longer than its part: cut"], "kept"),
    ):  # fmt: skip
        splits = {"train": [*good, empty, none, cut], "validation": [*good, empty]}
        found = made(tmp_path / name, objective, structure=structure, **splits)
        (report,) = found.reports["train"]
        assert report["cut"] == (name != "t")  # how a word is cut depends on the tokenizer
        oddities = lines("train", report | {"cut": 1})[1:4]
        assert oddities == [f"train: {said[0]} (left out)", f"train: {said[1]} (left out)", f"train: {said[2]}"]
        assert lines("validation", *found.reports["validation"])[1] == f"validation: {said[0]} ({kept})"


@pytest.mark.parametrize("hidden", [-1, -100, None])
def test_lists_of_hidden_labels_give_no_label_of_that_name(tmp_path, hidden):
    tagged = [{"tokens": ["the", "cat"], "tags": ["B-X", "O"]}] * 3
    several = [{"text": "the cat", "label": ["a"]}, {"text": "a dog", "label": ["b"]}]
    for name, objective, records, labels in (
        ("t", Tagging(overlap=8), tagged, ("O", "B-X")),
        ("s", Classification("multi_label"), several, ("a", "b")),
    ):
        column = "tags" if name == "t" else "label"
        test = [each | {column: [hidden] * len(each[column])} for each in records]
        found = made(tmp_path / name, objective, train=[*records, test[0]], validation=records, test=test)
        assert found.objective.labels == labels and found.reports["train"][0]["unlabelled"] == 1
        said = refused(tmp_path / name, objective, splits=("test",))
        assert "test.jsonl:1: no record has a label, as where test labels are hidden: score another split" in said


@pytest.mark.parametrize("lists", [[[0], [1]], [[0, 1], [1]], [[0, 1], [2, 0]], [[0, 1], []]])
def test_lists_of_ids_are_not_taken_for_multi_hot(tmp_path, lists):
    records = [{"text": "the cat", "label": each} for each in lists]
    found = made(tmp_path / "d", Classification("multi_label"), train=records, validation=records)
    assert found.objective.labels == tuple(sorted({str(one) for each in lists for one in each}))
    named = Classification("multi_label", labels=("a", "b", "c"))
    found = made(tmp_path / "d", named)
    assert [each["label"] for each in found.table("train").examples] == [sorted("abc"[i] for i in e) for e in lists]
    records = [{"text": "the cat", "label": each} for each in ([0, 1], [1, 0])]
    assert made(tmp_path / "e", named, train=records, validation=records).objective.labels == ("a", "b", "c")


def test_labels_by_their_ids_are_those_that_are_named(tmp_path):
    records = [{"text": "the cat", "label": i % 2} for i in range(8)]
    found = made(tmp_path / "d", Classification(labels=("neg", "pos")), train=records, validation=records[:2])
    assert found.reports["train"][0]["labels"] == {"neg": 4, "pos": 4}
    tagged = [{"tokens": ["the", "cat"], "tags": [0, 1]}] * 3
    for labels, numbers in (((), True), (("O", "B-X"), False)):
        found = made(tmp_path / "t", Tagging(labels=labels, overlap=8), train=tagged, validation=tagged)
        said = [line for line in lines("train", *found.reports["train"]) if "all tags are numbers" in line]
        assert len(said) == numbers and all("name them with objective.labels" in line for line in said)
        assert not any("numbers" in line for line in lines("validation", *found.reports["validation"]))


def scored(path, objective, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    data = Data(sources=(Source(str(path), holdout=0.0),), tokenizer=TINY, length=32)
    return prepare(objective, data, ("train",), scored=("train",))


def test_another_file_is_scored_whole(tmp_path):
    objective = Classification(text="text", label="label", labels=("a", "b"))
    found = scored(tmp_path / "a.jsonl", objective, *[{"text": each, "label": "a"} for each in ("the cat", "", "x")])
    (report,) = found.reports["train"]
    assert (report["examples"], report["empty"], report["unseen"]) == (3, 1, {})  # one label is no reason to refuse
    found = scored(tmp_path / "b.jsonl", objective, {"sentence": "the cat", "class": 1})  # other columns, and ids
    (only,) = found.table("train").examples
    assert (only["text"], only["label"]) == ("the cat", "b")
    assert found.objective == dataclasses.replace(objective, text="sentence", label="class")
    tags = Tagging("tokens", "tags", ("O",), overlap=8)
    records = [{"words": "the cat", "tags": "O O"}, {"words": "", "tags": ""}]  # in which nothing is to be scored
    assert scored(tmp_path / "c.jsonl", tags, *records).reports["train"][0]["examples"] == 1
    for labels, said in (
        (["a", None], "d.jsonl:2: the label is missing (null, empty or -1), and all records here are scored"),
        ([-1, None], "d.jsonl:1: no record has a label, as where test labels are hidden"),
        (["a", "c"], "d.jsonl:2: label 'c' is not among objective.labels"),
    ):
        with pytest.raises(UserError) as caught:
            scored(tmp_path / "d.jsonl", objective, *[{"text": "the cat", "label": each} for each in labels])
        assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no column 'label', only 'text', 'kind': .* or rename one to 'label'"):
        scored(tmp_path / "e.jsonl", objective, {"text": "x", "kind": "a"})


def test_what_is_trained_on_is_not_what_it_is_compared_with(tmp_path):
    pair = {"source": "the cat", "target": "a dog"}
    splits = {"train": [pair], "validation": [pair], "test": [pair | {"targets": ["x", "y"]}]}
    options = {"structure": "encoder-decoder", "splits": ("train", "test")}
    guessed = made(tmp_path / "d", Seq2Seq(target_length=8), **options, **splits)  # the test split alone has them
    assert guessed.objective.references == "targets"
    named = made(tmp_path / "d", Seq2Seq(target="target", target_length=8), **options)
    assert [each.table("test").examples[0]["references"] for each in (guessed, named)] == [["x", "y"], ["a dog"]]
    assert guessed.fingerprint == named.fingerprint  # the rows are the same


def test_sources_and_orders_that_cannot_be(tmp_path):
    write(tmp_path / "d", train=TRAIN)
    source = Source(str(tmp_path / "d"))
    for data, said in (
        (Data(sources=(source, source)), "one source of records, not 2"),
        (Data(sources=(source,), order="stream"), "'stream' is for running text"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(Classification(), data)
    with pytest.raises(UserError, match="no files for the test split"):
        prepare(Classification(), Data(sources=(source,)), ("test",))


def test_documents_without_words_are_left_out_and_empty_pairs_of_training(tmp_path):
    records = [{"tokens": ["the", "cat"], "tags": ["B-X", "I-X"]}, {"tokens": [], "tags": []}]
    records.append({"tokens": [], "tags": None})
    found = made(tmp_path / "d", Tagging(overlap=8), train=records, validation=records[:2])
    for split, unlabelled in (("train", 1), ("validation", 0)):
        (report,) = found.reports[split]
        assert (report["examples"], report["empty"], report["unlabelled"]) == (1, 1, unlabelled)
    assert found.objective.labels == ("B-X", "I-X")
    pairs = [("the cat", "a dog"), ("the cat", ""), ("", "x")]
    records = [{"source": source, "target": target} for source, target in pairs]
    for objective in (Seq2Seq(target_length=8), Completion(target_length=8)):
        structure = objective.structures[0]
        found = made(tmp_path / "s", objective, structure=structure, train=records, validation=records)
        assert found.objective == dataclasses.replace(objective, source="source", target="target")
        assert [len(found.table(split).examples) for split in ("train", "validation")] == [1, 3]
        assert found.rows("train", objective.lookahead).batch(0)["tokens"].shape[0] == 1


def test_rows_come_in_the_order_of_running_text(tmp_path):
    found = made(tmp_path / "d", Classification(per_row=1), train=TRAIN, validation=TRAIN)
    tokens = np.arange(40 * 8, dtype=np.uint16)
    corpus = Corpus("", tokens, np.ones(320, np.uint8), np.ones(320, np.uint16), {})
    for size, seed in ((1, 0), (7, 3), (64, 1)):
        ours = found.rows("train", 0, size, seed)
        theirs = batches.Rows([corpus], 8, batch_size=size, seed=seed)
        assert ours.count == theirs.count == 40 and not ours.mixed and not theirs.mixed
        for step in (0, 1, 5, 40, 3):
            assert ours.locate(step) == theirs.locate(step)
            record = ours.batch(step)
            assert not set(record) & set(HOST) and record["tokens"].shape == (size, 32)
            picked = ours.pick(np.array([place.row for place in ours.locate(step)]))
            assert all((record[name] == picked[name]).all() for name in record)
    beyond = found.rows("train").pick(np.array([39, 40, 99]), with_bytes=True)
    assert beyond["weights"][0].all() and not beyond["weights"][1:].any() and not beyond["segments"][1:].any()
    assert (beyond["tokens"][1:] == found.vocabulary.pad).all()
    assert (found.rows("train").take(0, 3)["tokens"] == found.table("train").arrays["tokens"][:3]).all()


def test_a_table_in_memory_is_the_one_on_disk(tmp_path):
    from research.data.records import records

    found = made(tmp_path / "d", Classification(per_row=4), train=TRAIN, validation=TRAIN)
    rows = list(records(Source(str(tmp_path / "d")), "train"))
    table, wrong = encode_rows(found.objective, Coder(found.tokenizer, found.vocabulary), 32, rows, labelled=True)
    assert not wrong and table.arrays.keys() == found.table("train").arrays.keys()
    for name, array in found.table("train").arrays.items():
        assert array.dtype == table.arrays[name].dtype and (array == table.arrays[name]).all()
    assert list(found.table("train").examples) == table.examples


def test_importing_the_tasks_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, research.tasks.prepare; print(sorted({'jax', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_sst2_is_packed_tight(data_folder, tokenizer_folder):
    data = Data(
        sources=(Source(str(data_folder / "sst2")),), tokenizer=Tokenizer(str(tokenizer_folder / "bert-base-uncased"))
    )
    found = prepare(Classification(), data)
    (report,) = found.reports["train"]
    assert report["real"] > 0.98 and report["examples"] == 6920
    assert report["labels"] == {"negative": 3310, "positive": 3610}
    assert report["tokens"] == (found.table("train").arrays["segments"] > 0).sum()
    assert len({json.dumps(each) for each in found.table("validation").examples}) == 872
    assert isinstance(found.rows("train"), Rows)
