"""Runs as JSON values, both ways, and how two of them differ."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from research.config.run import UNIONS, Run
from research.types import UserError, did_you_mean


@functools.cache
def _converter():
    """Return the strict cattrs converter: unknown keys are errors, architectures and objectives carry their names."""
    import cattrs
    from cattrs.strategies import configure_tagged_union

    converter = cattrs.Converter(forbid_extra_keys=True)

    def number(value: Any, kind: type) -> Any:
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"{value!r} is not of type {kind.__name__}")
        return kind(value)

    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, number)
    for union, (tag, classes) in UNIONS.items():
        names = {cls: name for name, cls in classes.items()}
        configure_tagged_union(union, converter, tag_name=tag, tag_generator=names.__getitem__)
    return converter


def to_json(run: Run) -> dict[str, Any]:
    """Return `run` as plain JSON values; `from_json` is its inverse."""
    return _converter().unstructure(run, unstructure_as=Run)


def from_json(values: dict[str, Any]) -> Run:
    """Return the run that `values` describe.

    Raises:
        UserError: A key is unknown (the nearest is suggested) or a value has the wrong type; names the field.
    """
    _refuse_unknown(values, Run, "")
    try:
        return _converter().structure(values, Run)
    except Exception as error:  # cattrs nests one exception group per level
        from cattrs import transform_error

        raise UserError("configuration: " + "; ".join(transform_error(error))) from None


def _refuse_unknown(values: Any, cls: type, path: str) -> None:
    """Raise a UserError naming the nearest field for the first key of `values` that `cls` lacks."""
    import typing

    if cls in UNIONS and isinstance(values, dict):
        tag, classes = UNIONS[cls]
        name = values.get(tag)
        if name not in classes:
            raise UserError(f"configuration: {path}{tag} is {name!r}, not one of {', '.join(classes)}")
        values, cls = {k: v for k, v in values.items() if k != tag}, classes[name]
    if not (dataclasses.is_dataclass(cls) and isinstance(values, dict)):
        return
    types = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in types:
            raise UserError(f"configuration: unknown field {path}{key}{did_you_mean(key, types)}")
        _refuse_unknown(value, types[key], f"{path}{key}.")


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return {dotted path: leaf} of nested JSON values, the form in which two configurations are compared."""
    if isinstance(values, dict | list) and values:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {k: v for name, value in items for k, v in flatten(value, f"{path}.{name}" if path else name).items()}
    return {str(path): values}


def differences(old: Run, new: Run) -> list[str]:
    """Return one 'field: old -> new' a difference between two runs, empty where they are the same."""
    a, b = flatten(to_json(old)), flatten(to_json(new))
    return [f"{k}: {a.get(k, 'absent')} -> {b.get(k, 'absent')}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
