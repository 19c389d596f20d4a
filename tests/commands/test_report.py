"""`report`: from folders of runs to a folder with all that a paper needs, or one line saying why not."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.report import made
from tests.test_architecture import imports

FILES = {
    "index.html", "table.tex", "table.md", "table.csv", "statistics.json", "provenance.json", "provenance.tex",
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
    assert 'src="http' not in page and "<link" not in page  # nothing to fetch
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
    assert "note: late: late: unfinished at step 800 of 2,000" in notes
    assert f"note: old: not evaluated on test: python -m research evaluate {old} --split test" in notes
    assert "note: not recorded: dataset /mine/diary has no record in third_party (late, old)" in notes
    assert [note.split(" is not drawn: ")[0] for note in notes if "is not drawn" in note] == [
        "note: curves-perplexity", "note: bars-perplexity"
    ]  # fmt: skip
    assert not list((tmp_path / "out").glob("*.pdf")) and (tmp_path / "out" / "index.html").exists()
    assert out.count("–<sup>") >= 3


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
    assert "| old |" in out


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
    (a / "scores" / "test.json").write_text("{")
    assert "test.json is not JSON: remove it and evaluate the run again" in refused(command, tmp_path, a)
    (b / "metrics.jsonl").write_text("nonsense\n")
    assert "metrics.jsonl:1 is not a JSON object" in refused(command, tmp_path, b)


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
