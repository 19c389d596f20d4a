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
    for weight in (0.0, 0.1):
        folder = made.run(tmp_path / f"cache{weight}", trained=False, arch={"cache": weight})
        assert ("kuhn1990cache" in found(folder).used) is (weight > 0)


def test_the_data_of_the_run_that_it_started_from_counts(tmp_path):
    first = made.run(tmp_path / "first", data__sources__0__path="/data/wikitext2")
    tuned = made.run(tmp_path / "tuned", data__sources__0__path="/data/sst2", init__path=str(first))
    assert {"wikitext2", "sst2"} <= set(found(tuned).used)
    gone = made.run(tmp_path / "gone", data__sources__0__path="/data/sst2", init__path="runs/elsewhere")
    assert found(gone).missing == ["checkpoint runs/elsewhere has no record in third_party (gone)"]


def test_published_figures_are_of_a_run_a_score_and_a_split():
    figures = records.published(KNOWN, "test", "perplexity")
    assert 141.2 in [figure.value for figure in figures["ptb_kn5"]]
    assert not records.published(KNOWN, "validation", "perplexity") and not records.published(KNOWN, "test", "loss")


def test_who_published_a_figure_beside_a_run_is_cited(tmp_path):
    [run] = runs.load([made.run(tmp_path / "a", "ptb_kn5", trained=False)], "test")
    paper = {"kind": "paper", "bibtex": "@book{mikolov,\n  year = {2012}\n}"}
    figures = {name: [records.Published(1.0, "p. 1", "paper")] for name in ("ptb_kn5", "other")}
    assert "paper" in records.find([run], {"paper": paper}, [figures]).used
    assert not records.find([run], {"paper": paper}, [{"other": figures["other"]}]).used


def test_a_mixture_is_of_what_its_parts_are_of(tmp_path):
    parts = [made.run(tmp_path / "kn", "kn", trained=False, arch={"smoothing": "modified-kneser-ney"})]
    parts.append(made.run(tmp_path / "lstm", "lstm", data__sources__0__path="/data/wikitext2"))
    mixed = made.run(tmp_path / "mixed", "mixed", trained=False, arch={"model": "mixture"})
    made.change(mixed, "run.json", parts=[{"folder": str(part)} for part in parts])
    assert {"chen1999empirical", "hochreiter1997long", "ptb", "wikitext2"} <= set(found(mixed).used)


def test_a_tokenizer_of_another_run_needs_no_record(tmp_path):
    first = made.run(tmp_path / "first", data__sources__0__path="/data/wikitext2")
    result = found(made.run(tmp_path / "second", data__tokenizer__path=str(first / "tokenizer")))
    assert {"ptb", "wikitext2"} <= set(result.used) and not result.missing


def test_a_key_is_written_once(tmp_path):
    folder = made.run(
        tmp_path / "a", data__tokenizer__path="/t/bert-base-cased", init__path="google-bert/bert-base-uncased"
    )
    assert records.bibliography(found(folder)).count("devlin2019bert") == 1


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    file = tmp_path / "x" / "METADATA.toml"
    whole = "".join(f'{name} = "a"\n' for name in ("kind", "title", "licence", "source", "bibtex"))
    figure = '[[published]]\nname = "a"\nscore = "loss"\nsplit = "test"\n'
    for text, said in (
        ("kind = x\n", ".*line 1"),
        ('kind = "paper"\n', "title is missing or not a text"),
        (whole + "published = 1\n", r"published is not a list of tables"),
        (whole + figure + "value = 1\n", "a published figure has no source"),
        (whole + figure + 'source = "b"\nvalue = "high"\n', "the published figure of a is not a number"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=rf"x/METADATA\.toml: {said}.*: mend the record$"):
            records.read(tmp_path)
