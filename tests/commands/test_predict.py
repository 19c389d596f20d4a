"""`predict`: a line for each record, also where the process was killed on the way; mistakes are one line."""

import dataclasses
import gzip
import json
import os
import shutil

import jax
import pytest

from research.config import to_json
from research.data.tokenizer import Tokenizer, train, vocabulary
from research.interop import export
from research.models import preset
from research.models.arch import Arch, with_head
from research.models.build import initial_parameters
from research.train import predict as room
from tests.interop.test_export import Readme
from tests.train import small

SHAPE = Arch(width=16, layers=1, heads=2, mlp_width=32, max_length=24, types=2)
TEXTS = ["one good film", "a bad one", "neither of them", "good", "bad bad bad film"] * 3


def exported(folder, arch, kind, **options):
    """Write a random model into a folder in Hugging Face's layout, and return that."""
    tokenizer = train(Tokenizer(kind=kind, size=120, sentinels=0, min_frequency=1), TEXTS)
    words = vocabulary(tokenizer)
    arch = dataclasses.replace(arch, vocab_size=words.size)
    params = jax.device_get(initial_parameters(arch, jax.random.key(0)))
    export.write(folder, arch, params, tokenizer, words, Readme(), **options)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a random classifier, in Hugging Face's layout."""
    folder, arch = tmp_path_factory.mktemp("exported") / "model", with_head(SHAPE, "sequence", 2)
    return exported(folder, arch, "wordpiece", labels=("bad", "good"), problem="single_label")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_record_has_a_line(model, file, tmp_path, command):
    status, out, err = command("predict", model, file, "--out", tmp_path / "out.jsonl")
    assert (status, out) == (0, f"15 records -> {tmp_path / 'out.jsonl'}\n")
    answers = lines(tmp_path / "out.jsonl")
    assert [answer["line"] for answer in answers] == list(range(1, 16))
    assert all(set(answer["probabilities"]) == {"bad", "good"} for answer in answers)
    assert sorted(tmp_path.glob("out*")) == [tmp_path / "out.jsonl"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["premise", "hypothesis"], ("premise", "hypothesis")),
        (["sentence1", "sentence2"], ("sentence1", "sentence2")),
        (["sentence"], ("sentence", "")),
        (["premise", "text", "hypothesis"], ("text", "")),
        (["anything"], ("text", "")),  # the one column there is
    ],
)
def test_a_classifier_from_elsewhere_reads_the_columns_of_the_first_record(
    names, expected, model, tmp_path, command, monkeypatch
):
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    path.write_text("not JSON\n" + json.dumps({name: "one good film" for name in names}) + "\n")
    read = []
    whole = room.encode_rows
    monkeypatch.setattr(room, "encode_rows", lambda objective, *rest: read.append(objective) or whole(objective, *rest))
    command("predict", model, path, "--out", out)
    assert [(each.text, each.pair) for each in read] == [expected]
    assert "probabilities" in lines(out)[1]


def test_one_column_is_the_text_where_the_first_record_has_but_one(model, tmp_path, command):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"text": "good", "label": "bad"}\n{"label": "bad"}\n')
    assert command("predict", model, path, "--out", out)[0] == 1
    assert "probabilities" in lines(out)[0] and f"{path}:2: no column 'text', only 'label'" in lines(out)[1]["error"]
    out.unlink()
    path.write_text('{"note": "good"}\n{"note": "bad"}\n{"other": "bad"}\n{"note": 3}\n')
    assert command("predict", model, path, "--out", out)[0] == 1
    assert ["error" in answer for answer in lines(out)] == [False, False, True, True]


def test_a_bad_record_is_told_with_its_line_and_the_rest_go_on(model, file, tmp_path, command):
    file.write_text('{"text": "good"}\n{"text": \n{"text": 3, "n": 1}\n{"text": "bad"}\n')
    status, out, err = command("predict", model, file, "--out", tmp_path / "out.jsonl")
    assert status == 1 and out.endswith("out.jsonl, 2 of them wrong\n")
    answers = lines(tmp_path / "out.jsonl")
    assert ["error" in answer for answer in answers] == [False, True, True, False]
    assert f"{file}:2: not a JSON object" in answers[1]["error"] and f"warning: {file}:3: column" in err


