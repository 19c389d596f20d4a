"""Devices are found by the names that people and JAX use, and never by a near one."""

import pytest

from research.train.peaks import NAMES, PEAKS, device_named, platform_of
from research.types import UserError


def test_a_device_has_the_names_that_people_and_jax_use():
    assert device_named("h100") == device_named("NVIDIA H100 80GB HBM3") == "NVIDIA H100 80GB HBM3"
    assert platform_of(device_named("H100")) == "gpu" and platform_of(device_named("TPU-v5e")) == "tpu"
    assert all(device_named(name) == exact for name, exact in NAMES.items())
    assert all(16 <= peak.memory / 2**30 <= 141 for peak in PEAKS.values())


def test_a_near_name_is_another_device():
    with pytest.raises(UserError, match=r"^no device H10: did you mean H100\? \(known: H200, .*TPU-v6e\)$"):
        device_named("H10")
