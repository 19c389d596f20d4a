"""What of others the runs used is cited, and what has no record is said."""

import pytest

from research.report import records, runs
from research.types import UserError
from tests.report import made

KNOWN = records.read()


def found(*folders):
    return records.find(runs.load(folders, "test"), KNOWN)


def test_what_was_used_and_nothing_else(tmp_path):
    folder = made.run(
        tmp_path / "a", data__sources__0__path="/data/wikitext2", data__tokenizer__path="openai-community/gpt2",
        arch__cell=None,
    )  # fmt: skip
    result = found(folder)
    assert set(result.used) == {"wikitext2", "gpt2", "loshchilov2019decoupled"} and not result.missing
    text = records.bibliography(result)
    assert text.count("@") == 3 and "merity2017pointer" in text and "radford2019language" in text
    assert [row[0].text for row in records.licences(result).rows] == ["GPT-2 (tokenizer)", "WikiText-2"]


def test_a_file_is_of_the_record_of_its_folder_and_a_hub_id_of_its_source(tmp_path):
    file = made.run(tmp_path / "a", data__sources__0__path="/data/ptb/train.txt.gz")
    hub = made.run(tmp_path / "b", data__sources__0__path="Salesforce/wikitext")
    assert "ptb" in found(file).used and "wikitext2" in found(hub).used
    assert "pydocs" in found(made.run(tmp_path / "c", data__sources__0__path="pydocs")).used


def test_what_is_not_recorded_is_said_once_with_its_runs(tmp_path):
    folders = [made.run(tmp_path / f"r{i}", seed=i, data__sources__0__path="/mine/diary") for i in range(5)]
    result = found(*folders)
    assert result.missing == ["dataset /mine/diary has no record in third_party (r0, r1, r2 and 2 more runs)"]
    assert ("", f"Not recorded: {result.missing[0]}.") in records.licences(result).notes


def test_methods_are_cited_by_their_fields(tmp_path):
    kn = made.run(tmp_path / "kn", "kn", trained=False, arch={"order": 5, "smoothing": "modified-kneser-ney"})
    lstm = made.run(tmp_path / "lstm", "lstm")
    papers = {name for name, record in found(kn).used.items() if record["kind"] == "paper"}
    assert papers == {"kneser1995improved", "chen1999empirical"}  # its optimizer was never used
    assert {"hochreiter1997long", "loshchilov2019decoupled"} <= set(found(lstm).used)


def test_the_data_of_the_run_that_it_started_from_counts(tmp_path):
    first = made.run(tmp_path / "first", data__sources__0__path="/data/wikitext2")
    tuned = made.run(tmp_path / "tuned", data__sources__0__path="/data/sst2", init__path=str(first))
    assert {"wikitext2", "sst2"} <= set(found(tuned).used)
    gone = made.run(tmp_path / "gone", data__sources__0__path="/data/sst2", init__path="runs/elsewhere")
    assert found(gone).missing == ["checkpoint runs/elsewhere has no record in third_party (gone)"]


def test_published_figures_are_of_a_run_a_score_and_a_split():
    figures = records.published(KNOWN, "test", "perplexity")
    assert figures["ptb_kn5"] == (141.2, "Mikolov (2012), table 4.1")
    assert not records.published(KNOWN, "validation", "perplexity") and not records.published(KNOWN, "test", "loss")
    with pytest.raises(UserError, match=r"METADATA.toml: a published figure has no value: add it"):
        figure = {"name": "a", "score": "loss", "split": "test", "source": "somebody"}
        records.published({"b": {"published": [figure]}}, "test", "loss")


def test_a_key_is_written_once(tmp_path):
    folder = made.run(
        tmp_path / "a", data__tokenizer__path="/t/bert-base-cased", init__path="google-bert/bert-base-uncased"
    )
    assert records.bibliography(found(folder)).count("devlin2019bert") == 1


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "METADATA.toml").write_text("kind = x\n")
    with pytest.raises(UserError, match=r"x/METADATA\.toml: .*line 1"):
        records.read(tmp_path)
