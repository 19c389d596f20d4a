"""Tercet: masked, causal and encoder-decoder language models, trained as one pure function of (seed, step).

The names below are loaded on first use, so that `import research` and `--help` wait for neither jax nor transformers.
"""

from __future__ import annotations

import importlib

_EXPORTS = {
    "Run": "research.config",
    "Optimizer": "research.config",
    "Schedule": "research.config",
    "Loss": "research.config",
    "Compute": "research.config",
    "Mesh": "research.config",
    "load_experiment": "research.config",
    "Arch": "research.models.arch",
    "Transformer": "research.models.transformer",
    "Data": "research.data.corpus",
    "Source": "research.data.sources",
    "Cleaning": "research.data.cleaning",
    "Tokenizer": "research.data.tokenizer",
    "Masked": "research.objectives.masked",
    "Causal": "research.objectives.causal",
    "Prefix": "research.objectives.prefix",
    "SpanCorruption": "research.objectives.span_corruption",
    "Denoising": "research.objectives.denoising",
    "Mixture": "research.objectives.mixture",
    "load": "research.interop.folder",
    "Vocabulary": "research.types",
    "Example": "research.types",
    "UserError": "research.types",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'research' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
