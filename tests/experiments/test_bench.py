"""The benchmark does the work that it says, the same as its peers', and survives them; no speed is judged here."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import bench, peer, roof, turns
from experiments.work import FAMILIES, Work, rows_of, run_of, spans_of, vocabulary_of
from research.keys import key
from research.models.build import parameter_count
from research.train.peaks import PEAKS, peak_of
from research.types import UserError

OBJECTIVES = pytest.mark.parametrize("objective", FAMILIES)


def small(objective: str, **fields) -> Work:
    return Work(objective, **{"batch": 2, "width": 32, "layers": 2, "vocabulary": 512} | fields)


# --- the work ---------------------------------------------------------------------------------------------------------


@OBJECTIVES
def test_every_position_that_is_promised_is_scored_anew_in_each_step(objective):
    work = small(objective, length=64)
    run, words = run_of(work), vocabulary_of(work)
    rows = rows_of(work, run, 1 << 12).batch(0)

    @jax.jit
    def example(step):
        keys = jax.vmap(lambda row: key(0, "corruption", step, row))(np.arange(work.batch))
        return jax.vmap(lambda key, row: run.objective(key, row, words))(keys, rows)

    first, again = example(0), example(1)
    assert first.weights.shape == (work.batch, work.scored) and np.all(first.weights == 1)
    assert first.inputs["source" if objective == "seq2seq" else "tokens"].shape == (work.batch, work.length)
    assert np.array_equal(first.inputs["tokens"], again.inputs["tokens"]) == (objective == "clm")
    assert Work(objective).scored == {"mlm": 38, "clm": 256, "seq2seq": 64}[objective]
    if objective == "seq2seq":  # nothing that the encoder reads is padding
        assert np.all(first.inputs["source_segments"] == 1)


@pytest.mark.parametrize(("source", "target", "row"), [(512, 114, 568), (256, 64, 286), (16, 4, 16), (100, 90, 144)])
def test_spans_turn_a_row_into_exactly_what_is_asked_for(source, target, row):
    objective, length = spans_of(source, target)
    assert objective.lengths(length)[:2] == (source, target)
    assert length == row


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"heads": 3}, "arch.width 32 is not divisible by arch.heads 3"),
        ({"vocabulary": 100}, "has no ordinary token"),
        ({"objective": "seq2seq", "targets": 900}, "no spans turn a row"),
        ({"objective": "seq2seq", "length": 2000}, "sentinels"),
    ],
)
def test_work_that_cannot_be_done_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        run_of(small(**{"objective": "clm", **fields}))


COUNTED = {"mlm": 5_462_784, "clm": 5_387_776, "seq2seq": 9_443_072}  # as transformers counts the peers'


@OBJECTIVES
def test_we_have_as_many_parameters_as_the_peer(objective):
    assert parameter_count(run_of(Work(objective)).arch) == COUNTED[objective]


@OBJECTIVES
def test_dropout_is_everywhere_or_nowhere(objective):
    for rate in (0.1, 0.0):
        arch = run_of(Work(objective, dropout=rate)).arch
        assert arch.dropout == arch.attention_dropout == rate
        assert arch.activation_dropout == (rate if objective == "seq2seq" else 0)  # BERT and GPT-2 have none there


@pytest.mark.slow  # imports torch
@OBJECTIVES
def test_the_peer_has_as_many_parameters_and_targets(objective):
    import torch

    from experiments import bench_torch

    work = Work(objective)
    with torch.device("meta"):
        model = bench_torch.model_of(work)
    assert sum(p.numel() for p in model.parameters()) == COUNTED[objective]
    shifted = objective == "clm"  # transformers shifts within a row, whose first token nothing predicts
    assert bench_torch.targets_of(work, bench_torch.batch_of(work)) == work.batch * (work.scored - shifted)


# --- turns, figures ---------------------------------------------------------------------------------------------------


def test_turns_alternate_and_are_compared_by_their_medians():
    order, told = [], []
    takers = {name: (lambda name=name: order.append(name) or len(order)) for name in "ab"}
    assert turns.alternate(takers, 3, told.append) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert order == list("ababab") and told == [1, 2, 3, 4, 5, 6]
    assert turns.spread([2.0, 3.0, 4.0]) == 2.0
    assert turns.ratio([1.0, 2.0, 90.0], [3.0, 4.0, 5.0]) == 2.0


def test_figures_follow_from_the_seconds():
    work = small("clm", dtype="bfloat16")  # 512 tokens
    mine = bench.Ours("NVIDIA H100 80GB HBM3", 1000, 510, 10**12, lambda count: [])
    row = bench.shape_of(work, mine) | bench.against_roof(work, mine, [0.5, 0.25, 1.0], 4e12)
    assert (row["step_s"], row["spread"], row["tokens_per_s"]) == (0.5, [0.25, 1.0], 1024)
    assert (row["flops"], row["fraction"], row["mfu"]) == (10**12, 0.5, round(2e12 / 989.4e12, 3))
    assert {"batch", "length", "vocabulary", "width", "layers", "heads", "targets", "parameters"} <= row.keys()
    assert "memory" not in row and bench.shape_of(work, mine._replace(memory=7))["memory"] == 7
    about = {"parameters": 1000, "targets": 508}
    row["peers"] = {"torch": about | bench.against(work, mine, about, [[0.5, 0.5], [0.5]], [[1.0, 1.0], [2.0]])}
    assert row["peers"]["torch"]["ratio"] == 2.0 and row["peers"]["torch"]["ratio_spread"] == [2.0, 4.0]
    header, [line] = bench.table([row])
    assert len(header) == len(line) and "512, 2.00 (2.00 - 4.00)" in line
    with pytest.raises(UserError, match="other work"):
        bench.against(work, mine, {"parameters": 1001}, [[0.5]], [[1.0]])


def test_peaks_are_of_exact_names():
    assert peak_of("NVIDIA H200", "bfloat16") == 989.4e12
    assert peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16") is None and peak_of("cpu", "float32") is None
    assert all(peak.source and 0 < peak.float32 <= peak.bfloat16 for peak in PEAKS.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_roof_is_of_the_fastest_product(dtype):
    slow, fast = (roof.roof([(side, side, side)], dtype)() for side in (8, 128))  # of 8 x 8, calling is nearly all
    assert 0 < slow < fast
    assert (4096, 256, 1024) in roof.shapes(Work("clm"), False)


# --- peers ------------------------------------------------------------------------------------------------------------

ECHO = """
import json, sys
print("a warning")
print(json.dumps({"parameters": 7}), flush=True)
for line in sys.stdin:
    if line == "0\\n":
        sys.exit("Traceback\\n  somewhere\\nMemoryError: no room")
    print(json.dumps({"seconds": [0.5] * int(line)}), flush=True)
