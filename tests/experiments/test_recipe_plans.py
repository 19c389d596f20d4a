"""What the recipes' docstrings say under `Plan:` is what `plan` says, to the digit."""

import ast
import dataclasses
import re

import pytest

from research.config import Mesh
from research.train import memory, peaks, plan
from research.train.memory import GIB
from research.train.shapes import count, parameters
from tests.experiments.test_recipes import file_of, phases, recipes
from tests.test_experiments import local  # noqa: F401 (a fixture)

H100, MFU = peaks.device_named("H100"), 0.4


def paragraphs(name):
    """Return the paragraphs of the docstring by their first words, each on one line."""
    text = ast.get_docstring(ast.parse(file_of(name).read_text()))
    found = re.split(r"^(\w+):", text, flags=re.MULTILINE)[1:]
    return {title: " ".join(body.split()) for title, body in zip(found[::2], found[1::2], strict=True)}


def microbatches(name, devices):
    """Return how many the docstring takes on so many devices."""
    if devices == 1:
        return [run.microbatches for run in phases(name)]
    told = re.findall(r"`--mesh.data 8 --microbatches (\d+)`", paragraphs(name)["Devices"]) or [1]
    return [int(told[0])] * len(phases(name))


def in_turn(values):
    """Return one phase after the other, once where they are alike."""
    return " then ".join(dict.fromkeys(values))


def on(name, devices, flops):
    """Return the memory of each of so many devices, and the days of all phases, by the FLOPs of a token of each."""
    sizes, needed, days, done = {"data": devices, "fsdp": 1, "tensor": 1}, [], 0, 0
    for run, parts, each in zip(phases(name), microbatches(name, devices), flops, strict=True):
        run = dataclasses.replace(run, microbatches=parts, mesh=Mesh(devices))
        estimate = memory.estimate(run, sizes, peaks.platform_of(H100))
        assert not memory.complaint(estimate, memory.usable(H100))
        needed.append(f"{estimate.total / GIB:.2g}")
        tokens = run.batch_size * run.data.length
        work = plan.Work(0, 0, tokens, tokens * each, 0)
        speed = plan.stated(run, work, devices, H100, MFU)
        days += (run.steps - done) * tokens / speed.tokens_per_s / 86_400
        done = run.steps
    return f"{in_turn(needed)} GiB and {days:.2g} days"


@recipes
def test_memory_and_time_follow_from_the_run(name, local):  # noqa: F811
    told = paragraphs(name)["Plan"]
    flops = [float(number) * 1e6 for number in re.search(r", (.*) training MFLOPs a token;", told)[1].split(" then ")]
    flops *= len(phases(name)) // len(flops)
    work = in_turn(f"{each / 1e6:.0f}" for each in flops)
    assert told == (
        f"{count(parameters(phases(name)[0].arch)):,} parameters, {work} training MFLOPs a token; on one H100 "
        f"{on(name, 1, flops)}, on each of eight {on(name, 8, flops)}, at an MFU of {MFU} (`python -m research plan`)."
    )


@pytest.mark.slow
@recipes
def test_operations_are_those_of_the_step(name, local):  # noqa: F811
    """Traced, a few seconds each."""
    found = []
    for run in phases(name):
        work = plan.work(plan.subject(run))
        found.append(f"{work.flops / work.tokens / 1e6:.0f}")
    assert f", {in_turn(found)} training MFLOPs a token;" in paragraphs(name)["Plan"]
