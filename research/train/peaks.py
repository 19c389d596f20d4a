"""What accelerators promise: memory, and operations a second of dense matrix products, by the device's exact name.

Names are those that JAX gives (`jax.devices()[0].device_kind`). They must match whole: boards of one chip differ by a
third, and a slice of a GPU (MIG) has a longer name. Vendors' tables often state twice as much, for matrices of which
half is zeros (structured sparsity): what stands here is without.
"""

from __future__ import annotations

from typing import NamedTuple

from research.types import UserError, did_you_mean

DATASHEET = "NVIDIA's data sheet of the {}, half of what it states with sparsity"
PAPER = "NVIDIA's white paper of the H100's chip, which the {} has, without sparsity"
TPU = "Google's documentation of the {}, peak compute per chip (bf16)"


class Peak(NamedTuple):
    """Operations a second of one device, where a multiplication and its addition are two, and who says so."""

    bfloat16: float
    float32: float  # as JAX multiplies float32 where nothing else is asked for: TF32 on these GPUs, bfloat16 on TPUs
    memory: int  # bytes
    source: str


def _gpu(bfloat16: float, memory: int, board: str, source: str = DATASHEET) -> Peak:
    return Peak(bfloat16, bfloat16 / 2, memory * 2**30, source.format(board))  # TF32 is half as fast on all of these


def _tpu(bfloat16: float, memory: int, chip: str) -> Peak:
    return Peak(bfloat16, bfloat16, memory * 2**30, TPU.format(chip))


PEAKS: dict[str, Peak] = {
    "NVIDIA H200": _gpu(989.4e12, 141, "H200 SXM", PAPER),
    "NVIDIA H200 NVL": _gpu(835.5e12, 141, "H200 NVL"),
    "NVIDIA H100 80GB HBM3": _gpu(989.4e12, 80, "H100 SXM", PAPER),
    "NVIDIA H100 PCIe": _gpu(756.5e12, 80, "H100 PCIe"),
    "NVIDIA H100 NVL": _gpu(835.5e12, 94, "H100 NVL"),
    "NVIDIA A100-SXM4-80GB": _gpu(312e12, 80, "A100 80GB SXM"),
    "NVIDIA A100-SXM4-40GB": _gpu(312e12, 40, "A100 40GB SXM"),
    "NVIDIA A100 80GB PCIe": _gpu(312e12, 80, "A100 80GB PCIe"),
    "NVIDIA A100-PCIE-40GB": _gpu(312e12, 40, "A100 40GB PCIe"),
    "TPU v4": _tpu(275e12, 32, "TPU v4"),
    "TPU v5 lite": _tpu(197e12, 16, "TPU v5e"),
    "TPU v5": _tpu(459e12, 95, "TPU v5p"),
    "TPU v6 lite": _tpu(918e12, 32, "TPU v6e"),
}


NAMES = {
    "H200": "NVIDIA H200",
    "H200-NVL": "NVIDIA H200 NVL",
    "H100": "NVIDIA H100 80GB HBM3",
    "H100-PCIe": "NVIDIA H100 PCIe",
    "H100-NVL": "NVIDIA H100 NVL",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "A100-40GB": "NVIDIA A100-SXM4-40GB",
    "TPU-v4": "TPU v4",
    "TPU-v5e": "TPU v5 lite",
    "TPU-v5p": "TPU v5",
    "TPU-v6e": "TPU v6 lite",
}
"""What people call them: H100 and H200 alone are the SXM boards."""


def device_named(name: str) -> str:
    """Return the exact name of the device that people call `name`, in capitals or not, or that is called so.

    Raises:
        UserError: There is none; the nearest is suggested, and all are named.
    """
    known = {short.lower(): exact for short, exact in NAMES.items()} | {exact.lower(): exact for exact in PEAKS}
    if name.lower() not in known:
        raise UserError(f"no device {name}{did_you_mean(name, NAMES)} (known: {', '.join(NAMES)})")
    return known[name.lower()]


def platform_of(device: str) -> str:
    """Return what JAX calls devices of the sort of `device`, one of PEAKS: tpu or gpu."""
    return "tpu" if device.startswith("TPU") else "gpu"


def peak_of(device: str, dtype: str) -> float | None:
    """Return the operations a second that `device` promises of products of `dtype`, None where it is not known."""
    return getattr(PEAKS[device], dtype) if device in PEAKS else None
