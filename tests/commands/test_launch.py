"""`launch`: the examples in the tree are what it writes, it is sent only when asked, and mistakes are one line."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from research.commands.launch import of_cluster
from research.launch import Slurm
from tests.test_experiments import local  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "experiments" / "launch").iterdir())
T5 = "experiments/t5_base.py"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_what_its_command_writes(file, command, monkeypatch, local):  # noqa: F811
    monkeypatch.chdir(ROOT)
    text = file.read_text()
    [made_by] = [line for line in text.splitlines() if line.startswith("# python -m research ")]
    assert command(*shlex.split(made_by)[4:]) == (0, text, "")


def test_there_is_an_example_of_each_system():
    assert len(EXAMPLES) == 4
    first = [file.read_text() for file in EXAMPLES]
    assert all(any(f"launch --{system} " in text for text in first) for system in ("slurm", "kubernetes", "skypilot"))
    assert any("--tpu" in text for text in first)


def test_help_waits_for_neither_jax_nor_transformers():
    code = (
        "import sys; from research.commands.main import main\n"
        "for words in (['--help'], ['--slurm', '--help'], ['--kubernetes', '-h']): assert main(['launch', *words]) == 0\n"
        "assert not {'jax', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert all(flag in shown for flag in ("--partition", "--claim", "--submit", "--skypilot"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage"),
        ([T5], "give one of --slurm, --kubernetes, --skypilot"),
        (["--slurm", "--kubernetes", T5], "give one of"),
        (["--slurm"], "no experiment file given"),
        (["--slurm", "experiments/t6_base.py"], "did you mean experiments/t5_base.py?"),
        (["--slurm", T5, "--mesh.fsdp", "0"], "has a size below 1"),
        (["--slurm", T5, "--mesh.fsdp", "3"], "uses 6 of 8 devices"),
        (["--slurm", T5, "--mesh.data", "16"], "needs 16 devices"),
        (["--slurm", T5, "--nodes", "3"], "batch_size 128 does not divide"),
        (["--slurm", T5, "--nodes", "two"], "--nodes: 'two' is not an int"),
        (["--slurm", T5, "--partitions", "x"], "did you mean --partition?"),
        (["--slurm", T5, "--image", "x"], "--image is a flag of --kubernetes and --skypilot, not of --slurm"),
        (["--slurm", T5, "--learning-rate", "1"], "did you mean --optimizer.learning-rate?"),
        (["--slurm", T5, "--steps", "0"], "steps is 0"),
        (["--slurm", T5, "--name", "a\nb"], "cannot be printed"),
        (["--slurm", T5, "--submit"], "sbatch is not on this machine"),
        (["--slurm", T5, "--processes.count", "2"], "--processes.count is the job's own to say"),
        (["--slurm", T5, "--processes.heartbeat", "0"], "processes.heartbeat is 0.0: it must be at least 1.0"),
        (["--slurm", T5, "--processes.heartbeats", "9"], "did you mean --processes.heartbeat?"),
        (["--kubernetes", T5], "--image is empty"),
    ],
)
def test_mistakes_are_one_line(words, said, command, monkeypatch, local):  # noqa: F811
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", "/nowhere")
    status, out, err = command("launch", *words)
    assert status == 2
    assert said in (err if words else out)
    assert not words or (err.startswith("error: ") and err.count("\n") == 1 and out == "")


def test_a_job_is_sent_as_it_is_printed_and_only_where_asked(command, tmp_path, monkeypatch, experiment):
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat "$1" > {tmp_path}/sent\nexit $(cat {tmp_path}/status)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    (tmp_path / "status").write_text("0")
    words = ["launch", "--slurm", experiment, "--gpus", "2", "--out", "a b", "--processes.heartbeat=30", "--steps", "8"]
    status, printed, err = command(*words)
    assert status == 0 and not (tmp_path / "sent").exists()
    assert "save_every is 0" in err  # what a machine's failure would cost
    assert shlex.join(["train", experiment, "--steps=8", "--processes.heartbeat=30", "--out=a b"]) in printed
    assert command(*words, "--submit")[:2] == (0, printed)
    assert (tmp_path / "sent").read_text() == printed
    (tmp_path / "status").write_text("3")
    status, _, err = command(*words, "--submit")
    assert status == 1 and "sbatch ended with status 3" in err


def test_flags_of_the_system_are_told_from_the_rest():
    words = ["--nodes", "2", "a.py", "--gpus=4", "--steps", "5", "--options", "exclusive", "mem=0", "--time", "60"]
    own, rest = of_cluster(Slurm(), words)
    assert own == ["--nodes", "2", "--gpus=4", "--options", "exclusive", "mem=0", "--time", "60"]
    assert rest == ["a.py", "--steps", "5"]
