"""Who imports whom, and what nobody imports: the picture in BUILD.md is the rule that the code is held to."""

import ast
import dataclasses
import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "research").rglob("*.py"), *(ROOT / "experiments").glob("*.py")])
HEAVY = {"jax", "flax", "optax", "orbax", "transformers", "datasets", "tokenizers", "pyarrow", "torch", "tyro", "rich"}
OPTIONAL = {  # one file imports it, and nobody that file
    "lm_eval": "research/generate/lm_eval.py",
    "torch": "experiments/bench_torch.py",
}


def layers() -> list[list[str]]:
    """Return the rooms of BUILD.md's picture, the highest layer first."""
    block = re.search(r"```layers\n(.*?)```", (ROOT / "BUILD.md").read_text(), re.DOTALL).group(1)
    return [[room.strip() for room in line.split("|")] for line in block.splitlines() if line.strip()]


def imports(file: pathlib.Path) -> set[str]:
    """Return the dotted names that `file` imports, wherever in the file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layers"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(file: pathlib.Path) -> str:
    """Return the room that `file` belongs to: models, train, ... or types, keys, config."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "experiments" if parts[0] == "experiments" else parts[1]


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "experiments":
        return "experiments"
    return parts[1] if parts[0] == "research" and len(parts) > 1 else None


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_only_point_down_the_picture(file):
    level = {name: depth for depth, rooms in enumerate(layers()) for name in rooms}
    here = room(file)
    if here in ("__init__", "__main__"):  # the front doors
        return
    assert here in level, f"{here} is missing from the picture in BUILD.md"
    for name in imports(file):
        there = room_of(name)
        if there is None or there == here:
            continue
        assert there in level, f"{file} imports {name}, which is not a room of the picture"
        foundation = level[there] == level[here] == len(layers()) - 1  # types and keys
        assert level[there] > level[here] or foundation, f"{here} may not import {there} ({name})"


def test_the_picture_is_the_design():
    assert layers() == [
        ["experiments"],
        ["commands"],
        ["train"],
        ["generate"],
        ["tasks", "interop", "launch"],
        ["config"],
        ["models", "objectives", "data", "report"],
        ["types", "keys"],
    ]


@pytest.mark.parametrize(
    "module",
    [
        "research",
        "research.config",
        "research.commands.main",
        "research.commands.train",
        "research.commands.launch",
        "research.launch",
        "research.report",
    ],
)
def test_configuration_imports_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_unsafe_and_nothing_sprawling(file):
    roots = {name.split(".")[0] for name in imports(file)}
    assert not roots & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    assert not any(name.startswith("flax.nnx") for name in imports(file))  # it crashes on a jax that we support
    # torch.load({ is in a message that tells how to convert a pickled file
    assert not re.search(r"trust_remote_code\s*=\s*True|yaml\.load\(|torch\.load\((?!\{)|allow_pickle\s*=\s*True", file.read_text())
    assert len(file.read_text().splitlines()) <= 500
    assert file.stem not in ("utils", "helpers", "misc", "common")


def test_every_configuration_can_be_read_by_type():
    # What tyro and cattrs do: a name imported for type checkers only is a NameError here.
    from research.config import Run
    from research.objectives import OBJECTIVES

    for cls in [Run, *OBJECTIVES.values(), *(f.default.__class__ for f in dataclasses.fields(Run))]:
        if dataclasses.is_dataclass(cls):
            typing.get_type_hints(cls)


def test_requirements_are_what_is_imported():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)  # exact pins only
    modules = {name.split(".")[0] for file in FILES for name in imports(file)} - set(sys.stdlib_module_names)
    modules -= {"research", "experiments", *OPTIONAL}
    packages = importlib.metadata.packages_distributions()
    imported = {importlib.metadata.distribution(d).name.lower() for m in modules for d in packages.get(m, [m])[:1]}
    assert imported - {name.lower() for name in pins} == set(), "imported but not pinned in requirements.txt"
    assert {name.lower() for name in pins} - imported - {"jaxlib"} == set(), "pinned but never imported"
    assert all(f"`{name}`" in (ROOT / "BUILD.md").read_text() for name in pins), "BUILD.md gives every one its reason"


@pytest.mark.parametrize(("package", "file"), OPTIONAL.items())
def test_what_is_optional_stays_so(package, file):
    module = file.removesuffix(".py").replace("/", ".")
    for other in FILES:
        names = imports(other)
        assert str(other.relative_to(ROOT)) == file or package not in {name.split(".")[0] for name in names}
        assert not any(name == module or name.startswith(f"{module}.") for name in names)


def test_every_lazy_export_exists():
    import research

    for name in research.__all__:
        assert getattr(research, name) is not None
    with pytest.raises(AttributeError):
        research.no_such_name
