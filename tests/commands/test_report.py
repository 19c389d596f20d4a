"""`report`: from folders of runs to a folder with all that a paper needs, or one line saying why not."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.report import made
from tests.test_architecture import imports

FILES = {
    "index.html", "table.tex", "table.md", "table.csv", "statistics.json", "statistics.tex", "statistics.md", "provenance.json", "provenance.tex",
    "provenance.md", "licences.tex", "licences.md", "references.bib",
    *(f"{kind}-perplexity.{suffix}" for kind in ("curves", "bars", "size", "compute") for suffix in ("pdf", "png")),
}  # fmt: skip
ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_everything_from_runs_and_nothing_else(command, tmp_path):
    folders = made.ladder(tmp_path / "runs")
    status, out, err = command("report", *folders, "--out", tmp_path / "out")
    assert status == 0 and {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "| transformer | 3 | **113.9 ± 0.5** |" in out and f"14 runs -> {tmp_path / 'out'}" in out and err == ""
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "http-equiv" not in page and "<script" not in page
    nothing = ('src="http', "<link", "@import", "url(http")
    assert not [word for word in nothing if word in page]  # nothing to fetch
    assert "marcus1993building" in page
    assert "Penn Treebank" in page and "marcus1993building" in (tmp_path / "out" / "references.bib").read_text()
    assert len(json.loads((tmp_path / "out" / "statistics.json").read_text())) == 5
    again = command("report", *folders, "--out", tmp_path / "out")
    assert again[0] == 2 and again[2].startswith(f"error: {tmp_path / 'out'} is not empty: choose another folder")


def test_what_is_missing_is_noted(command, tmp_path):
    late = made.run(tmp_path / "late", "late", ended=False, data__sources__0__path="/mine/diary")
    less = {"scores": False, "flops": None, "parameters": None}
    old = made.run(tmp_path / "old", "old", data__sources__0__path="/mine/diary", **less)
    status, out, err = command("report", late, old, "--out", tmp_path / "out", "--against", "flops")
    assert status == 0
    notes = err.splitlines()
    assert "note: late: unfinished at step 800 of 2,000" in notes
    assert f"note: old: not evaluated on test: python -m research evaluate {old} --split test" in notes
    assert "note: not recorded: dataset /mine/diary has no record in third_party (late, old)" in notes
    assert [note.split(" is not drawn: ")[0] for note in notes if "is not drawn" in note] == [
        "note: curves-perplexity", "note: bars-perplexity"
    ]  # fmt: skip
    assert not list((tmp_path / "out").glob("*.pdf")) and (tmp_path / "out" / "index.html").exists()
    assert out.count("–<sup>") >= 3 and "unfinished" in (tmp_path / "out" / "provenance.md").read_text()


def test_runs_of_earlier_formats_are_read(command, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"configuration": {"name": "old", "seed": 0, "steps": 500}}))
    rows = [{"kind": "evaluation", "step": 0, "loss": 8.3}, {"kind": "train", "step": 10, "loss": 8.1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text(json.dumps({"configuration": {"name": "empty"}, "fingerprints": None}))
    status, out, err = command("report", folder, tmp_path / "empty", "--out", tmp_path / "out")
    assert status == 0 and "old: unfinished at step 10 of 500" in err and "empty: unfinished at step 0" in err
    assert "| old<sup>‡</sup> |" in out  # of what commit is not known


def refused(command, tmp_path, *arguments):
    status, out, err = command("report", *arguments, "--out", tmp_path / "out")
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 400
    assert not (tmp_path / "out").exists()
    return err


def test_refusals_are_one_line_and_leave_nothing(command, tmp_path):
    a = made.run(tmp_path / "a", "a")
    b = made.run(tmp_path / "b", "b", fingerprint="0711" * 8, data__sources__0__path="/data/wikitext2")
    masked = made.run(tmp_path / "masked", "masked", objective={"name": "masked", "rate": 0.15})
    tokens = made.run(tmp_path / "tokens", "tokens", tokenizer="b22" * 8, fingerprint="0712" * 8)
    assert "not comparable: a was evaluated on ptb" in refused(command, tmp_path, a, b)
    assert "pseudo-perplexity is no perplexity" in refused(command, tmp_path, a, masked)
    assert "different tokenizers" in refused(command, tmp_path, a, tokens)
    assert "did you mean optimizer.learning_rate?" in refused(command, tmp_path, a, "--rows", "lerning_rate")
    assert "no run in" in refused(command, tmp_path, a, tmp_path / "nowhere")
    assert "is given twice" in refused(command, tmp_path, a, a)
    assert "it holds 4 runs: give" in refused(command, tmp_path, tmp_path)
    assert "--scores rouge: no run has it" in refused(command, tmp_path, a, "--scores", "rouge")
    assert "--interval" in refused(command, tmp_path, a, "--interval", "none")
    (tmp_path / "bare").mkdir()
    assert "there is no run.json; give the folder that train wrote" in refused(command, tmp_path, tmp_path / "bare")


DAMAGED = [  # file, what is in it, what is said
    ("scores/test.json", '{\n"loss": ', "test.json is not JSON (line 2): remove it and evaluate the run again"),
    ("scores/test.json", '{"split": "validation"}', "test.json has scores of the split validation"),
    ("scores/test.json", '{"step": "x"}', "test.json: step is not a number"),
    ("scores/test.json", '{"scored": "x"}', "test.json: scored is not a number"),
    ("scores/test.json", '{"checkpoint": [1]}', "test.json: checkpoint is not a text"),
    ("metrics.jsonl", '{"step": 1}\nnonsense\n', "metrics.jsonl:2 is not a JSON object"),
    ("metrics.jsonl", '{"step": 1}\n{"step": null}\n', "metrics.jsonl:2: step is not a number"),
    ("metrics.jsonl", '{"step": 1}\n{"step": 2, "tokens": -1}\n', "metrics.jsonl:2: tokens is not a number from 0 on"),
    ("metrics.jsonl", "[" * 100_000 + "\n", "metrics.jsonl:1 is not a JSON object"),
    ("run.json", "{\n1", "run.json is not JSON (line 2)"),
    ("run.json", '{"configuration": null}', "run.json has no configuration"),
    ("run.json", '{"configuration": {"data": 3}}', "run.json: configuration.data is not an object"),
    ("run.json", '{"configuration": {"data": {"sources": [3]}}}', "data.sources is not a list of objects"),
    ("run.json", '{"configuration": {}, "resumed": [{"git": "x"}]}', "git of resumed is not an object"),
    ("run.json", '{"configuration": {"name": ["x"]}}', "run.json: configuration.name is not a text"),
    ("run.json", '{"configuration": {}, "parameters": -1}', "run.json: parameters is not a number from 0 on"),
    ("run.json", '{"configuration": {}, "parameters": "many"}', "run.json: parameters is not a number"),
]


@pytest.mark.parametrize(("file", "text", "said"), DAMAGED)
def test_a_damaged_file_is_named_with_its_line_or_field(command, tmp_path, file, text, said):
    folder = made.run(tmp_path / "a")
    (folder / file).write_text(text)
    assert said in refused(command, tmp_path, folder)


@pytest.mark.parametrize("arguments", [["--help"], ["{run}", "--out", "{out}"]])
def test_no_jax_is_loaded_and_for_help_nothing_that_is_slow(arguments, tmp_path):
    run = made.run(tmp_path / "run", ended=False)  # nothing to draw, so that this is quick
    words = [word.format(run=run, out=tmp_path / "out") for word in arguments]
    heavy = {"jax", "flax", "transformers", "datasets", "torch", "matplotlib", "scipy"}
    code = (
        "import sys, contextlib, io\nfrom research.commands.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    assert main(['report', *{words!r}]) == 0\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


def test_no_file_of_the_room_names_what_computes():
    for file in sorted((ROOT / "research" / "report").glob("*.py")):
        roots = {name.split(".")[0] for name in imports(file)}
        assert not roots & {"jax", "flax", "optax", "transformers"}, file
