"""`data build` and `data inspect`: what they show, and one line for every text that cannot be read."""

import dataclasses
import json
import re

import pytest

from research.data.tokenizer import Tokenizer, save, train
from research.interop import config_json
from research.models import preset


def test_inspect_shows_cleaning_counts_rows_and_the_example(experiment, command, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(text.read_text() * 2 + "short\n")
    extra = ["--data.cleaning.exact-duplicates", "--data.cleaning.min-length", "10", "--data.sources.0.holdout", "0.2"]
    status, out, err = command("data", "inspect", experiment, *extra, "--json", tmp_path / "x.json")
    assert status == 0, err
    found = json.loads((tmp_path / "x.json").read_text())
    [training], [validation] = found["splits"]["train"], found["splits"]["validation"]
    assert training["documents"] + validation["documents"] == 300
    reports = [training["cleaning"], validation["cleaning"]]
    assert sum(report["documents"] for report in reports) == 601
    assert sum(report["kept"] for report in reports) == 300
    assert sum(report["dropped"]["duplicate"]["documents"] for report in reports) == 300
    assert [r["dropped"]["too short"]["examples"] for r in reports if "too short" in r["dropped"]] == [["short"]]
    assert training["rows"] == -(-(training["tokens"] - 1) // 16)  # the last row is padded; one token of lookahead
    assert training["tokens_per_byte"] == training["tokens"] / training["bytes"]
    counts = [f"{training[name]:,}" for name in ("documents", "tokens", "bytes", "rows")]
    assert all(shown in out for shown in ("duplicate", "too short", *counts))

    assert len(found["rows"]) == 3 and all(row["text"] in "".join(out.split("\n")) for row in found["rows"])
    sentences = text.read_text()
    assert any(row["text"].split("</s>")[0] in sentences for row in found["rows"])
    made = found["example"]
    assert made["objective"] == "Causal" and made["scored"] == sum(weight > 0 for weight in made["weights"])
    assert made["inputs"]["tokens"][1:] == made["targets"][:-1]
    assert f"targets: {' '.join(made['targets'])}" in out


def test_build_is_cached_and_says_less(experiment, command, tmp_path):
    status, out, _ = command("data", "build", experiment)
    assert status == 0 and "Rows of 16 tokens" in out and "Causal makes" not in out
    built = sorted((tmp_path / "cache").rglob("tokens.bin"))
    assert len(built) == 2  # training and validation
    stamps = [path.stat().st_mtime_ns for path in built]
    assert command("data", "build", experiment)[1] == out
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("tokens.bin"))] == stamps


TASK = '''
"""A classifier that starts from a folder."""

from research.config import Init, Run
from research.data.corpus import Data
from research.data.sources import Source
from research.models import preset
from research.objectives.classification import Classification


def config():
    data = Data(sources=(Source(path={source!r}),), length=32)
    return Run("second", preset("gpt2-nano"), Classification(), data, init=Init({start!r}), steps=1)
'''


def test_a_task_is_read_with_the_tokenizer_and_structure_of_what_it_starts_from(experiment, command, tmp_path):
    start, records = tmp_path / "start", tmp_path / "records.jsonl"
    save(train(Tokenizer(kind="wordpiece", size=150, sentinels=0), ["the cat sat", "a dog ran off"] * 9), start)
    config = config_json.to_config(dataclasses.replace(preset("bert-nano"), vocab_size=150), pad=0, bos=None, eos=None)
    (start / "config.json").write_text(json.dumps(config))
    lines = [json.dumps({"text": f"the cat {n}", "label": "ab"[n % 2]}) + "\n" for n in range(40)]
    records.write_text("".join(lines))
    (tmp_path / "task.py").write_text(
        TASK.replace("{source!r}", repr(str(records))).replace("{start!r}", repr(str(start)))
    )
    status, out, err = command("data", "inspect", tmp_path / "task.py", "--json", tmp_path / "x.json")
    assert status == 0, err
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["tokenizer"] == str(start) and "columns: text 'text', label 'label'" in out
    tokens, select = found["example"]["inputs"]["tokens"], found["example"]["inputs"]["select"]
    assert tokens[select[0]] == "[CLS]"  # an encoder's state, though the experiment says decoder
    built = list((tmp_path / "cache" / "tasks").iterdir())
    assert command("data", "build", tmp_path / "task.py")[0] == 0
    assert list((tmp_path / "cache" / "tasks").iterdir()) == built and len(built) == 2
    assert not (tmp_path / "cache" / "tokenizers").exists()


def test_what_is_odd_about_a_split_that_is_not_read_is_told(experiment, command, tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    for split, labels in (("train", "ab"), ("validation", "ab"), ("test", "ac")):
        lines = [json.dumps({"text": f"the cat {n}", "label": labels[n % 2]}) + "\n" for n in range(8)]
        (records / f"{split}.jsonl").write_text("".join(lines))
    text = TASK.replace("{source!r}", repr(str(records))).replace("init=Init({start!r}), ", "")
    (tmp_path / "task.py").write_text(text)
    fields = ["--data.tokenizer.kind", "character", "--json", tmp_path / "x.json"]
    status, out, err = command("data", "inspect", tmp_path / "task.py", *fields)
    assert status == 0, err
    assert out.count("test: never met in training, so never told right but by chance: c (4)") == 1


def test_without_an_experiment_the_fields_are_enough(experiment, command, tmp_path):
    fields = ["--data.sources.0.path", tmp_path / "text.txt", "--data.tokenizer.kind", "character", "--data.length=8"]
    status, out, err = command("data", "inspect", *fields)
    assert status == 0, err
    assert "Rows of 8 tokens" in out and re.search(r"^row \d+ of source 0: 8 tokens", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt: no such file or folder"),
        ("empty.txt", b"", "empty.txt: the file is empty"),
        ("blank.txt", b"\n \n\n", "blank.txt: no documents in the train split"),
        ("latin.txt", b"abc\nd\xe9f\n", "latin.txt:2: not UTF-8"),
        ("broken.jsonl", b'{"text": "a b"}\n{"text": \n', "broken.jsonl:2: not a JSON object"),
        ("other.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "other.jsonl:2: no column 'text', only 'body'"),
        ("text.pdf", b"%PDF", "text.pdf: unknown kind of file"),
    ],
)
def test_bad_texts_are_one_line(name, content, message, experiment, command, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    status, _, err = command("data", "build", experiment, "--data.sources.0.path", tmp_path / name)
    assert status == 2 and err.count("\n") == 1 and err.startswith("error: ") and message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "no command data biuld: it is data build or data inspect"),
        (["build"], "no experiment file and no --data fields given"),
        (["build", "{experiment}", "--data.lenth", "8"], "unknown field --data.lenth: did you mean --data.length?"),
        (["build", "--data.lenth", "8"], "unknown field --data.lenth: did you mean --data.length?"),
        (["build", "{experiment}", "--steps", "0"], "steps is 0"),
        (["build", "{experiment}", "--splits", "train,dev"], "--splits: 'dev' is not one of train, validation, test"),
        (["build", "{experiment}", "--json", "x"], "--json belongs to data inspect"),
        (["inspect", "{experiment}", "--json", "/proc/none/x.json"], "cannot write to"),
    ],
)
def test_mistakes_are_one_line(arguments, message, experiment, command):
    status, _, err = command("data", *[argument.replace("{experiment}", experiment) for argument in arguments])
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
