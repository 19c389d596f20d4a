"""generate and fill-mask on a folder: prompts from everywhere, answers as text or JSON, mistakes in one line."""

import dataclasses
import io
import json
import pydoc_data.topics

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from research.commands.main import main
from research.data.tokenizer import Tokenizer, train, vocabulary
from research.interop import export
from research.models import preset
from research.models.build import parameter_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folders of small random models by the name of their preset."""
    text = "\n".join(pydoc_data.topics.topics.values())[:40_000]
    tokenizer = train(Tokenizer(kind="bpe", size=420, sentinels=20), text.split("\n\n"))
    words, where = vocabulary(tokenizer), tmp_path_factory.mktemp("models")

    def make(name):
        if not (where / name).exists():
            arch = dataclasses.replace(preset(name), width=32, mlp_width=64, layers=1, vocab_size=words.size)
            draw = np.random.default_rng(0)
            params = jax.tree.map(lambda x: draw.normal(0, 0.2, x.shape).astype(np.float32), parameter_shapes(arch))
            card = ModelCard("---\nlicense: mit\n---\n")
            export.write(where / name, arch, params, tokenizer, words, card, decoder_start=words.pad)
        return str(where / name)

    return make


def test_a_prompt_is_continued_and_the_same_whatever_stands_beside_it(model, tmp_path, capsys, monkeypatch):
    common = ["--method", "sample", "--max-new-tokens", "6", "--top-k", "30"]
    assert main(["generate", model("gpt2-nano"), "--prompt", "The value", *common]) == 0
    alone = capsys.readouterr().out
    assert alone.startswith("The value") and len(alone) > len("The value\n")
    file = tmp_path / "prompts.txt"
    file.write_text("Return\nThe value\n\n")
    assert main(["generate", model("gpt2-nano"), "--file", str(file), "--json", *common]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["Return", "The value", ""]
    assert "The value" + rows[1]["texts"][0] == alone[:-1] and len(rows[1]["scores"]) == 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The value\n")))
    assert main(["generate", model("gpt2-nano"), *common]) == 0
    assert capsys.readouterr().out == alone


def test_beams_of_an_encoder_decoder_come_best_first(model, capsys):
    words = ["--method", "beam", "--beams", "3", "--returned", "3", "--max-new-tokens", "5", "--json"]
    assert main(["generate", model("t5-nano"), "--prompt", "The <extra_id_0> of it", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["texts"]) == 3 and found["scores"] == sorted(found["scores"], reverse=True)


def test_a_terminal_sees_the_same_text_as_a_file(model, capsys, monkeypatch):
    words = ["generate", model("gpt2-nano"), "--prompt", "The value", "--max-new-tokens", "9"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr("research.commands.generate._is_seen", lambda: True)
    assert main(words) == 0
    assert capsys.readouterr().out == whole


def test_an_empty_prompt_and_one_that_looks_like_a_flag_are_prompts(model, capsys):
    for words in (["--prompt", ""], ["--prompt="], ["--prompt", "--- a/x"]):
        assert main(["generate", model("gpt2-nano"), *words, "--max-new-tokens", "3"]) == 0
        assert len(capsys.readouterr().out) > 1


def test_masks_are_filled_in(model, capsys):
    assert main(["fill-mask", model("bert-nano"), "--prompt", "The <mask> of <mask>.", "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(guesses) for guesses in found["masks"]] == [3, 3]
    assert main(["fill-mask", model("bert-nano"), "--prompt", "The <mask>."]) == 0
    assert capsys.readouterr().out.count("%") == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "{gpt2-nano}", "--prompt", "x", "--top-q", "1"], "unknown field --top-q: did you mean --top-p?"),
        (["generate", "{gpt2-nano}", "--prompt", "x", "--temperature", "0"], "temperature is 0.0: it must be above 0"),
        (["generate", "{gpt2-nano}", "--prompt", "x", "--file", "y"], "--prompt and --file are given: leave one out"),
        (["generate", "{gpt2-nano}", "--file", "none.txt"], "none.txt: No such file or directory"),
        (["generate", "{gpt2-nano}", "--prompt", "x", "--checkpoint", "best"], "is no run"),
        (["generate", "{gpt2-nano}", "--prompt", "x", "--batch-size", "0"], "--batch-size is 0"),
        (["generate", "{bert-nano}", "--prompt", "x"], "an encoder makes no text: use fill-mask"),
        (["generate", "nowhere/at/all", "--prompt", "x"], "no folder 'nowhere/at/all'"),
        (["generate", "--prompt", "x"], "generate needs a model first"),
        (["fill-mask", "{gpt2-nano}", "--prompt", "a <mask>"], "a decoder does not fill masks"),
        (["fill-mask", "{bert-nano}", "--prompt", "no mask"], "no <mask> in 'no mask'"),
        (["fill-mask", "{bert-nano}", "--prompt", "a <mask>", "--top", "0"], "top is 0"),
    ],
)
def test_a_mistake_is_one_line(model, words, said, capsys):
    words = [model(word[1:-1]) if word.startswith("{") else word for word in words]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_file_that_is_not_utf8_is_named_with_its_line(model, tmp_path, capsys):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"fine\ncaf\xe9\n")
    assert main(["generate", model("gpt2-nano"), "--file", str(file)]) == 2
    assert "latin.txt, line 2: not UTF-8" in capsys.readouterr().err
