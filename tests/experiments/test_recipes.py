"""The recipes are the published ones, number by number; each trains, at reduced size, by the commands it names."""

import ast
import json
import pathlib
import re
import shlex

import pytest

from research.commands import main as door
from research.commands import overrides
from research.commands.arguments import switch
from research.config import check, from_json, load_experiment, to_json
from research.models import preset
from research.models.arch import base
from research.models.build import parameter_count
from research.report import logs
from research.train.optimizer import learning_rate
from tests.models.test_presets import PUBLISHED
from tests.test_experiments import local  # noqa: F401 (a fixture)

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"

# batch tokens and steps by phase, of the whole: warm-up, peak rate, (b1, b2, epsilon), decay, clipping, dropout; model
TABLE = {
    "bert_base": ([(256 * 128, 900_000), (256 * 512, 1_000_000)], 10_000, 1e-4, (0.9, 0.999, 1e-6), 0.01, 1.0, 0.1, "bert-base-uncased"),
    "roberta_base": ([(8192 * 512, 500_000)], 24_000, 6e-4, (0.9, 0.98, 1e-6), 0.01, 0.0, 0.1, "roberta-base"),
    "gpt2_124m": ([(491_520, 600_000)], 2000, 6e-4, (0.9, 0.95, 1e-8), 0.1, 1.0, 0.0, "gpt2"),
    "t5_base": ([(128 * 568, 2**19)], 10_000, 0.01, None, 0.0, 0.0, 0.1, "t5-base"),
    "bart_base": ([(8000 * 512, 450_000), (8000 * 512, 500_000)], 24_000, 6e-4, (0.9, 0.98, 1e-6), 0.01, 0.0, 0.1, "bart-base"),
}  # fmt: skip
recipes = pytest.mark.parametrize("name", TABLE)


def file_of(name):
    return EXPERIMENTS / f"{name}.py"


