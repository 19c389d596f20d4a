"""The embedded corpus: the documentation that every Python installation carries, read from source and never imported.

It is the docstrings of the standard library and of the packages that requirements.txt names (whatever else is
installed), with the language reference in `pydoc_data.topics`. A document is what `pydoc` shows under one heading: a
module's own docstring, a function's, or a class's with those of its methods. Whole modules would be documents of up to
200,000 characters whose repeated parts no filter could take out; single docstrings are often one line.
"""

from __future__ import annotations

import ast
import gc
import inspect
import pathlib
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from research.types import Split, UserError

if TYPE_CHECKING:
    import importlib.metadata

REQUIREMENTS = pathlib.Path(__file__).resolve().parents[2] / "requirements.txt"
TOPICS = "pydoc_data.topics"
TEST = re.compile(r"tests?|test_.*|.*_tests?|conftest")
SHARES = {"validation": range(0, 2), "test": range(2, 4), "train": range(4, 100)}
"""Which hundredths of all modules, by the hash of their names, each split gets."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Module(NamedTuple):
    """A source file of a package."""

    key: int  # uint64 hash of the name: decides the split and the order
    name: str
    path: pathlib.Path


def documents(split: Split) -> Iterator[str]:
    """Yield the documents of a split: its modules in the order of their hashes, so that any part mixes packages.

    Only the split's own modules are read. Measured on one core: 3 to 4 MB of source a second, 30 s for all 20 MB of
    documents; a limit of 4 MB takes a fifth of that.

    Raises:
        UserError: requirements.txt is missing, or names a package that is not installed.
    """
    for module in modules():
        if module.key % 100 in SHARES[split]:
            yield from read(module)


def records(split: Split) -> Iterator[dict[str, str]]:
    """Yield {"text", "package"} of every document, in the order of `documents`: what a topic is told from.

    The package is the one that `import` names first; all of the standard library is "python".

    Raises:
        UserError: as `documents`.
    """
    for module in modules():
        if module.key % 100 in SHARES[split]:
            top = module.name.partition(".")[0]
            package = "python" if top in sys.stdlib_module_names or module.name == TOPICS else top
            for text in read(module):
                yield {"text": text, "package": package}


def modules() -> list[Module]:
    """Return every module of the corpus, sorted by hash; no source is read.

    Raises:
        UserError: requirements.txt is missing, or names a package that is not installed.
    """
    import xxhash

    found = _standard_library()
    for package in packages():
        found |= _distribution(package)
    return sorted(Module(xxhash.xxh3_64_intdigest(name.encode()), name, path) for name, path in found.items())


def packages(requirements: pathlib.Path = REQUIREMENTS) -> list[str]:
    """Return the names of the packages that requirements.txt pins, sorted.

    Raises:
        UserError: there is no requirements.txt: run from a checkout of the project.
    """
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{requirements}: {error.strerror}: the pydocs corpus reads the packages named there; "
            "restore it from the repository, or name another source"
        ) from error
    names = (re.match(r"[A-Za-z0-9][\w.-]*", line) for line in lines)
    return sorted({name[0] for name in names if name})


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that the corpus is read from."""
    return {"python": platform.python_version()} | {name: _installed(name).version for name in packages()}


def read(module: Module) -> list[str]:
    """Return the documents of one module, in the order of the source; none for a file that Python cannot parse."""
    source = module.path.read_bytes()
    if b'"""' not in source and b"'''" not in source:  # a quarter of the files; parsing is the whole cost
        return []
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError):  # templates and code for other versions of Python
        return []
    if module.name == TOPICS:
        return _topics(tree)
    own = ast.get_docstring(tree)
    found = [own] if own else []
    for definition in _definitions(tree):
        text = "\n\n".join(_docstrings(definition))
        if text:
            found.append(text)
    return found


def _parse(source: bytes) -> ast.Module:
    # Trees hold no cycles, and the collector would walk them again and again: a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _definitions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the functions and classes defined directly in `node`, also under its if, try and with statements."""
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            if isinstance(child, DEFINITIONS):
                yield child
            elif not isinstance(child, ast.expr):
                yield from _definitions(child)


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Yield the docstring of a definition and of those within it."""
    own = ast.get_docstring(node)
    if own:
        yield own
    for child in _definitions(node):
        yield from _docstrings(child)


def _topics(tree: ast.Module) -> list[str]:
    """Return the values of the dictionary literal `topics`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return [inspect.cleandoc(text) for text in ast.literal_eval(node.value).values()]
    return []


def _standard_library() -> dict[str, pathlib.Path]:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    # Debian keeps dist-packages there, others site-packages: neither is a name that could be imported.
    return {name: root / file for file in files if (name := _name(file.parts))}


def _distribution(package: str) -> dict[str, pathlib.Path]:
    files = _installed(package).files
    if files is None:
        raise UserError(f"{package} was installed without a list of its files: pip install --force-reinstall {package}")
    return {name: pathlib.Path(str(file.locate())) for file in files if (name := _name(file.parts))}


def _installed(package: str) -> importlib.metadata.Distribution:
    import importlib.metadata

    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{package}, named in requirements.txt, is not installed: pip install -r requirements.txt"
        ) from error


def _name(parts: tuple[str, ...]) -> str:
    """Return the dotted name of a module, or an empty string for a test, a script or anything but Python source."""
    stem, dot, suffix = parts[-1].rpartition(".")
    names = [*parts[:-1], stem]
    if dot + suffix != ".py" or not all(name.isidentifier() and not TEST.fullmatch(name) for name in names):
        return ""
    return ".".join(names[:-1] if stem == "__init__" else names)
