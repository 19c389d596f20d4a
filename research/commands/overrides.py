"""An experiment's configuration with typed overrides from the command line, parsed by tyro.

tyro answers a mistake with a box of several lines. Here every mistake is one line, so names are compared with the
known fields first, and a value that tyro refuses is found by trying the overrides one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from research.types import UserError, did_you_mean

Config = TypeVar("Config")


class Field(NamedTuple):
    """One leaf of a configuration."""

    kind: Any  # its type annotation
    default: Any


class Override(NamedTuple):
    """One flag of the command line with what follows it."""

    path: str  # as in Python: optimizer.learning_rate
    values: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The flag as `--help` spells it."""
        return "--" + self.path.replace("_", "-")

    @property
    def arguments(self) -> list[str]:
        """The override as words of a command line; `--flag=value` also carries a value that begins with a dash."""
        return [f"{self.flag}={self.values[0]}"] if len(self.values) == 1 else [self.flag, *self.values]


def fields(config: Any, path: str = "") -> dict[str, Field]:
    """Return {dotted path: field} of every leaf of `config`; a tuple of dataclasses has paths `sources.0.path`."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    leaves: dict[str, Field] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            leaves |= fields(value, f"{name}.")
        elif isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            for index, part in enumerate(value):
                leaves |= fields(part, f"{name}.{index}.")
        else:
            leaves[name] = Field(hints[field.name], value)
    return leaves


def split(config: Any, arguments: Sequence[str]) -> list[Override]:
    """Return the overrides in `arguments`, each naming a field of `config`.

    Raises:
        UserError: A flag names no field (the nearest is suggested), comes twice or lacks a value, or a value a flag.
    """
    known, found, words = fields(config), [], list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word}: overrides look like --steps 500")
        flag, equals, value = word.partition("=")
        path = flag[2:].replace("-", "_")
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.pop(0))
        if path not in known:
            raise UserError(f"unknown field {flag}{_nearest_field(path, known)}")
        if any(path == other.path for other in found):
            raise UserError(f"{flag} is given twice")
        if not values and known[path].kind is bool:
            values = ["True"]
        if not values and not is_sequence(known[path].kind):
            raise UserError(f"{flag} needs a value: {_name(known[path].kind)}")
        if bool in (known[path].kind, *typing.get_args(known[path].kind)):
            values = [v.capitalize() if v.lower() in ("true", "false") else v for v in values]
        found.append(Override(path, tuple(values)))
    return found


def choices(config: Any, override: Override) -> list[Override]:
    """Return one override for each value of `override`; all the words of a tuple field are one value."""
    if is_sequence(fields(config)[override.path].kind):
        return [override]
    return [Override(override.path, (value,)) for value in override.values]


def apply(config: Config, overrides: Sequence[Override]) -> Config:
    """Return `config` with `overrides`, each value turned into its field's type.

    Raises:
        UserError: A value is not of its field's type; names the flag, the value and the type.
    """
    if not overrides:
        return config
    known = fields(config)
    for override in overrides:
        if len(override.values) > 1 and not is_sequence(known[override.path].kind):
            raise UserError(f"{override.flag} takes one value, not {len(override.values)}: {' '.join(override.values)}")
    changed = _cli(config, [word for override in overrides for word in override.arguments])
    if changed is not None:
        return changed
    for override in overrides:
        if _cli(config, override.arguments) is None:
            raise UserError(f"{override.flag}: '{' '.join(override.values)}' is not {_name(known[override.path].kind)}")
    raise UserError(f"these overrides do not go together: {' '.join(override.flag for override in overrides)}")


def parse(config: Config, arguments: Sequence[str]) -> Config:
    """Return `config` with the overrides that `arguments` give, such as `--optimizer.learning-rate 3e-4`.

    Raises:
        UserError: As `split` and `apply`.
    """
    return apply(config, split(config, arguments))


def parse_part(name: str, part: Config, arguments: Sequence[str]) -> Config:
    """Return `part` with overrides that are spelled --NAME.FIELD.

    Raises:
        UserError: As `parse`.
    """
    whole = dataclasses.make_dataclass("Whole", [(name, type(part))], frozen=True)
    return getattr(parse(whole(part), arguments), name)


def show_help(config: Any, command: str, description: str) -> None:
    """Print every field of `config` with its type, its default and its line of help."""
    with contextlib.suppress(SystemExit), _short_docstrings(config):
        _tyro(config, ["--help"], prog=f"python -m research {command}", description=" ".join(description.split()))


@contextlib.contextmanager
def _short_docstrings(config: Any) -> Iterator[None]:
    """Cut the docstrings of the configuration's classes to their first paragraph: tyro shows them whole."""
    classes = {type(config)} | {type(p) for p in vars(config).values() if dataclasses.is_dataclass(p)}
    whole = {cls: cls.__doc__ for cls in classes}
    try:
        for cls, text in whole.items():
            cls.__doc__ = text and text.split("\n\n")[0]
        yield
    finally:
        for cls, text in whole.items():
            cls.__doc__ = text


def _tyro(config: Any, arguments: Sequence[str], **options: Any) -> Any:
    import tyro

    # AvoidSubcommands: a field of union type keeps the class that the experiment chose and shows that class's fields.
    # FlagConversionOff: `--compute.remat True`, so that a sweep can give both values.
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed)
    return tyro.cli(type(config), default=config, args=arguments, config=markers, **options)


def _cli(config: Any, arguments: Sequence[str]) -> Any:
    """Return what tyro makes of `arguments`, or None where it refuses them."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _tyro(config, arguments)
    except SystemExit:
        return None


def _nearest_field(path: str, known: dict[str, Field]) -> str:
    """Return ': did you mean --X?'.

    A group (`--arch`) is answered by one of its parts; a name without its group (`--learning-rate`) by the whole name.
    """
    parts = [full for full in known if full.startswith(f"{path}.")]
    if parts:
        return f": it has parts, such as --{parts[0].replace('_', '-')}"
    last = [full for full in known if full.rpartition(".")[2] == path]
    hint = f": did you mean {last[0]}?" if len(last) == 1 else did_you_mean(path, known)
    return hint.replace("mean ", "mean --").replace("_", "-")


def is_sequence(kind: Any) -> bool:
    """Return whether a field of type `kind` takes several words."""
    return any(typing.get_origin(option) in (tuple, list) for option in _options(kind))


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type itself."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _name(kind: Any) -> str:
    """Return the type's name with its article: 'an int', 'one of linear, cosine'."""
    options = _options(kind)
    if len(options) > 1:
        return " or ".join(map(_name, options))
    kind = options[0]
    if kind in (None, type(None)):
        return "None"
    if kind is bool:
        return "True or False"
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    name = getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