@pytest.mark.parametrize(("name", "held"), [("in.jsonl", ""), ("in.csv", "text,label\n")])
def test_a_file_without_a_record_is_told(name, held, model, tmp_path, command):
    (tmp_path / name).write_text(held)
    status, out, err = command("predict", model, tmp_path / name, "--out", tmp_path / "out.jsonl")
    assert status == 0 and out == f"0 records -> {tmp_path / 'out.jsonl'}\n"
    assert f"warning: {tmp_path / name} has no record: {tmp_path / 'out.jsonl'} is empty\n" in err
    assert lines(tmp_path / "out.jsonl") == []


def test_stopped_on_the_way_it_goes_on_to_the_same_file(model, file, tmp_path, command, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 4)
    assert command("predict", model, file, "--out", tmp_path / "whole.jsonl")[0] == 0
    real, met = room.encode_rows, []

    def killed(*arguments):
        met.append(1)
        if len(met) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(room, "encode_rows", killed)
        assert command("predict", model, file, "--out", tmp_path / "parts.jsonl")[0] == 130
    partial = tmp_path / "parts.jsonl.partial"
    assert not (tmp_path / "parts.jsonl").exists() and len(lines(partial)) == 8
    with open(partial, "ab") as torn:
        torn.write(b'{"line": 9, "pred')
    status, _, err = command("predict", model, file, "--out", tmp_path / "parts.jsonl")
    assert status == 0 and "going on after 8 records" in err
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    # What was begun of one file is not finished with another.
    (tmp_path / "parts.jsonl").rename(tmp_path / "done.jsonl")
    with monkeypatch.context() as patched:
        met.clear()
        patched.setattr(room, "encode_rows", killed)
        command("predict", model, file, "--out", tmp_path / "parts.jsonl")
    file.write_text('{"text": "another"}\n')
    status, _, err = command("predict", model, file, "--out", tmp_path / "parts.jsonl")
    assert status == 2 and "was begun with another size" in err and err.count("\n") == 1


def test_columns_are_those_of_the_first_record_also_after_a_stop(model, tmp_path, command, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 4)
    path = tmp_path / "mixed.jsonl"
    records = [{"sentence": "good"}] * 4 + [{"premise": "good", "hypothesis": "bad", "sentence": "one good film"}] * 4
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    command("predict", model, path, "--out", tmp_path / "whole.jsonl")
    read = []

    def killed(objective, *rest):
        read.append((objective.text, objective.pair))
        if len(read) == 2:
            raise KeyboardInterrupt
        return whole(objective, *rest)

    whole = room.encode_rows
    monkeypatch.setattr(room, "encode_rows", killed)
    command("predict", model, path, "--out", tmp_path / "parts.jsonl")
    command("predict", model, path, "--out", tmp_path / "parts.jsonl")
    assert read == [("sentence", "")] * 3
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def begun(model, file, out, command, monkeypatch):
    """Kill predict in its first chunk, which leaves an empty partial file and its note."""
    with monkeypatch.context() as patched:
        patched.setattr(room, "encode_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("predict", model, file, "--out", out)[0] == 130
    return out.with_name(out.name + ".partial"), out.with_name(out.name + ".partial.json")


def test_what_one_model_began_another_of_the_same_name_does_not_finish(model, file, tmp_path, command, monkeypatch):
    shutil.copytree(model, tmp_path / "model")
    _, note = begun(tmp_path / "model", file, tmp_path / "out.jsonl", command, monkeypatch)
    assert json.loads(note.read_text())["checkpoint"] == "best"
    weights = tmp_path / "model" / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))  # exported anew
    status, _, err = command("predict", tmp_path / "model", file, "--out", tmp_path / "out.jsonl")
    assert status == 2 and "was begun with another parameters: remove it" in err and err.count("\n") == 1


