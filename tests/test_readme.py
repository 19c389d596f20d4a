"""README.md names commands, fields and experiments that exist, and every experiment."""

import pathlib
import re
import shlex

import pytest

from research.commands import overrides
from research.commands.arguments import prefixed, take
from research.commands.main import COMMANDS
from research.config import check, load_experiment
from tests.test_experiments import FILES, local  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text().replace("\\\n", " ")


def test_its_commands_are_there():
    assert set(re.findall(r"python -m research ([a-z][a-z-]*)", TEXT)) <= {*COMMANDS}
    table = TEXT[TEXT.index("| command |") : TEXT.index("## Fine-tune")]
    assert set(re.findall(r"`([a-z-]+)[ `]", table)) >= {*COMMANDS}


@pytest.mark.parametrize("command", re.findall(r"^    python -m research train (.*?) *(?:#.*)?$", TEXT, re.MULTILINE))
def test_what_it_trains_could_start(command, local, monkeypatch, tmp_path):  # noqa: F811
    file, *rest = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").touch()
    run = load_experiment(str(ROOT / file))
    if "--help" not in rest:
        check(overrides.parse(run, prefixed("--processes.", take(rest, "--out")[1])[1]))


def test_fields_of_runs_are_there(local):  # noqa: F811
    fields = {f"--{path.replace('_', '-')}" for file in FILES for path in overrides.fields(load_experiment(str(file)))}
    named = set(re.findall(r"(?<![\w-])--(?:data|adapter|optimizer|objective|init|mesh|arch)\.[a-z0-9.-]+", TEXT))
    assert len(named) > 10 and named <= fields


def test_the_guide_names_commands_experiments_and_pictures_that_are_there():
    guide = (ROOT / "GUIDE.md").read_text()
    assert {*re.findall(r"python -m research ([a-z][a-z-]*)", guide)} <= {*COMMANDS}
    programs = re.findall(r"python -m experiments\.(\w+)", guide)
    files = [f"experiments/{name}.py" for name in programs]
    files += re.findall(r"experiments/\w+\.py", guide) + re.findall(r"\]\((\S+)\)", guide)
    files += [f"experiments/{name}" for name in re.findall(r"`(\w+\.py)`", guide)]
    assert len(files) > 15 and [file for file in files if not (ROOT / file).is_file()] == []


def test_every_experiment_is_named():
    assert all(f"{file.stem}.py" in TEXT for file in FILES)
    programs = [file.stem for file in sorted((ROOT / "experiments").glob("*.py")) if "\ndef main(" in file.read_text()]
    assert len(programs) > 3 and all(f"python -m experiments.{name}" in TEXT for name in programs)
    assert all((ROOT / name).is_file() for name in re.findall(r"experiments/\w+\.py", TEXT))
