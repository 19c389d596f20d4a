"""`plan` says sizes with units before anything is allocated, and answers every mistake in one line."""

import re
import subprocess
import sys

import pytest

from research.train import memory

STATED = ("--device", "H100", "--arch.vocab-size", "300")


def test_a_plan_of_devices_that_are_not_there(experiment, command):
    run = ("--mesh.data", "16", "--batch-size", "64", "--compute.dtype", "bfloat16", "--steps", "1000000")
    cost = ("--mfu", "0.5", "--price", "2.5", "--budget-hours", "1000")
    status, out, err = command("plan", experiment, *STATED, *run, *cost)
    assert (status, err) == (0, "")
    assert out.startswith("tiny on 16 x NVIDIA H100 80GB HBM3 (data 16), bfloat16\n")
    rows = [row for line in out.splitlines() if len(row := re.split(r" {2,}", line.strip())) > 1]
    parts, cells = ({row[0]: row[1:] for row in rows if len(row) == columns} for columns in (3, 2))
    for part in ("parameters", "optimizer", "activations", "logits", "batch", "all"):
        assert all(re.fullmatch(r"\d\.\d\d\d", cell) for cell in parts[part]), part
    assert "it fits into 60.0 GiB" in out  # three quarters of 80: what JAX takes
    assert "1.02G, in 1,000,000 updates" in out
    assert "50% of 989 TFLOP/s in bfloat16 (NVIDIA" in cells["tokens a second"][0]
    hours = float(cells["device-hours"][0])
    assert float(cells["cost"][0][1:]) == pytest.approx(hours * 2.5, abs=0.01)
    bought = 1000 * 3600 * 0.5 * 989.4e12
    assert f"{(bought / 120) ** 0.5 / 1e9:.3g}G (C = 6 N D, 20 tokens a parameter; Hoffmann et al., 2022)" in out
    assert cells["FLOPs, at this speed"] == ["1.78 × 10²¹"]


def test_xla_is_asked_beside_the_estimate(experiment, command):
    status, out, err = command("plan", experiment, "--mesh.data", "2", "--mesh.tensor", "2", "--compile")
    assert (status, err) == (0, "")
    found = re.search(r"XLA reserves ([\d.]+) GiB on each of 4 x cpu; estimated for them: [\d.]+ GiB, [+-][\d.]+%", out)
    assert found and 0 < float(found[1]) < 0.1
    assert "how fast: --probe times this machine" in out


def test_what_does_not_fit_is_said_as_train_says_it(experiment, command, monkeypatch):
    alone = ("--mesh.data", "1", "--arch.vocab-size", "300")
    monkeypatch.setattr(memory, "available", lambda: 1000)
    status, out, err = command("plan", experiment, *alone)
    assert (status, err) == (0, "")
    told = next(line for line in out.splitlines() if line.startswith("the run needs"))
    assert command("train", experiment, *alone, "--out", "run") == (2, "", f"error: {told}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "H1000"), "no device H1000: did you mean H100? (known: H200, "),
        (("--budget-hours", "-5", *STATED), "--budget-hours is -5: give device-hours, such as 1000"),
        (("--mfu", "40", *STATED), "--mfu is 40: give a share of the peak, such as 0.4"),
        (("--price", "x", *STATED), "--price is x: give the price of a device-hour, such as 2.5"),
        (("--price", "2"), "--price needs a speed: name devices with --device H100, or time this machine with --pr"),
        (("--probe", *STATED), "--probe times this machine, and --device names another: give one of them"),
        (("--mfu", "0.4"), "--mfu is a share of what a device's maker states: name it with --device"),
        (("--tokens-per-parameter", "9", *STATED), "--tokens-per-parameter is for --budget-hours: give that too"),
        (("--mesh.data", "3", *STATED), "batch_size 4 does not divide by 3 (microbatches 1 x mesh.data 3 x mesh.fsdp"),
        (("--mesh.fsdp", "0", *STATED), "mesh (0, 0, 1) has a size below 1"),
        (("--steps", "0", *STATED), "steps is 0, and so are epochs and minutes"),
        (("--bugdet-hours", "5"), "unknown field --bugdet-hours"),
    ],
)
def test_a_mistake_is_one_line(experiment, command, arguments, message):
    status, out, err = command("plan", experiment, *arguments)
    assert status == 2 and out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1, err


def test_n_grams_have_no_plan(command):
    status, out, err = command("plan", "experiments/ngram_pydocs.py")
    assert (status, out) == (2, "")
    assert err.startswith("error: experiments/ngram_pydocs.py counts n-grams in one pass: it has no steps to plan")


def test_help_waits_for_nothing():
    code = "import sys; from research.commands.main import main; main(['plan', '--help']); "
    code += "main(['plan', 'experiments/clm_pydocs.py', '--help']); print({'jax', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: python -m research plan EXPERIMENT") and result.stdout.endswith("\nset()\n")
    assert "--budget-hours" in result.stdout and "--mesh.fsdp" in result.stdout
