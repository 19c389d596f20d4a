"""`train`: what it passes on, its help, and one line for every bad input that the command line can see."""

import pathlib
import resource
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def calls(monkeypatch):
    """Put a list in the loop's place; `result` is what training returns."""
    seen = types.SimpleNamespace(calls=[], result="done")

    def train(run, folder, *, allow_changes=False):
        seen.calls.append((run, folder, allow_changes))
        return seen.result

    monkeypatch.setitem(sys.modules, "research.train.loop", types.SimpleNamespace(train=train))
    return seen


def test_passes_run_folder_and_permission(experiment, calls, command, tmp_path):
    changes = ["--optimizer.learning-rate", "3e-4", "--steps=7", "--allow-changes"]
    status, out, err = command("train", experiment, *changes, "--out", tmp_path / "x")
    assert (status, out, err) == (0, "", "")
    [(run, folder, allow_changes)] = calls.calls
    assert (run.optimizer.learning_rate, run.steps, folder, allow_changes) == (3e-4, 7, tmp_path / "x", True)


def test_default_folder_is_named_after_the_run(experiment, calls, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("train", experiment, "--name", "other")[0] == 0
    [(run, folder, allow_changes)] = calls.calls
    assert (run.name, folder, allow_changes) == ("other", pathlib.Path("runs/other"), False)


def test_interrupted_has_its_own_status(experiment, calls, command, tmp_path):
    calls.result = "interrupted"
    assert command("train", experiment, "--out", tmp_path / "x")[0] == 75


def test_help_of_the_command_needs_no_experiment(command):
    status, out, err = command("train", "--help")
    assert status == 0 and out.startswith("usage: python -m research train EXPERIMENT")


def test_help_of_an_experiment_is_whole_and_quick(experiment):
    code = (
        "import sys; from research.commands.main import main; status = main(sys.argv[1:]); "
        "print('heavy:', *sorted({'jax', 'flax', 'transformers', 'datasets', 'tokenizers'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-c", code, "train", experiment, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before  # other tests share the cores
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("heavy:\n")
    text = " ".join(word for word in result.stdout.split() if word != "│")  # the boxes wrap their lines
    for shown in ("--steps INT", "--optimizer.learning-rate FLOAT", "(default: 0.001)", "--arch.width INT"):
        assert shown in text
    assert "Peak learning rate, reached at the end of the warm-up." in text
    assert seconds < 1.5  # 0.6 on an idle core; jax and transformers would take ten


BAD = {
    "steps 0": (["--steps", "0"], "steps is 0"),
    "steps negative": (["--steps", "-5"], "steps is -5: it must be above 0"),
    "learning rate fast": (["--optimizer.learning-rate", "fast"], "--optimizer.learning-rate: 'fast' is not a float"),
    "learning rate 0": (["--optimizer.learning-rate", "0"], "optimizer.learning_rate is 0.0: it must be above 0"),
    "learning rate nan": (["--optimizer.learning-rate", "nan"], "optimizer.learning_rate is nan"),
    "unknown field": (
        ["--optimizer.learnin-rate", "1"],
        "unknown field --optimizer.learnin-rate: did you mean --optimizer.learning-rate?",
    ),
    "rows too long": (["--data.length", "64"], "makes sequences of 64 tokens, but arch.max_length is 32"),
    "two limits": (["--epochs", "2"], "steps and epochs are given: keep one of them and set the rest to 0"),
    "wrong structure": (["--arch.structure", "encoder"], "objective Causal is for the structure decoder"),
    "microbatches": (["--microbatches", "3"], "batch_size 4 does not divide into microbatches 3"),
    "fused attention": (["--compute.attention", "cudnn"], "compute.attention is cudnn, but compute.dtype is float32"),
    "out is a file": (["--out", "{file}"], "cannot write to --out"),
    "out below a file": (["--out", "{file}/x"], "cannot write to --out"),
    "out twice": (["--out", "a", "--out", "b"], "--out is given twice"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_inputs_are_one_line_before_anything_is_read(arguments, message, experiment, calls, command, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xff")  # if data were read first, the message would be another
    (tmp_path / "file").write_text("")
    arguments = [argument.replace("{file}", str(tmp_path / "file")) for argument in arguments]
    status, out, err = command("train", experiment, *arguments)
    assert (status, out, calls.calls) == (2, "", [])
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no experiment file at"),
        ("x = 1", "AttributeError: module 'bad' has no attribute 'config'"),
        ("def config(): return 3", "config() returned int, but must return a research.config.Run"),
        ("\n\ndef config(): return 1 / 0", "bad.py:3: ZeroDivisionError: division by zero"),
        ("import no_such_module", "bad.py:1: ModuleNotFoundError"),
        ("def config(:", "SyntaxError"),
    ],
)
def test_experiments_that_are_none(text, message, command, tmp_path):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    status, out, err = command("train", path)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_mistyped_experiment_names_the_nearest(experiment, command, tmp_path):
    assert f"did you mean {experiment}?" in command("train", experiment.replace("tiny", "tinny"))[2]


@pytest.mark.parametrize("arguments", [[], ["--steps", "5"]])
def test_without_an_experiment_the_usage_is_one_line(arguments, command):
    status, out, err = command("train", *arguments)
    assert status == 2 and err.startswith("error: no experiment file given; usage: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch.vocab-size", "10"], "arch.vocab_size is 10, but"),
        (["--data.sources.0.path", "none.txt"], "none.txt: no such file or folder"),
        (["--arch.vocab-size", "2000000000", "--arch.width", "4096"], "error: the run needs about 152,"),
        (["--steps", "9"], "holds a run of another configuration"),
        (["--compute.attention=cudnn", "--compute.dtype=bfloat16", "--arch.attention-dropout=0"], "has no NVIDIA GPU"),
    ],
)
def test_bad_inputs_that_the_loop_refuses_are_one_line_too(arguments, message, experiment, command, tmp_path):
    from research.config import load_experiment, to_json
    from research.train.metrics import describe

    out = tmp_path / "x"
    if "--steps" in arguments:  # as a run that was killed before its first checkpoint leaves it
        whole = to_json(load_experiment(experiment))
        describe(out, whole, resolved=whole, fingerprints={"data": "0"})
    status, _, err = command("train", experiment, "--mesh.data", "1", *arguments, "--out", out)
    assert status == 2 and message in err and err.splitlines()[-1].startswith("error: ")
    assert not (out / "metrics.jsonl").exists()


