"""MIGRATING.md names fields that exist, and its commands are understood."""

import pathlib
import re
import shlex

import pytest

from research.commands import overrides
from research.config import check, load_experiment
from research.data.records import Row
from research.generate.settings import Decoding
from research.tasks import prompts
from tests.test_experiments import local  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "MIGRATING.md").read_text()
DECODING = {f"--{path.replace('_', '-')}" for path in overrides.fields(Decoding())}
OPTIONS = {"--out", "--allow-changes", "--help", "--json", "--split", "--limit", "--generate"}  # of the commands
OPTIONS |= DECODING | {flag.replace("--", "--decoding.") for flag in DECODING}
PRETRAINING = {
    "run_mlm_flax.py": "mlm_pydocs",
    "run_clm_flax.py": "clm_pydocs",
    "run_t5_mlm_flax.py": "span_pydocs",
    "run_bart_dlm_flax.py": "denoising_pydocs",
}
TASKS = {
    "run_flax_glue.py": "sst2",
    "run_flax_ner.py": "conll2003",
    "run_summarization_flax.py": "dialogsum",
    "run_qa.py": "dialogsum",
}
EXPERIMENTS = PRETRAINING | TASKS
OF_TASKS = "The scripts that fine-tuned"


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
def test_every_flag_is_one_of_the_scripts_experiment(script, local):  # noqa: F811
    apart = {*EXPERIMENTS} if script in TASKS else {*EXPERIMENTS, OF_TASKS}
    shared = "".join(body for title, body in sections().items() if title not in apart)
    named = flags(shared + sections()[script])
    assert len(named) > 30
    assert named - known(experiment(EXPERIMENTS[script])) == set()


def test_every_file_that_it_names_is_there():
    named = re.findall(r"\b(\w+)\.py", re.search(r"^\| script \| experiments \|$.*?^$", TEXT, re.M | re.S)[0])
    named = {name for name in named if f"{name}.py" not in EXPERIMENTS}
    assert set(EXPERIMENTS.values()) < named
    assert all((ROOT / "experiments" / f"{name}.py").is_file() for name in named)


def test_its_commands_are_understood(local):  # noqa: F811
    lines = TEXT.replace("\\\n", " ")
    commands = re.findall(r"^    python -m research train (\S+) --out \S+ (.*)", lines, re.MULTILINE)
    first, second = (overrides.parse(load_experiment(str(ROOT / file)), shlex.split(rest)) for file, rest in commands)
    assert (first.batch_size, first.epochs, first.evaluate_every) == (16, 3, 500)
    assert (second.batch_size, second.objective.per_row, second.data.tokenizer.path) == (32, 1, "")
    assert (second.data.sources[0].path, second.data.sources[0].name) == ("nyu-mll/glue", "mrpc")
    check(first)
    check(second)

    [arguments] = re.findall(r"^    (--optimizer.*)", TEXT, re.MULTILINE)
    for name in EXPERIMENTS.values():
        run = overrides.parse(experiment(name), shlex.split(arguments))
        assert (run.optimizer.clip, run.optimizer.weight_decay, run.schedule.warmup) == (0, 0, 0)
        check(run)
    run = experiment("dialogsum")  # which has what every one of them names
    for arguments in re.findall(r"`(--[a-z.0-9-]+ '[^'`]*'(?: --[a-z.0-9-]+ '[^'`]*')*)`", TEXT):
        overrides.parse(run, shlex.split(arguments))


def test_the_columns_of_squad_are_read():
    answers = {"text": ["Rome", "in Rome"], "answer_start": [6, 3]}
    squad = Row("file:1", 1, {"id": "1", "question": "Where?", "context": "It is in Rome.", "answers": answers})
    given = re.findall(r"`(--objective[^`]*)`", sections()["run_qa.py"])
    objective = overrides.parse(experiment("dialogsum"), shlex.split(" ".join(given))).objective
    example = prompts.example(prompts.named_columns(objective, squad), squad, labelled=True)
    assert prompts.filled(objective.prompt, example)[0] == "question: Where? context: It is in Rome."
    assert (example["target"], example["references"]) == ("Rome", ["Rome", "in Rome"])
