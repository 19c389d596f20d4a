"""MIGRATING.md names fields that exist, and its commands are understood."""

import pathlib
import re
import shlex

import pytest

from research.commands import overrides
from research.config import check, load_experiment

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "MIGRATING.md").read_text()
OPTIONS = {"--out", "--allow-changes", "--help", "--json"}  # of the commands themselves
EXPERIMENTS = {
    "run_mlm_flax.py": "mlm_pydocs",
    "run_clm_flax.py": "clm_pydocs",
    "run_t5_mlm_flax.py": "span_pydocs",
    "run_bart_dlm_flax.py": "denoising_pydocs",
}


def experiment(name):
    return load_experiment(str(ROOT / "experiments" / f"{name}.py"))


def flags(text):
    """Return the flags of ours in `text`; those of the old scripts have underscores."""
    return {flag for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text) if "_" not in flag} - OPTIONS


def known(run):
    return {f"--{path.replace('_', '-')}" for path in overrides.fields(run)}


def sections():
    return {title: body for title, body in re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)}


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_every_flag_is_one_of_the_scripts_experiment(script):
    found = known(experiment(EXPERIMENTS[script]))
    shared = "".join(body for title, body in sections().items() if title not in EXPERIMENTS)
    named = flags(shared + sections()[script])
    assert len(named) > 30
    if not any(flag.startswith("--init.") for flag in found):  # until a run can start from a checkpoint
        named = {flag for flag in named if not flag.startswith("--init.")}
    assert named - found == set()


def test_every_file_that_it_names_is_there():
    named = re.findall(r"(?:experiments/)?(\w+_(?:pydocs|wikitext2))\.py", TEXT)
    assert set(EXPERIMENTS.values()) < set(named)
    assert all((ROOT / "experiments" / f"{name}.py").is_file() for name in named)


def test_its_commands_are_understood():
    lines = TEXT.replace("\\\n", " ")
    [(file, arguments)] = re.findall(r"^    python -m research train (\S+) --out \S+ (.*)", lines, re.MULTILINE)
    run = overrides.parse(load_experiment(str(ROOT / file)), shlex.split(arguments))
    assert (run.batch_size, run.epochs, run.evaluate_every) == (16, 3, 500)

    [arguments] = re.findall(r"^    (--optimizer.*)", TEXT, re.MULTILINE)
    for name in EXPERIMENTS.values():
        run = overrides.parse(experiment(name), shlex.split(arguments))
        assert (run.optimizer.clip, run.optimizer.weight_decay, run.schedule.warmup) == (0, 0, 0)
        check(run)
    for arguments in re.findall(r"`(--[a-z.0-9-]+(?: '[^'`]*')(?: --[a-z.0-9-]+ '[^'`]*')*)`", TEXT):
        overrides.parse(run, shlex.split(arguments))
