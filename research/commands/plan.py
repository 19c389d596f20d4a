"""`plan EXPERIMENT`: what a run takes, before anything is allocated, and what a budget buys."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, NamedTuple

from research.commands import overrides
from research.commands.arguments import switch, take
from research.commands.table import show
from research.commands.train import experiment_of
from research.report.costs import scientific
from research.train.progress import duration, short
from research.types import UserError

if TYPE_CHECKING:
    from research.config import Run
    from research.train.memory import Estimate
    from research.train.plan import Purchase, Speed, Work

USAGE = """usage: python -m research plan EXPERIMENT [--FIELD VALUE ...] [--device NAME [--mfu SHARE] | --probe]
       [--price PER_DEVICE_HOUR] [--budget-hours DEVICE_HOURS [--tokens-per-parameter RATIO]] [--compile]"""

DESCRIPTION = """Say what {experiment} takes: parameters, FLOPs a token, memory of each device of --mesh.*, which need
not exist, time and cost. --device NAME: of such devices (H100, A100-80GB, TPU-v5e, ...), from what their maker states
and --mfu, the share of it that is reached (0.4). --probe: at the speed of this machine, timed for 30 seconds. --price:
of a device-hour. --budget-hours: the compute-optimal model and tokens for so many device-hours, at
--tokens-per-parameter (20). --compile: what XLA reserves, beside the estimate. Every field of the experiment:"""

MFU = 0.4
GIB = 2**30


class Options(NamedTuple):
    """What is asked beside the run's own fields."""

    device: str | None
    mfu: float
    probe: bool
    price: float | None
    budget_hours: float | None
    ratio: float | None
    compile: bool


def main(arguments: list[str]) -> int:
    """Print the plan of the experiment that `arguments` name; return 0, also where it does not fit."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        print("python -m research plan EXPERIMENT --help says what each is, and shows every field of the experiment.")
        return 0
    experiment, rest = experiment_of(arguments, USAGE)

    from research.config import check, load_experiment
    from research.models.ngram import Ngram
    from research.train import peaks

    run = load_experiment(experiment)
    if "-h" in rest or "--help" in rest:
        overrides.show_help(run, f"plan {experiment}", DESCRIPTION.format(experiment=experiment))
        return 0
    options, rest = _options(rest)
    device = peaks.device_named(options.device) if options.device else None
    run = overrides.parse(run, rest)
    check(run)
    if isinstance(run.arch, Ngram):
        raise UserError(f"{experiment} counts n-grams in one pass: it has no steps to plan, so train it")
    _choose_devices(run, device, options.compile)
    _plan(run, device, options)
    return 0


def _options(arguments: list[str]) -> tuple[Options, list[str]]:
    """Return what is asked and the other arguments.

    Raises:
        UserError: A value is no number or out of its range, or two flags do not go together.
    """
    device, rest = take(arguments, "--device")
    probe, rest = switch(rest, "--probe")
    compiled, rest = switch(rest, "--compile")
    mfu, rest = _number(rest, "--mfu", "a share of the peak, such as 0.4", most=1)
    price, rest = _number(rest, "--price", "the price of a device-hour, such as 2.5")
    hours, rest = _number(rest, "--budget-hours", "device-hours, such as 1000")
    ratio, rest = _number(rest, "--tokens-per-parameter", "tokens, such as 20")
    if device and probe:
        raise UserError("--probe times this machine, and --device names another: give one of them")
    if mfu and not device:
        raise UserError("--mfu is a share of what a device's maker states: name it with --device")
    for flag, value in (("--price", price), ("--budget-hours", hours)):
        if value and not (device or probe):
            raise UserError(f"{flag} needs a speed: name devices with --device H100, or time this machine with --probe")
    if ratio and not hours:
        raise UserError("--tokens-per-parameter is for --budget-hours: give that too")
    return Options(device, mfu or MFU, probe, price, hours, ratio, compiled), rest


def _number(arguments: list[str], flag: str, what: str, most: float = math.inf) -> tuple[float | None, list[str]]:
    text, rest = take(arguments, flag)
    if text is None:
        return None, rest
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value <= most and math.isfinite(value)):
        raise UserError(f"{flag} is {text}: give {what}")
    return value, rest


def _choose_devices(run: Run, device: str | None, compiling: bool) -> None:
    """Keep JAX from taking what a plan does not need, before it starts: an accelerator's memory, or the accelerator.

    To compile for more devices than there are, CPUs are emulated.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    emulated = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if compiling and emulated not in flags:
        devices = max(1, run.mesh.data) * run.mesh.fsdp * run.mesh.tensor
        os.environ["XLA_FLAGS"] = f"{flags} {emulated}={max(1, devices)}".strip()
    if device:
        import jax

        jax.config.update("jax_platforms", "cpu")


