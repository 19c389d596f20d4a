"""Records stream through prediction: what is held is a chunk of them, however many there are."""

import gc
import json
import tracemalloc

import numpy as np
import pytest

from research.data.records import rows_of_file
from research.generate.decoding import Generated
from research.generate.prompts import Reader
from research.generate.settings import Decoding
from research.objectives import Classification, Completion, Tagging
from research.train import predict as room
from research.train.predict import Predictor, predict
from tests.tasks.tiny import coder

OBJECTIVES = {
    "classification": Classification(text="text", label="label", labels=("a", "b")),
    "tagging": Tagging("text", "tags", labels=("O", "B-X"), overlap=4),
    "completion": Completion("text", "target", target_length=4),
}


@pytest.fixture
def predictor(monkeypatch):
    """Return the predictor of a task whose model is a stub that computes nothing."""

    def logits(params, inputs, *, model):
        chosen = inputs.get("select", inputs["tokens"])
        return np.zeros((*chosen.shape, 2), np.float32)

    def generate(model, params, prompts, decoding, **_):
        return [[Generated(list(prompt.tokens[-2:]), -1.0)] for prompt in prompts]

    monkeypatch.setattr(room, "_logits", logits)
    monkeypatch.setattr(room, "generate", generate)

    def of(name):
        ours = coder("bpe" if name == "completion" else "wordpiece")
        structure = "decoder" if name == "completion" else "encoder"
        reader = Reader(ours.backend, ours.known, structure, OBJECTIVES[name], None, (), ours, 32)
        return Predictor(None, None, OBJECTIVES[name], reader, 64, None, ())

    return of


def written(path, count):
    """Write `count` records, every tenth of which is broken."""
    with open(path, "w", encoding="utf-8") as file:
        for n in range(count):
            file.write(json.dumps({"text": f"the cat number {n}"}) + "\n" if n % 10 else "no record\n")
    return path


def peak(predictor, path):
    """Return how many answers and errors there are, and the most bytes that were held at once."""
    gc.collect()
    tracemalloc.start()
    try:
        answers = errors = 0
        for answer in predict(predictor, rows_of_file(path), Decoding(max_new_tokens=2)):
            answers, errors = answers + 1, errors + ("error" in answer)
            assert answer["line"] == answers
        return answers, errors, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def compare(predictor, tmp_path, few, many):
    warm = written(tmp_path / "warm.jsonl", few)
    peak(predictor, warm)  # what is made once, such as caches of compiled expressions
    found = [peak(predictor, written(tmp_path / f"{count}.jsonl", count)) for count in (few, many)]
    assert [each[:2] for each in found] == [(few, few // 10), (many, many // 10)]
    assert found[1][2] < 1.2 * found[0][2] + 2**16


@pytest.mark.parametrize("name", OBJECTIVES)
def test_memory_does_not_grow_with_the_records(name, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 50)
    monkeypatch.setattr(room, "TEXTS", 50)
    compare(predictor(name), tmp_path, 100, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_memory_does_not_grow_with_very_many_records(name, predictor, tmp_path):
    compare(predictor(name), tmp_path, 10_000, 100_000)


def test_the_first_answer_comes_when_the_first_chunk_was_read(predictor, tmp_path):
    read = 0

    def counted(rows):
        nonlocal read
        for row in rows:
            read += 1
            yield row

    rows = rows_of_file(written(tmp_path / "a.jsonl", 3 * room.CHUNK))
    answers = predict(predictor("classification"), counted(rows))
    assert next(answers)["line"] == 1 and read == room.CHUNK
    assert sum(1 for _ in answers) == 3 * room.CHUNK - 1 == read - 1
