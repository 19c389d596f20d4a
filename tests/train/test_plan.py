"""A plan's operations are those of the whole model, its budget Hoffmann's, its probe a real step's time."""

import dataclasses
import math

import jax
import pytest

from research.config import Compute, Mesh, Run
from research.data.corpus import Data
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives import PRETRAINING
from research.objectives.causal import Causal
from research.objectives.span_corruption import SpanCorruption
from research.train import plan
from research.train.peaks import device_named
from research.types import UserError

SMALL = {"width": 32, "heads": 2, "head_width": 16, "mlp_width": 64, "max_length": 64, "vocab_size": 300}


def make(name="gpt2-nano", objective=None, arch=None, **fields) -> Run:
    shape = dataclasses.replace(preset(name), **{**SMALL, **(arch or {})})
    fields = {"data": Data(length=32), "batch_size": 4, "steps": 10, **fields}
    return Run("x", shape, objective or Causal(), **fields)


@pytest.mark.parametrize(
    "run",
    [
        make(arch={"layers": 3}, compute=Compute(remat=True)),
        make("t5-nano", SpanCorruption(), {"layers": 2, "decoder_layers": 3}, microbatches=2),
    ],
    ids=["gpt2", "t5"],
)
def test_operations_of_deep_models_follow_from_shallow_ones(run):
    subject = plan.subject(run)
    assert plan._products(subject, run) == plan._traced(subject, run)


def test_an_update_is_counted_whole():
    found = plan.work(plan.subject(make(compute=Compute(remat=True))))
    plain = plan.work(plan.subject(make()))
    assert (found.flops, found.parameters, found.trained) == (plain.flops, plain.parameters, plain.parameters)
    assert plain.again == 0 < found.again < found.flops / 3 and found.tokens == 4 * 32
    # 6 N D, and attention's own products beside it: N without positions, which are looked up
    matrices = plain.parameters - 64 * 32
    assert 0.9 < plain.flops / (6 * matrices * found.tokens) < 1.3


def test_a_budget_buys_the_model_of_hoffmann_et_al():
    bought = plan.optimal(5.76e23)  # Gopher's, which Chinchilla was trained with
    assert bought.parameters == pytest.approx(70e9, rel=0.05) and bought.tokens == pytest.approx(1.4e12, rel=0.05)
    assert 6 * bought.parameters * bought.tokens == pytest.approx(bought.flops)
    assert plan.optimal(1e20, 80).parameters == pytest.approx(plan.optimal(1e20).parameters / 2)


def test_stated_speed_is_a_share_of_the_makers_peak():
    run = make(compute=Compute(dtype="bfloat16"))
    work = plan.work(plan.subject(run))
    speed = plan.stated(run, work, 8, device_named("H100"), 0.4)
    assert speed.flops_per_s == 0.4 * 989.4e12
    assert speed.tokens_per_s * work.flops == pytest.approx(8 * speed.flops_per_s * work.tokens)
    assert speed.told.startswith("40% of 989 TFLOP/s in bfloat16 (NVIDIA")


def test_a_vocabulary_that_is_not_read_has_what_every_objective_needs():
    for config, size in ((Tokenizer(), 8192), (Tokenizer(path="somewhere", sentinels=0), 32_128)):
        words = plan.stand_in(config, size)
        assert words.size == size == len(words.special) == len(words.continues) == len(words.ends_sentence)
        assert (~words.special).sum() > 0.98 * size
        for objective in PRETRAINING.values():
            objective().check(128, words)
    assert plan.stand_in(Tokenizer(path="characters"), 65).size == 65


def test_what_is_taken_for_granted_is_said():
    run = make(arch={"vocab_size": 0}, data=Data(length=32, tokenizer=Tokenizer(size=2000)))
    subject = plan.subject(run)
    assert subject.run.arch.vocab_size == 2000 and "2,000 ids are taken for granted" in subject.notes[0]
    rows = subject.batch(run)
    assert rows["tokens"].shape == (4, 33) and not subject.vocabulary.special[rows["tokens"]].any()


def test_a_probe_times_real_steps_and_says_what_it_scaled():
    subject = plan.subject(make(mesh=Mesh(data=2)))
    work = plan.work(subject)
    real = plan.probe(subject, work, {"data": 2, "fsdp": 1, "tensor": 1}, seconds=0)
    assert real.tokens_per_s > 0 and "median of 3 steps of 4 rows" in real.told and "2 x cpu" in real.told
    assert real.flops_per_s == pytest.approx(real.tokens_per_s * work.flops / work.tokens / 2)
    wide = {"data": 1, "fsdp": 2, "tensor": 2 * jax.device_count()}
    scaled = plan.probe(subject, work, wide, seconds=0)
    assert "3 steps of 2 rows" in scaled.told
    assert scaled.told.endswith(f"times {math.prod(wide.values())} as if nothing were lost between devices")


def test_what_cannot_work_is_refused_before_anything_is_traced():
    with pytest.raises(UserError, match="steps is 0"):
        plan.subject(make(steps=0))
    with pytest.raises(UserError, match="vocab_size is 20"):
        plan.subject(make(arch={"vocab_size": 20}))