def test_what_the_mesh_does_not_divide_is_told_once(experiment, command, tmp_path):
    odd = ["--arch.vocab-size", "99", "--arch.width", "18", "--arch.heads", "3", "--steps", "2"]
    mesh = ["--mesh.data", "1", "--mesh.tensor", "2"]
    status, out, _ = command("train", experiment, *mesh, *odd, "--out", tmp_path / "x")
    assert status == 0 and [line for line in out.splitlines() if line.startswith("note: ")] == [
        "note: mesh.tensor 2 does not divide the 3 heads of decoder/block_*/self_attention/key/bias and 6 more: each of "
        "its devices has all",
        "note: mesh.tensor 2 does not divide the 99 of tokens/embedding: each of its devices has all",
    ]


def test_a_masked_objective_needs_a_mask_token(experiment, command, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1, "apples": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "words")
    text = pathlib.Path(experiment).read_text().replace("causal", "masked").replace("Causal", "Masked")
    path = tmp_path / "masked.py"
    path.write_text(text.replace('structure="decoder"', 'structure="encoder"'))
    (tmp_path / "text.txt").write_bytes(b"\xff")  # the tokenizer is looked at before any text
    tokenizer = ["--data.tokenizer.path", tmp_path / "words"]
    status, _, err = command("train", path, *tokenizer, "--mesh.data", "1", "--out", tmp_path / "x")
    assert status == 2 and err.count("\n") == 1
    assert err.startswith("error: objective Masked needs a") and "mask token" in err
