"""Every data set, tokenizer and paper that experiments use has a record: its terms, its citation, its checksums."""

import hashlib
import pathlib
import re
import tomllib
import typing

import pytest

from experiments.ladder import RUNS
from research import models
from research.config import Optimizer, load_experiment
from research.data.sources import Source
from research.interop import card
from research.models.arch import Arch
from research.report.records import ABOVE
from tests.test_experiments import FILES, local  # noqa: F401 (a fixture)

RECORDS = {
    file.parent.name: tomllib.loads(file.read_text(encoding="utf-8"))
    for file in sorted(card.RECORDS.glob("*/METADATA.toml"))
}
FIELDS = {"kind", "title", "licence", "source", "bibtex"}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_what_it_is_on_what_terms_and_how_it_is_cited(name):
    record = RECORDS[name]
    files = {"sha256"} if record["kind"] in ("dataset", "checkpoint") else set()
    assert FIELDS | files <= record.keys() <= FIELDS | files | {"note", "published", "fields" if record["kind"] == "paper" else "names"}
    assert record["kind"] in ("dataset", "checkpoint", "paper")
    assert all(record[field].strip() for field in record.keys() - {"sha256", "names", "fields", "published"})
    assert re.fullmatch(r"https://[^\s/]+/\S+", record["source"])
    [(key, fields)] = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}$", record["bibtex"], re.MULTILINE | re.DOTALL)
    assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = \{.*\},?$", fields, re.MULTILINE))
    assert fields.count("{") == fields.count("}") and re.search(r"\d{4}", key)
    for file, checksum in record.get("sha256", {}).items():
        assert pathlib.PurePath(file).name == file and re.fullmatch(r"[0-9a-f]{64}", checksum)


def test_papers_of_methods_name_fields_and_values_that_runs_have():
    from research.models import ladder, ngram  # shapes of arch, which are not all of one class

    kinds = {"optimizer": [Optimizer], "arch": [Arch, ladder.Recurrent, ladder.FeedForward, ngram.Ngram]}
    papers = {name: record["fields"] for name, record in RECORDS.items() if "fields" in record}
    assert len(papers) > 5
    named = {"name": set(RUNS), "arch.model": set(models.ARCHITECTURES)}
    for path, values in ((path, values) for fields in papers.values() for path, values in fields.items()):
        options = [named[path]] if path in named else list(_options(path, kinds))
        assert values and any(set(values) <= set(each) for each in options), path


def _options(path, kinds):
    group, field = path.split(".")
    for kind in kinds[group]:
        if field in (hints := typing.get_type_hints(kind)):
            yield {bool: (True, False), float: (ABOVE,)}.get(hints[field]) or typing.get_args(hints[field])


def test_published_figures_are_of_runs_of_the_ladder_and_their_papers_are_cited_with_these():
    figures = {name: record["published"] for name, record in RECORDS.items() if "published" in record}
    assert {"mikolov2012statistical", "zaremba2014recurrent", "pytorch2017word"} == figures.keys()
    for name, published in figures.items():
        assert [figure["name"] for figure in published] == RECORDS[name]["fields"]["name"]
        assert all(figure["value"] > 50 and figure["source"] for figure in published)


def test_every_local_data_set_and_tokenizer_of_an_experiment_has_a_record(local):  # noqa: F811
    runs = [load_experiment(str(file)) for file in FILES]
    tokenizers = {pathlib.Path(run.data.tokenizer.path).name for run in runs if run.data.tokenizer.path}
    for kind, used in (("dataset", {each.name for each in local.iterdir()}), ("checkpoint", tokenizers)):
        assert len(used) > 3
        assert used <= {name for name, record in RECORDS.items() if record["kind"] == kind}


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record["kind"] != "paper"])
def test_checksums_are_those_of_the_files_and_the_model_card_finds_the_terms(name, data_folder):
    record, folder = RECORDS[name], data_folder / name
    if record["kind"] == "checkpoint":
        folder = data_folder / "../tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder} here")
    there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}
    assert all(there.get(file, checksum) == checksum for file, checksum in record["sha256"].items())
    if record["kind"] == "dataset":
        assert there.keys() <= record["sha256"].keys()
        assert card.licence(Source(str(folder))) == (record["licence"], record["source"])
