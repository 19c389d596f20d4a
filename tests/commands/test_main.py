"""The front door: help at once, unknown commands, and an exit status for every end."""

import re
import subprocess
import sys
import time
import types

import pytest

from research.commands import main as door
from research.commands.arguments import Parser, check_writable, switch, take
from research.types import UserError


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_help_lists_the_commands_at_once():
    seconds = []
    for _ in range(3):  # the best of three: other tests share the cores
        start = time.perf_counter()
        result = run("-m", "research", "--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0 and result.stderr == ""
    for name, what in door.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", result.stdout, re.MULTILINE)
    assert min(seconds) < 0.5


def test_no_command_shows_the_help_and_fails(capsys):
    assert door.main([]) == 2
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "hint"),
    [("trian", "did you mean train?"), ("evalute", "did you mean evaluate?"), ("zzz", "commands are train, plan,")],
)
def test_unknown_commands_name_the_nearest(name, hint, capsys):
    assert door.main([name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: no command {name}: {hint}") and err.count("\n") == 1


def test_every_command_has_a_file_with_main_and_help(capsys):
    import importlib

    for name in door.COMMANDS:
        module = importlib.import_module(f"research.commands.{name.replace('-', '_')}")
        assert callable(module.main), name


@pytest.mark.parametrize(
    ("end", "status", "err"),
    [
        (UserError("steps is 0: give one\nor more"), 2, "error: steps is 0: give one or more\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (75, 75, ""),
        (0, 0, ""),
    ],
)
def test_every_end_has_its_status(end, status, err, capsys, monkeypatch):
    def command(arguments):
        assert arguments == ["a", "--b"]
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setitem(sys.modules, "research.commands.train", types.SimpleNamespace(main=command))
    assert door.main(["train", "a", "--b"]) == status
    assert capsys.readouterr().err == err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def command(arguments):
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, "research.commands.train", types.SimpleNamespace(main=command))
    with pytest.raises(ZeroDivisionError):
        door.main(["train"])


def test_a_closed_pipe_is_no_error():
    code = "import sys, types; from research.commands import main; sys.modules['research.commands.train'] = "
    code += "types.SimpleNamespace(main=lambda a: [print('x' * 99) for _ in range(99999)]); main.main(['train'])"
    result = subprocess.run(f"{sys.executable} -c \"{code}\" | head -1", shell=True, capture_output=True, text=True)
    assert result.stdout.startswith("xxx") and result.stderr == ""
    result = subprocess.run(f"{sys.executable} -m research --help | true", shell=True, capture_output=True, text=True)
    assert result.stderr == ""


def test_parser_answers_in_one_line():
    parser = Parser("evaluate", "Score a run.")
    parser.add_argument("run")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--split", choices=("validation", "test"))
    assert parser.parse(["r", "--checkpoint", "5"]).checkpoint == "5"
    for arguments, message in [
        (["r", "--chekpoint", "5"], "unknown flag --chekpoint: did you mean --checkpoint?"),
        (["r", "--check", "5"], "unknown flag --check: did you mean --checkpoint?"),
        (["r", "s"], "unknown argument s"),
        ([], "the following arguments are required: run (see python -m research evaluate --help)"),
        (["r", "--split", "x"], "--split: invalid choice: 'x' (choose from"),
        (["r", "--checkpoint"], "--checkpoint: expected one argument (see python -m research evaluate --help)"),
    ]:
        with pytest.raises(UserError) as error:
            parser.parse(arguments)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_take_and_switch():
    assert take(["a", "--out", "x", "b"], "--out") == ("x", ["a", "b"])
    assert take(["--out=x=y"], "--out") == ("x=y", [])
    assert take(["a"], "--out") == (None, ["a"])
    assert switch(["a", "--allow_changes"], "--allow-changes") == (True, ["a"])
    assert switch(["a"], "--allow-changes") == (False, ["a"])
    for wrong in (["--out"], ["--out", "--seed"], ["--out="], ["--out", "a", "--out", "b"]):
        with pytest.raises(UserError, match="--out"):
            take(wrong, "--out")


def test_folders_that_cannot_be_written(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(UserError, match=r"^cannot write to --out .*Not a directory; choose another folder$"):
            check_writable(folder)
    with pytest.raises(UserError, match="cannot write to --out /proc"):
        check_writable(type(tmp_path)("/proc/a/b"))
