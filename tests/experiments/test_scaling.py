"""Bytes on paper are what the formulas of the page say, and what compiled programs send."""

import pytest

from experiments import scaling
from research.models.build import parameter_count


@pytest.mark.parametrize("name", scaling.MODELS)
def test_an_axis_costs_what_the_page_says(name):
    run = scaling.published(name)
    arch = run.arch
    parameters = 4 * (parameter_count(arch) + arch.vocab_size * arch.width)  # the tied table counts twice
    biases = 0  # gradients of T5's, in each of 12 + 12 blocks and for 12 heads: 512 tokens, and 114, of as many
    if name == "t5-base":
        assert run.objective.lengths(run.data.length)[:2] == (512, 114)
        biases = 4 * 12 * 12 * (512**2 + 114**2)
    alone = scaling.paper(name, scaling.ONE | {"data": 8})["data"]
    assert alone == pytest.approx(2 * (parameters + biases) * 7 / 8)
    along = scaling.paper(name, scaling.ONE | {"fsdp": 8})
    gathered_once = 4 * arch.vocab_size * arch.width  # the table, although its gradients are two
    expected = (2 * (parameters + biases) - gathered_once) * 7 / 8
    assert along["fsdp"] == pytest.approx(expected, rel=1e-3) and not along["data"]
    both = scaling.paper(name, {"data": 4, "fsdp": 8, "tensor": 1})
    expected = 2 * (parameters / 8 + biases) * 3 / 4
    assert both["fsdp"] == along["fsdp"] and both["data"] == pytest.approx(expected, rel=0.02)


def test_states_are_summed_six_times_a_block():
    run = scaling.published("bert-base-uncased", layers=1)
    states = 4 * run.batch_size * 512 * run.arch.width
    first, second = (scaling.paper("bert-base-uncased", scaling.ONE | {"tensor": 2}, layers=n) for n in (1, 2))
    assert second["tensor"] - first["tensor"] == 12 * states / 2
    assert scaling.paper("bert-base-uncased", scaling.ONE | {"tensor": 2}, 2)["tensor"] == pytest.approx(
        scaling.paper("bert-base-uncased", scaling.ONE | {"tensor": 2})["tensor"] / 2
    )


@pytest.mark.parametrize("name", scaling.MODELS)
@pytest.mark.parametrize("count", [8, 64, 256])
def test_meshes_use_all_devices_and_share_out_the_rows(name, count):
    found = scaling.meshes(name, count)
    assert found
    for sizes in found:
        assert sizes["data"] * sizes["fsdp"] * sizes["tensor"] == count
        assert scaling.published(name).batch_size % (sizes["data"] * sizes["fsdp"]) == 0
        assert scaling.published(name).arch.heads % sizes["tensor"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", scaling.MODELS)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2)], ids=str)
def test_compiled_programs_send_what_is_on_paper(name, sizes):
    sizes = dict(zip(scaling.ONE, sizes, strict=True))
    found, expected = scaling.compiled(name, sizes, 1), scaling.paper(name, sizes, layers=1)
    assert 0.9 <= sum(found.values()) / sum(expected.values()) <= 1.1
