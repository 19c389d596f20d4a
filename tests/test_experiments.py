"""Every experiment is a run that could start: it loads, passes the checks, survives JSON, says how it is run."""

import ast
import gzip
import json
import pathlib
import re

import pytest

from research.config import Run, check, from_json, is_task, load_experiment, to_json
from research.objectives import OBJECTIVES
from research.types import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = [file for file in sorted((ROOT / "experiments").glob("*.py")) if "\ndef config(" in file.read_text()]
WIKITEXT = [file for file in FILES if file.stem.endswith("_wikitext2")]
names = lambda files: pytest.mark.parametrize("file", files, ids=lambda file: file.stem)  # noqa: E731


@pytest.fixture
def local(tmp_path, monkeypatch):
    """An empty stand-in for a folder of data: `check` looks for what it names, and reads nothing."""
    folder = tmp_path / "data"
    (folder / "wikitext2").mkdir(parents=True)
    (folder / "tinyshakespeare").mkdir()
    (folder / "tinyshakespeare" / "all.txt").touch()
    for task in ("sst2", "sms_spam", "conll2003", "dialogsum", "dailydialog", "multi30k_en_de"):
        (folder / task).mkdir()
    for name in ("bert-base-uncased", "bert-base-cased", "roberta-base", "gpt2", "t5-small"):
        (tmp_path / "tokenizers" / name).mkdir(parents=True)
    for split in ("train", "validation", "test"):
        pair = json.dumps({"source": "A man, a dog.", "target": "Ein Mann, ein Hund."})
        (folder / "multi30k_en_de" / f"{split}.jsonl.gz").write_bytes(gzip.compress(pair.encode()))
    monkeypatch.setattr("experiments.local.FOLDER", folder)
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERCET_DATA", str(folder))
    return folder


def test_all_objectives_have_an_experiment(local):
    assert len(WIKITEXT) == 3
    found = {type(load_experiment(str(file)).objective).__name__ for file in FILES}
    assert found == {objective.__name__ for objective in OBJECTIVES.values()}


@names(FILES)
def test_an_experiment_loads_and_could_start(file, local):
    run = load_experiment(str(file))
    assert isinstance(run, Run) and run.name == file.stem
    check(run)
    assert run == load_experiment(str(file))


@names(FILES)
def test_an_experiment_survives_json(file, local):
    run = load_experiment(str(file))
    assert from_json(json.loads(json.dumps(to_json(run)))) == run


@names(FILES)
def test_the_docstring_says_how_it_is_run_and_where_it_comes_from(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    commands = re.search(r"^Command: .*?(?=^[A-Z]\w+: )", text, re.MULTILINE | re.DOTALL)  # first those that it builds on
    assert commands and f"experiments/{file.name}" in re.findall(r"python -m research train (\S+)$", commands[0], re.MULTILINE)
    assert "Source:" in text


@names(FILES)
def test_what_was_measured_says_its_cost_and_result(file, local):
    text = ast.get_docstring(ast.parse(file.read_text()))
    measured = is_task(load_experiment(str(file))) or (ROOT / "experiments" / "results" / f"{file.stem}.jsonl").exists()
    assert not measured or re.search(r"^Cost: .*^Result: ", text, re.MULTILINE | re.DOTALL)


def test_a_module_without_config_is_no_experiment():
    with pytest.raises(UserError, match="has no attribute 'config'"):
        load_experiment(str(ROOT / "experiments" / "pydocs.py"))


@names(WIKITEXT)
def test_wikitext_is_read_from_a_local_copy_where_there_is_one(file, local):
    data = load_experiment(str(file)).data
    assert [source.path for source in data.sources] == [str(local / "wikitext2")]
    path = pathlib.Path(data.tokenizer.path)
    assert path.parent == local.parent / "tokenizers" and data.sources[0].name == ""


@names(WIKITEXT)
def test_wikitext_is_the_hubs_without_one(file, monkeypatch):
    monkeypatch.delenv("TERCET_DATA", raising=False)
    run = load_experiment(str(file))
    check(run)
    assert [(each.path, each.name) for each in run.data.sources] == [("Salesforce/wikitext", "wikitext-2-raw-v1")]
    assert run.data.tokenizer.path in ("gpt2", "bert-base-uncased", "t5-small")


@names(WIKITEXT)
def test_wikitext_runs_are_of_a_size_that_learns(file, local):
    run = load_experiment(str(file))
    assert run.steps * run.batch_size * run.data.length >= 1_000_000
    assert run.arch.layers >= 4 and run.arch.width >= 256
    assert run.arch.structure != "encoder-decoder" or (run.arch.decoder_layers or run.arch.layers) >= 4
