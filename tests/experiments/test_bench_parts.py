"""The profiler's time of operations is told by the parts of the model that their paths name."""

import pytest

from experiments import bench_parts

TEXT = """
HloModule jit_update
%body (p: f32[2]) -> f32[2] {
  ROOT %exp.1 = f32[16,32]{1,0} fusion(%a), kind=kLoop, metadata={op_name="jit(update)/jvp()/while/body/exp"}
}
ENTRY %main {
  %while.2 = (s32[], f32[2]{0}, /*index=2*/f32[2]{0}) while(%t), body=%body, metadata={op_name="jit(update)/jvp()/while"}
  %dot.3 = f32[4,8]{1,0} dot(%x, %y), metadata={op_name="jit(update)/transpose(jvp(Transformer))/block_0/mlp/up/dot_general"}
  %copy.4 = f32[4]{0} copy(%z)
}
"""


def test_time_is_told_once_by_part_and_way():
    known = bench_parts.operations(TEXT)
    assert known["while.2"][0] == "while" and known["dot.3"][0] == "dot" and known["copy.4"] == ("copy", "")
    timed = {"exp.1": 4e6, "while.2": 9e6, "dot.3": 2e6, "copy.4": 1e6}  # microseconds of two steps
    events = [{"dur": dur, "args": {"hlo_op": name}} for name, dur in timed.items()]
    parts = bench_parts.by_part([*events, {"dur": 7e6}, {"name": "no duration"}], known, 2)
    assert list(parts) == ["loss and vocabulary", "feed-forward: products", "copies and what has no name"]
    assert parts["feed-forward: products"] == {"forward": 0.0, "backward": 1.0}
    header, lines = bench_parts.table(parts)
    assert lines[0] == ["loss and vocabulary", "2000.0 ms", "0.0 ms", "57.1%"] and len(header) == 4


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("jvp(Transformer)/decoder/block_1/self_attention/self_attention.keys_values/key/dot_general", "projections"),
        ("jvp(Transformer)/decoder/block_1/self_attention/bthd,bshd->bhts/dot_general", "scores and sums"),
        ("jvp(Transformer)/decoder/block_1/cross_attention/query/add", "projections"),
        ("jvp(Transformer)/decoder/block_1/self_attention/dropout/jit(_where)/select_n", "attention: dropout"),
        ("jvp(Transformer)/decoder/block_1/self_attention_norm/reduce_sum", "norms"),
        ("jvp(Transformer)/decoder/block_1/Dropout_0/jit(_where)/select_n", "dropout"),
        ("jvp(Transformer)/decoder/block_1/mlp/tanh", "feed-forward: activation"),
        ("jit(update)/vmap(jit(sort))", "corruption"),
        ("jit(update)/cond/branch_1_fun/mul", "clipping and update"),
    ],
)
def test_parts_are_read_from_the_path(path, part):
    assert bench_parts.part_of(path).endswith(part)
