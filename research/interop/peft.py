"""Low-rank updates as a folder that PEFT loads onto their base: adapter_config.json and adapter_model.safetensors.

Only what was trained is written. GPT-2's query, key and value are one module there, whose update is block by block the
same function: its rank is theirs together.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.config import Adapter
from research.interop.config_json import labelled
from research.interop.export import check_free, whole_folder
from research.models.arch import Arch
from research.models.lora import A, B
from research.models.paths import flatten
from research.models.rules import expected, to_huggingface
from research.types import UserError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
NAMES = "labels.json"  # what config.json says of labels, for which adapter_config.json has no word; PEFT passes over it
PREFIX = "base_model.model."
TASKS = {
    "encoder": None,  # PEFT has no word for masked language models
    "decoder": "CAUSAL_LM",
    "encoder-decoder": "SEQ_2_SEQ_LM",
    "sequence": "SEQ_CLS",
    "tokens": "TOKEN_CLS",
}
LABELS = ("classifier/", "pooler/")  # a head that the base may lack: written whether it was trained or not
REMEDY = "leave it out of adapter.whole, or export the merged model, without --adapter"


class Update(NamedTuple):
    """The update of one of their modules: y += alpha / rank x B A x."""

    a: np.ndarray  # float32[rank, in]
    b: np.ndarray  # float32[out, rank]
    parts: int  # updates of ours that it holds


def write(
    folder: pathlib.Path,
    arch: Arch,
    adapter: Adapter,
    params: Mapping[str, Any],
    trainable: Mapping[str, Any],
    base: str,
    labels: Sequence[str] = (),
    problem: str = "",
) -> None:
    """Write `folder`, which appears under this name only when all of it is on disk.

    A head before the vocabulary that the base lacks is not in the folder: begin with a base that has it.

    Args:
        folder: New, or empty.
        arch: Of the model.
        adapter: By which it was trained: lora.
        params: The model's own parameters, nested, below "params".
        trainable: What was trained of it, nested.
        base: Folder or hub id of what it was trained from.
        labels, problem: Of a head for labels, as of `export.write`.

    Raises:
        UserError: Something is in `folder`; it cannot be written; or what was trained has no equal in PEFT.
    """
    from safetensors.numpy import save_file

    check_free(folder)
    config, tensors = adapted(arch, adapter, params, trainable, base)
    said = {CONFIG: config} | ({NAMES: labelled(arch, labels, problem)} if arch.head != "vocabulary" else {})
    with whole_folder(folder) as partial:
        for name, values in said.items():
            (partial / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, partial / TENSORS, metadata={"format": "pt"})


def adapted(
    arch: Arch, adapter: Adapter, params: Mapping[str, Any], trainable: Mapping[str, Any], base: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return PEFT's configuration and tensors of a trained adapter; arguments and errors as of `write`."""
    ours = {path: np.asarray(leaf) for path, leaf in flatten(trainable).items()}
    found = {name.removesuffix(".weight"): _update(paths, shapes, ours) for _, paths, name, shapes in expected(arch)}
    updates = {module: update for module, update in found.items() if update}
    whole = _whole(arch, {path for path in ours if not path.endswith((A, B))})
    tensors = {name: tensor for name, tensor in to_huggingface(arch, params).items() if _module(name) in whole}
    for module, update in updates.items():
        tensors |= {f"{module}.lora_A.weight": update.a, f"{module}.lora_B.weight": update.b}
    fused = {module: update.parts for module, update in updates.items() if update.parts > 1}
    config = {
        "peft_type": "LORA",
        "task_type": TASKS[arch.structure if arch.head == "vocabulary" else arch.head],
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "rank_pattern": {module: parts * adapter.rank for module, parts in fused.items()},
        "alpha_pattern": {module: parts * adapter.alpha for module, parts in fused.items()},
        "target_modules": list(updates),
        "modules_to_save": sorted({"classifier" if m.startswith("classifier.") else m for m in whole}) or None,
        "fan_in_fan_out": arch.family == "gpt2",  # its Conv1D
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
    }
    return config, {f"{PREFIX}{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _whole(arch: Arch, trained: set[str]) -> set[str]:
    """Return those of their modules that hold the `trained` paths, and a head for labels, and nothing else."""
    rows = [(paths, name) for _, paths, name, _ in expected(arch)]
    every = {_module(name) for _, name in rows}
    chosen = {path for paths, _ in rows for path in paths if path in trained or path.startswith(LABELS)}
    whole = {_module(name) for paths, name in rows if chosen.intersection(paths)}
    for paths, name in rows:
        if _module(name) not in whole:
            continue
        shared = "tokens/embedding" in paths and arch.tied and arch.head == "vocabulary"
        holds = any(other.startswith(f"{_module(name)}.") for other in every)
        if shared or holds or not chosen.issuperset(paths):
            raise UserError(f"PEFT saves whole modules, and {name} is not of one that was trained whole: {REMEDY}")
    return whole


def _update(
    paths: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], ours: Mapping[str, np.ndarray]
) -> Update | None:
    """Return the update of a module whose kernels, side by side, are at `paths`; None if none of them has one."""
    places = [path.removesuffix("kernel") for path in paths]
    chosen = [(i, place) for i, place in enumerate(places) if f"{place}{A}" in ours]
    if not chosen:
        return None
    widths = [shape[-1] for shape in shapes]
    a = np.concatenate([ours[f"{place}{A}"].T for _, place in chosen])
    b = np.zeros((sum(widths), len(a)), np.float32)
    for column, (i, place) in enumerate(chosen):
        rank = ours[f"{place}{B}"].shape[0]
        rows = slice(sum(widths[:i]), sum(widths[: i + 1]))
        b[rows, column * rank : (column + 1) * rank] = ours[f"{place}{B}"].T
    return Update(a, b, len(chosen))