def _plan(run: Run, device: str | None, options: Options) -> None:
    import jax
    from jax.sharding import AbstractMesh

    from research.config import Mesh
    from research.train import memory, peaks, plan, sharding

    here = jax.devices()[0]
    asked = max(1, run.mesh.data) * run.mesh.fsdp * run.mesh.tensor
    shape = sharding.sizes(run.mesh, max(asked, 1 if device else jax.device_count()))  # mesh.data 0: all that are here
    sizes, devices = dict(zip(("data", "fsdp", "tensor"), shape, strict=True)), math.prod(shape)
    sharding.check_batch(run.batch_size, run.microbatches, AbstractMesh(shape, tuple(sizes)))
    subject = plan.subject(run)
    run = subject.run
    name, platform = (device, peaks.platform_of(device)) if device else (here.device_kind, here.platform)
    over = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
    print(f"{run.name} on {devices} x {name}{over and f' ({over})'}, {run.compute.dtype}", *subject.notes, sep="\n")

    needed = {remat: memory.estimate(with_remat(run, remat), sizes, platform) for remat in remats(run)}
    show("", ("memory of each device, GiB", *(REMAT[remat] for remat in needed)), memory_rows(list(needed.values())))
    free = memory.usable(device) if device else memory.available()
    print(memory.complaint(needed[run.compute.remat], free) or f"it fits into {free / GIB:,.1f} GiB")
    if options.compile:
        mesh = sharding.create_mesh(Mesh(*shape))
        estimated = memory.estimate(run, sizes, here.platform)
        where = f"{devices} x {here.device_kind}"
        print(compared(plan.compiled_bytes(subject, mesh), estimated.total, where))

    work = plan.work(subject)
    show("", ("one update", ""), work_rows(run, work))
    speed = plan.stated(run, work, devices, device, options.mfu) if device else None
    if options.probe:
        speed = plan.probe(subject, work, sizes)
    if speed:
        show("", ("all of it", ""), time_rows(run, work, speed, devices, options.price))
    else:
        print("how fast: --probe times this machine for 30 seconds, --device H100 takes what its maker states")
    if speed and options.budget_hours:
        operations = options.budget_hours * 3600 * speed.flops_per_s
        bought = plan.optimal(operations, options.ratio or plan.TOKENS_PER_PARAMETER)
        show("", (f"{options.budget_hours:,g} device-hours", ""), budget_rows(work, bought))


REMAT = {False: "kept for the backward pass", True: "with compute.remat"}


def with_remat(run: Run, remat: bool) -> Run:
    """Return `run` with rematerialisation on or off."""
    return dataclasses.replace(run, compute=dataclasses.replace(run.compute, remat=remat))


def remats(run: Run) -> tuple[bool, ...]:
    """Return the choices there are: only transformers rematerialise."""
    from research.models.arch import Arch

    return (False, True) if isinstance(run.arch, Arch) else (False,)


def memory_rows(estimates: list[Estimate]) -> list[tuple[str, ...]]:
    """Return a row for each part that one of the estimates has, and one for the whole."""
    names = [name for name in estimates[0].parts if any(estimate.parts[name] for estimate in estimates)]
    rows = [(name, *(gib(estimate.parts[name]) for estimate in estimates)) for name in names]
    return [*rows, ("all", *(gib(estimate.total) for estimate in estimates))]


def compared(found: int, estimated: int, where: str) -> str:
    """Return what XLA reserves beside what was estimated of the same devices."""
    off = estimated / found - 1
    return f"XLA reserves {gib(found)} GiB on each of {where}; estimated for them: {gib(estimated)} GiB, {off:+.1%}"


def work_rows(run: Run, work: Work) -> list[tuple[str, str]]:
    """Return what one update of the run is."""
    rows = [("parameters", f"{work.parameters:,}")]
    if work.trained < work.parameters:
        rows.append(("trained of them", f"{work.trained:,}"))
    rows.append(("tokens", f"{work.tokens:,} ({run.batch_size:,} rows of {run.data.length:,})"))
    rows.append(("FLOPs a token", scientific(work.flops / work.tokens)))
    if work.again:
        rows.append(("rematerialisation's beside them", scientific(work.again / work.tokens)))
    return [*rows, ("FLOPs", scientific(work.flops + work.again))]


def time_rows(run: Run, work: Work, speed: Speed, devices: int, price: float | None) -> list[tuple[str, str]]:
    """Return how fast, and how long and how dear the whole run is where its steps are known."""
    rows = [("tokens a second", f"{short(speed.tokens_per_s)}: {speed.told}")]
    seconds = run.minutes * 60 or run.steps * work.tokens / speed.tokens_per_s
    if not seconds:
        unknown = f"not known: epochs {run.epochs:g} are of a text that has not been read; --steps N says it"
        return [*rows, ("time", unknown)]
    tokens = run.steps * work.tokens or seconds * speed.tokens_per_s
    hours = seconds * devices / 3600
    rows.append(("tokens", f"{short(tokens)}, in {tokens / work.tokens:,.0f} updates"))
    rows.append(("time", f"{duration(seconds)}, without evaluations and start"))
    rows.append(("device-hours", f"{hours:,.3g}"))
    return [*rows, ("cost", f"${hours * price:,.2f}")] if price else rows


def budget_rows(work: Work, bought: Purchase) -> list[tuple[str, str]]:
    """Return what a budget buys: the compute-optimal model with its tokens, and tokens for this one."""
    tokens = bought.flops * work.tokens / work.flops
    ratio = f"{bought.tokens / bought.parameters:g} tokens a parameter"
    return [
        ("FLOPs, at this speed", scientific(bought.flops)),
        ("compute-optimal parameters", f"{short(bought.parameters)} (C = 6 N D, {ratio}; Hoffmann et al., 2022)"),
        ("their tokens", short(bought.tokens)),
        ("tokens for this model instead", f"{short(tokens)}, {tokens / work.parameters:,.3g} a parameter"),
    ]


def gib(size: float) -> str:
    """Return bytes in GiB, to three digits where it is less than one."""
    return f"{size / GIB:,.2f}" if size >= GIB else f"{size / GIB:.3f}"