def commands(name):
    """Return the words after `train FILE` of each command of the docstring."""
    text = ast.get_docstring(ast.parse(file_of(name).read_text()))
    found = re.search(r"^Command:(.*?)^Devices:", text, re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    lines = [shlex.split(line) for line in found.strip().splitlines()]
    assert all(words[:5] == ["python", "-m", "research", "train", f"experiments/{name}.py"] for words in lines)
    return [words[5:] for words in lines]


def phases(name):
    """Return the run of each command, checked as `train` would."""
    found = []
    for number, words in enumerate(commands(name)):
        goes_on, words = switch(words, "--allow-changes")
        assert goes_on == (number > 0)
        found.append(overrides.parse(load_experiment(str(file_of(name))), words))
        check(found[-1])
    return found


@recipes
def test_a_recipe_has_the_published_numbers(name, local):  # noqa: F811
    published, warmup, peak, adam, decay, clip, dropout, model = TABLE[name]
    runs = phases(name)
    assert [(run.batch_size * run.data.length, run.steps) for run in runs] == published
    for run in runs:
        assert (run.schedule.warmup, run.optimizer.learning_rate) == (warmup, peak)
        assert (run.optimizer.weight_decay, run.optimizer.clip) == (decay, clip)
        assert adam in (None, (run.optimizer.b1, run.optimizer.b2, run.optimizer.epsilon))
        assert run.loss.label_smoothing == 0
        assert from_json(json.loads(json.dumps(to_json(run)))) == run
    first = runs[0]
    assert first.arch.dropout == first.arch.attention_dropout == dropout
    assert PUBLISHED[model] == parameter_count(base(first.arch))
    assert first.arch.vocab_size == preset(model).vocab_size


@recipes
def test_it_runs_on_one_device_and_on_eight(name, local):  # noqa: F811
    text = ast.get_docstring(ast.parse(file_of(name).read_text()))
    text = " ".join(text.split("Devices:")[1].split("Source:")[0].split())
    assert "--mesh.data 8" in text
    eight = [int(parts) for parts in re.findall(r"add `--mesh.data 8 --microbatches (\d+)`", text)] or [1]
    for run in phases(name):
        assert run.mesh.fsdp == run.mesh.tensor == 1
        for devices, parts in ((1, run.microbatches), (8, eight[0])):
            rows, rest = divmod(run.batch_size, devices * parts)
            assert rest == 0 and rows * run.data.length <= 2**15  # tokens that a device holds at once


@pytest.mark.parametrize("name", ["bert_base", "roberta_base"])
def test_masks_are_the_published_ones(name, local):  # noqa: F811
    for run in phases(name):
        masks = run.objective
        assert (masks.rate, masks.mask_share, masks.random_share, masks.keep_share) == (0.15, 0.8, 0.1, 0.1)
        assert run.data.cross_documents == (name == "roberta_base")


def test_what_t5_and_bart_publish_of_their_objectives(local):  # noqa: F811
    [t5], (bart, last) = phases("t5_base"), phases("bart_base")
    assert t5.objective.lengths(t5.data.length) == (512, 114, 114)
    assert t5.optimizer.name == "adafactor" and t5.optimizer.parameter_scale and t5.loss.z_loss == 1e-4
    rate = learning_rate(t5.schedule, t5.optimizer.learning_rate, t5.steps)
    assert [float(rate(n - 1)) for n in (1, 10_000, 2**19)] == pytest.approx([0.01, 0.01, 2**-9.5])
    assert (bart.objective.mask_share, bart.objective.mean_span, bart.objective.permute_sentences) == (0.3, 3.0, True)
    assert last.arch.dropout == last.arch.attention_dropout == last.arch.activation_dropout == 0
    assert bart.data.sources == load_experiment(str(file_of("roberta_base"))).data.sources


@pytest.mark.parametrize("name", ["bert_base", "bart_base"])
def test_two_phases_have_one_schedule(name, local):  # noqa: F811
    first, second = (learning_rate(run.schedule, 1.0, run.steps) for run in phases(name))
    (_, change), (_, steps) = TABLE[name][0]
    for step in (0, 5000, 100_000, change - 1):
        assert float(first(step)) == pytest.approx(float(second(step)), rel=1e-5)
    assert float(second(steps - 1)) < 1e-5


SMALL = (
    "--arch.width 32 --arch.layers 2 --arch.heads 2 --arch.mlp-width 64 --arch.vocab-size 0 --data.tokenizer.path= "
    "--data.tokenizer.kind bpe --data.tokenizer.size 600 --data.length 64 --batch-size 8 --microbatches 2 "
    "--mesh.data 2 --schedule.warmup 5 --optimizer.learning-rate 0.01 --log-every 1 --evaluate-every 0 --evaluate-rows 8"
).split()


@pytest.mark.slow
@recipes
def test_a_recipe_trains_at_reduced_size(name, local, tmp_path, monkeypatch):  # noqa: F811
    """20 steps by the real command; where it has two phases, 16 and 4 more: about 20 seconds each."""
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    small = [*SMALL, *(["--arch.head-width", "16"] if name == "t5_base" else [])]
    for index in range(len(load_experiment(str(file_of(name))).data.sources)):
        source = f"--data.sources.{index}"
        small += [f"{source}.path", "pydocs", f"{source}.name=", f"{source}.limit", f"{0.1 + index / 100}"]
    folder, given = tmp_path / "run", commands(name)
    ends = [20] if len(given) == 1 else [16, 20]
    for words, steps in zip(given, ends, strict=True):
        longer = ["--data.length", "96"] if "--data.length" in words else []
        lower = ["--schedule.floor", str(4 / 15)] if steps == 16 else []
        asked = replaced(small, ["--steps", str(steps), *longer, *lower])
        kept = replaced(words, asked)  # the docstring's words, at reduced size
        assert door.main(["train", str(file_of(name)), *kept, "--out", str(folder)]) == 0
    rows = [row for row in logs.read(folder) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[-1]["loss"] < rows[0]["loss"]
    if len(ends) == 2:
        line = [0.01 * n / 15 for n in range(15, 0, -1)]
        assert [row["learning_rate"] for row in rows[5:]] == pytest.approx(line, rel=1e-3)


def replaced(words, others):
    """Return `words` with the flags of `others` in place of their own, and the rest of those added."""
    values = {}
    for word in [*words, *others]:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            values[flag] = [value] if equals else []
        else:
            values[flag].append(word)
    return [f"{flag}={value[0]}" if value else flag for flag, value in values.items()]