def test_one_predict_at_a_time_writes_a_file(model, file, tmp_path, command, monkeypatch):
    out, real, second = tmp_path / "out.jsonl", room.encode_rows, []

    def meanwhile(*arguments):
        if not second:
            second.append(0)
            second[0] = command("predict", model, file, "--out", out)
        return real(*arguments)

    monkeypatch.setattr(room, "encode_rows", meanwhile)
    assert command("predict", model, file, "--out", out)[0] == 0 and len(lines(out)) == 15
    said = f"another predict is writing {out}.partial: wait for it, or choose another --out"
    assert second == [(2, "", f"error: {said}\n")]
    assert sorted(tmp_path.glob("out*")) == [out]


def test_what_was_made_meanwhile_is_not_written_over(model, file, tmp_path, command, monkeypatch):
    out, real = tmp_path / "out.jsonl", room.encode_rows
    monkeypatch.setattr(room, "encode_rows", lambda *rest: out.write_text("mine") and real(*rest))
    status, _, err = command("predict", model, file, "--out", out)
    assert status == 2 and "is there already: remove it" in err and out.read_text() == "mine"
    out.unlink()
    monkeypatch.setattr(room, "encode_rows", real)
    status, _, err = command("predict", model, file, "--out", out)
    assert status == 0 and "going on after 15 records" in err and len(lines(out)) == 15


def test_a_new_folder_is_made_and_what_is_not_ours_stays(model, file, tmp_path, command, monkeypatch):
    out = tmp_path / "new" / "sub" / "out.jsonl"
    partial, note = begun(model, file, out, command, monkeypatch)
    for broken in ('{"format"', "", "[]"):
        note.write_text(broken)
        status, _, err = command("predict", model, file, "--out", out)
        assert status == 2 and "out.jsonl.partial.json does not say of what: remove it" in err and err.count("\n") == 1
    note.unlink()
    partial.write_text("mine")
    assert command("predict", model, file, "--out", out)[0] == 2 and partial.read_text() == "mine"
    partial.unlink()
    assert command("predict", model, file, "--out", out)[0] == 0 and len(lines(out)) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "predict needs a model and a file first"),
        (["{model}", "{file}"], "--out is missing"),
        (["{model}", "none.jsonl", "--out", "x"], "none.jsonl: no such file"),
        (["{model}", "{model}", "--out", "x"], "model is a folder: give one file"),
        (["{model}", "{file}", "--out", "{file}"], "is there already: remove it"),
        (["{file}", "{file}", "--out", "x"], "give an existing folder"),
        (["{model}", "{file}", "--out", "x", "--batch-size", "0"], "--batch-size is 0"),
        (["{model}", "{file}", "--out", "x", "--metod", "beam"], "unknown field --metod: did you mean --method?"),
        (["{model}", "{file}", "--out", "x", "--checkpoint", "worst"], "--checkpoint: 'worst' is not best"),
        (["{model}", "{file}", "--out", "x", "--checkpoint", "3"], "is no run: it has one set of parameters"),
    ],
)
def test_mistakes_are_one_line(arguments, message, model, file, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [each.replace("{model}", str(model)).replace("{file}", str(file)) for each in arguments]
    status, out, err = command("predict", *given)
    assert (status, out) == (2, "") and message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_file_of_other_columns_is_refused_and_leaves_nothing(model, tmp_path, command):
    path = tmp_path / "other.jsonl"
    path.write_text("no record\n" + '{"one": "good", "other": "bad"}\n' * 40)
    status, out, err = command("predict", model, path, "--out", tmp_path / "out.jsonl")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"{path}:2: no column" in err and "only 'one', 'other'" in err
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_refused_before_the_first_answer_leaves_nothing(model, tmp_path, command):
    path = tmp_path / "torn.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "good"}\n' * 400)[:-12])
    status, out, err = command("predict", model, path, "--out", tmp_path / "out.jsonl")
    assert (status, out) == (2, "") and err.endswith("fetch it anew\n"), err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "tercet.json does not describe a run (it is not JSON): export the run again"),
        ("{}", "tercet.json does not describe a run (configuration: "),
        ('{"nam": 1}', "unknown field nam: did you mean name?): export the run again"),
    ],
)
def test_a_damaged_record_of_the_run_is_named(text, message, model, file, tmp_path, command):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "tercet.json").write_text(text)
    status, out, err = command("predict", tmp_path / "model", file, "--out", tmp_path / "out.jsonl")
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_an_adapter_alone_is_refused(file, tmp_path, command):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    status, _, err = command("predict", tmp_path / "adapter", file, "--out", tmp_path / "out.jsonl")
    assert status == 2 and err.endswith("holds low-rank updates alone: export the whole model, without --adapter\n")


