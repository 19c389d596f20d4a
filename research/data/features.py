"""Records of `datasets` with their class labels spelled out."""

from __future__ import annotations

from typing import Any


def named(features: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with the integers of its ClassLabel features, also inside lists and structures, as their names.

    -1, which stands for a label that is not told, and null stay as they are; so does everything of records whose
    `features` are not known (None).
    """
    return _named(features, record) if features else record


def _named(feature: Any, value: Any) -> Any:
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if isinstance(value, int) and value >= 0 else value
    if isinstance(feature, dict):
        return {key: _named(feature.get(key), each) for key, each in value.items()}
    if isinstance(value, list):
        return [_named(getattr(feature, "feature", None), each) for each in value]
    return value