"""


PARENT = """
import json, subprocess
child = subprocess.Popen(["sleep", "600"])
print(json.dumps({"child": child.pid}), flush=True)
child.wait()
"""


def test_a_process_answers_and_its_death_is_one_line():
    with peer.Process("echo", [sys.executable, "-c", ECHO]) as process:
        assert process.answer() == {"parameters": 7}
        process.ask("2")
        assert process.answer() == {"seconds": [0.5, 0.5]}
        process.ask("0")
        with pytest.raises(UserError, match="^the peer echo ended with status 1: MemoryError: no room$"):
            process.answer()


def test_a_process_ends_with_what_it_has_started():
    with peer.Process("parent", [sys.executable, "-c", PARENT]) as process:
        number = process.answer()["child"]
        parent = process._process.pid
    assert not os.path.exists(f"/proc/{parent}")
    for _ in range(200):  # adopted by init, which collects it
        state = "gone"
        if os.path.exists(f"/proc/{number}"):
            state = open(f"/proc/{number}/stat").read().rpartition(")")[2].split()[0]
        if state in ("gone", "Z"):
            return
        time.sleep(0.01)
    pytest.fail(f"the child is still in state {state}")


def test_a_command_is_a_peer():
    says = "import json; print(json.dumps(dict(step_s={batch} / 4, parameters=7))); print(1)"
    work = small("clm")
    named = f'other={sys.executable} -c "{says}"'
    with peer.peer(named, work, "cpu") as other:
        assert other.steps(5) == [0.5] and other.about == {"parameters": 7}
    with peer.peer(f"other={sys.executable} -c pass", work, "cpu") as other, pytest.raises(UserError, match="step_s"):
        other.steps(5)
    assert peer.words("run --size {width} 'a b'", work) == ["run", "--size", "32", "a b"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("troch", "did you mean torch"),
        ("x=", "give both"),
        ("x=run {colour}", "names {colour}"),
        ("x=run 'a", "No closing quotation"),
        ("x=/no/such/program", "cannot be started: /no/such/program: No such file"),
    ],
)
def test_peers_that_cannot_be_are_refused(named, said):
    with pytest.raises(UserError, match=said), peer.peer(named, small("clm"), "cpu") as other:
        other.steps(1)


@pytest.mark.parametrize("peers", [["roof=run"], ["tercet=run"], ["a=run", "b=run", "a=walk"]])
def test_peers_have_names_of_their_own(peers):
    bench.check_peers(["a=run", "b=run"])
    with pytest.raises(UserError, match="is the name of another"):
        bench.check_peers(peers)


def test_without_torch_its_peers_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        bench.main(["--peer", "torch"])
    assert ended.value.code == "error: --peer torch needs PyTorch, which is not installed: pip install torch"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow  # a minute: torch is imported twice, and a step compiled
@OBJECTIVES
def test_it_ends_with_a_line_of_json(objective, tmp_path):
    sizes = "--batch 2 --length 64 --width 32 --layers 1 --vocabulary 256 --rounds 1 --steps 1".split()
    command = [sys.executable, "-m", "experiments.bench", "--objective", objective, "--json", "--peer", "torch", *sizes]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TERCET_CACHE": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout.splitlines()[-1])
    assert row["tokens_per_s"] > 0 and row["step_s"] > 0 and len(row["spread"]) == 2 and row["length"] == 64
    assert row["peers"]["torch"]["parameters"] == row["parameters"] and row["peers"]["torch"]["ratio"] > 0