def test_a_tagger_tells_tags_and_entities(tmp_path, command):
    labels = ("B-X", "I-X")
    folder = exported(tmp_path / "tagger", with_head(SHAPE, "tokens", 2), "wordpiece", labels=labels)
    text = "one good film, " * 9  # longer than a row
    records = [{"words": ["bad", "film"]}, [], {"text": text}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    status, _, err = command("predict", folder, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    words, wrong, whole = lines(tmp_path / "out.jsonl")
    assert status == 1 and wrong.keys() == {"line", "error"} and wrong["error"] in err
    for answer, read in ((words, "bad film"), (whole, text)):
        assert answer.keys() == {"line", "words", "tags", "entities"} and len(answer["words"]) == len(answer["tags"])
        assert set(answer["tags"]) <= set(labels) and answer["entities"]
        for entity in answer["entities"]:
            assert entity.keys() == {"type", "text", "start", "end", "first", "last"} and entity["type"] == "X"
            assert read[entity["start"] : entity["end"]] == entity["text"]
            assert entity["text"].split()[0] == answer["words"][entity["first"]]
    assert [answer["line"] for answer in (words, wrong, whole)] == [1, 2, 3] and len(whole["words"]) == 36


def test_a_writer_tells_texts(tmp_path, command):
    arch = dataclasses.replace(preset("t5-nano"), width=16, mlp_width=32, layers=1)
    folder = exported(tmp_path / "writer", arch, "unigram", decoder_start=0)
    records = [*({"source": text} for text in TEXTS[:5]), {"a": 1, "b": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    flags = ["--max-new-tokens", "4", "--method", "beam", "--beams", "2", "--returned", "2"]
    status, _, err = command("predict", folder, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", *flags)
    *answers, wrong = lines(tmp_path / "out.jsonl")
    assert status == 1 and "no column 'source', only 'a', 'b'" in wrong["error"] and err.count("warning: ") == 1
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5]
    for answer in answers:
        assert answer.keys() == {"line", "predicted", "score", "texts"}
        assert len(answer["texts"]) == 2 and answer["texts"][0] == answer["predicted"] and answer["score"] < 0


def test_who_continues_text_answers_no_records(file, tmp_path, command):
    held = to_json(small.run("causal", tmp_path))
    arch = dataclasses.replace(preset("gpt2-nano"), width=16, mlp_width=32, layers=1)
    folder = exported(tmp_path / "causal", arch, "bpe", record=held)
    status, out, err = command("predict", folder, file, "--out", tmp_path / "out.jsonl")
    said = "was trained on running text (Causal) and answers no records: use generate, or fine-tune it on a task"
    assert (status, out, err) == (2, "", f"error: {folder} {said}\n")


@pytest.mark.parametrize("name", ["generate", "fill-mask"])
def test_who_tells_labels_apart_makes_no_text(name, model, command):
    status, out, err = command(name, model, "--prompt", "one [MASK]")
    assert (status, out) == (2, "") and err == f"error: {model} tells labels apart and makes no text: use predict\n"


def test_help_imports_no_jax():
    import subprocess
    import sys

    code = "import sys; from research.commands.predict import main; main(['--help']); print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n") and "--out" in result.stdout
