"""Adapters that are written here are those that PEFT loads: same logits beside the base and merged into it."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from research.commands import main as door
from research.config import Adapter, Init, to_json
from research.interop import peft as ours
from research.interop.config_json import to_config
from research.models import preset
from research.models.arch import with_head
from research.models.heads import logits
from research.models.paths import flatten, unflatten
from research.models.rules import to_huggingface
from research.models.build import parameter_shapes
from research.models.transformer import Transformer
from research.objectives.classification import Classification
from research.train import adapter as adapters
from research.train.restore import Loaded
from research.types import UserError
from tests.train import small_tasks

SIZES = {"vocab_size": 60, "width": 32, "layers": 2, "heads": 4, "head_width": 0, "mlp_width": 64, "max_length": 16}
ALL = r"block_.*kernel$"
CASES = {
    "bert": ("bert-nano", "vocabulary", Adapter("lora", rank=2)),
    "bert-sequence": ("bert-nano", "sequence", Adapter("lora", rank=2, targets=ALL)),
    "bert-norms": ("bert-nano", "tokens", Adapter("lora", rank=2, whole="norm|^classifier/")),
    "roberta-sequence": ("roberta-nano", "sequence", Adapter("lora", rank=3)),
    "gpt2": ("gpt2-nano", "vocabulary", Adapter("lora", rank=2, targets=r"(query|value|mlp/up|out)/kernel$")),
    "gpt2-sequence": ("gpt2-nano", "sequence", Adapter("lora", rank=2, alpha=3.0, targets=ALL)),
    "t5": ("t5-nano", "vocabulary", Adapter("lora", rank=2)),
    "bart": ("bart-nano", "vocabulary", Adapter("lora", rank=2, targets=r"block_1/.*kernel$")),
}


def trained(case):
    """The architecture, adapter, and parameters with updates that are not nothing: all, trained and frozen ones."""
    name, head, chosen = CASES[case]
    sizes = SIZES | ({"decoder_layers": 2} if preset(name).structure == "encoder-decoder" else {})
    arch = replace(preset(name), **sizes)
    if head != "vocabulary":
        arch = with_head(arch, head, 3)
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32)  # noqa: E731
    params = jax.tree.map(draw, parameter_shapes(arch))
    trainable, frozen = adapters.split(chosen, arch, params, jax.random.key(0))
    return arch, chosen, params, jax.tree.map(draw, trainable), frozen


def torch_base(arch, params):
    """The model of transformers with these parameters."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    ids = {"pad": 1 if arch.family == "roberta" else 0, "bos": 2, "eos": 3}
    config = to_config(arch, **ids, decoder_start=0 if arch.structure == "encoder-decoder" else None)
    cls = getattr(transformers, config["architectures"][0])
    model = cls(cls.config_class(**config))
    tensors = {name: torch.tensor(np.array(value)) for name, value in to_huggingface(arch, params).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    model.tie_weights()
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_peft_gives_our_logits_beside_the_base_and_merged(case, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    arch, chosen, params, trainable, frozen = trained(case)
    merged = adapters.merge(chosen, trainable, frozen)
    ours.write(tmp_path / "adapter", arch, chosen, merged, trainable, "base")
    text = np.random.default_rng(1).integers(4, 60, (2, 8)).astype(np.int32)
    inputs, theirs = {"tokens": text}, {"input_ids": torch.tensor(text).long()}
    if arch.structure == "encoder-decoder":
        inputs["source"], theirs["decoder_input_ids"] = text[:, ::-1].copy(), theirs["input_ids"]
        theirs["input_ids"] = torch.tensor(inputs["source"]).long()
    if arch.head == "sequence":
        inputs["select"] = np.full((2, 1), 0 if arch.structure == "encoder" else 7, np.int32)
    expected = np.asarray(logits(Transformer(arch), merged, **inputs))
    expected = expected[:, 0] if arch.head == "sequence" else expected
    atol = 1e-5 * max(1.0, np.abs(expected).max())

    base = torch_base(arch, params)
    with torch.no_grad():
        before = base(**theirs).logits.numpy()
        model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        np.testing.assert_allclose(model(**theirs).logits.numpy(), expected, rtol=0, atol=atol)
        whole = model.merge_and_unload()
        np.testing.assert_allclose(whole(**theirs).logits.numpy(), expected, rtol=0, atol=atol)
    assert np.abs(before - expected).max() > 100 * atol


def test_the_folder_is_peft_s_own_layout(tmp_path):
    arch, chosen, _, trainable, frozen = trained("bert-sequence")
    chosen = replace(chosen, targets=Adapter.targets)
    updates = {p: v for p, v in flatten(trainable).items() if "lora" not in p or "query" in p or "value" in p}
    merged, names = adapters.merge(chosen, trainable, frozen), ("a", "b", "c")
    ours.write(tmp_path / "x", arch, chosen, merged, unflatten(updates), "some/base", names, "single_label")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [ours.CONFIG, ours.TENSORS, ours.NAMES]
    assert json.loads((tmp_path / "x" / ours.NAMES).read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}
    config = json.loads((tmp_path / "x" / ours.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "some/base" and config["task_type"] == "SEQ_CLS"
    assert config["r"] == 2 and config["lora_alpha"] == 16.0 and config["rank_pattern"] == {}
    assert config["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    tensors = load_file(tmp_path / "x" / ours.TENSORS)
    place = "base_model.model.bert.encoder.layer.1.attention.self.value"
    assert tensors[f"{place}.lora_A.weight"].shape == (2, 32) and tensors[f"{place}.lora_B.weight"].shape == (32, 2)
    assert len(tensors) == 2 * 2 * 2 + 2 + 2
    mine = updates["encoder/block_1/self_attention/value/lora_a"]
    np.testing.assert_array_equal(tensors[f"{place}.lora_A.weight"], np.asarray(mine).T)
    with pytest.raises(UserError, match="x is not empty"):
        ours.write(tmp_path / "x", arch, chosen, {}, {}, "some/base")


@pytest.mark.parametrize(
    ("case", "whole", "named"),
    [
        ("bert", "scale$", "LayerNorm"),  # without the bias beside it
        ("bert", "^tokens/", "word_embeddings"),  # which are the output projection too
        ("bert", "^head/bias", "cls.predictions.bias"),
        ("gpt2", "query/", "c_attn"),
    ],
)
def test_what_peft_has_no_module_for_is_refused_in_one_line(case, whole, named):
    arch, chosen, params, *_ = trained(case)
    chosen = replace(chosen, whole=whole)
    trainable, frozen = adapters.split(chosen, arch, params, jax.random.key(0))
    with pytest.raises(UserError) as caught:
        ours.adapted(arch, chosen, adapters.merge(chosen, trainable, frozen), trainable, "base")
    assert named in str(caught.value) and "without --adapter" in str(caught.value) and "\n" not in str(caught.value)


def test_gradients_are_those_of_peft(tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    from research.models import lora

    arch, chosen, params, trainable, frozen = trained("bert")
    ours.write(tmp_path / "adapter", arch, chosen, adapters.merge(chosen, trainable, frozen), trainable, "base")
    model = peft.PeftModel.from_pretrained(torch_base(arch, params), tmp_path / "adapter", is_trainable=True).eval()
    text = np.random.default_rng(1).integers(4, 60, (2, 8)).astype(np.int32)
    torch.sin(model(input_ids=torch.tensor(text).long()).logits).sum().backward()

    def loss(trainable):
        with lora.updated(adapters.scale(chosen)):
            return jnp.sum(jnp.sin(logits(Transformer(arch), adapters.join(trainable, frozen), tokens=text)))

    found = flatten(jax.device_get(jax.jit(jax.grad(loss))(trainable)))
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(theirs) == 8
    largest = max(np.abs(g).max() for g in theirs.values())
    for path, gradient in found.items():
        block, part, which = path.split("/")[1][-1], path.split("/")[3], path[-1].upper()
        [name] = [n for n in theirs if f"layer.{block}.attention.self.{part}.lora_{which}" in n]
        np.testing.assert_allclose(gradient.T, theirs[name], rtol=0, atol=1e-5 * largest)


def export(capsys, *arguments):
    """Run the command and return (status, stdout, stderr)."""
    capsys.readouterr()
    status = door.main(["export", *map(str, arguments)])
    return (status, *capsys.readouterr())


def adapted(tmp_path, monkeypatch):
    """Put a trained low-rank classifier of three labels, whose base has none, in the place of a run's checkpoint."""
    arch, chosen, params, trainable, frozen = trained("bert-sequence")
    headless = torch_base(arch, params).base_model
    headless.config.num_labels = 2
    headless.save_pretrained(tmp_path / "base")
    objective = Classification(labels=("cat", "dog", "none"))
    held = small_tasks.run("classification", tmp_path, adapter=chosen, init=Init(str(tmp_path / "base")))
    held = replace(held, arch=arch, objective=objective)
    (tmp_path / "run").mkdir()
    values = to_json(held)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"configuration": values, "resolved": values}))
    merged = adapters.merge(chosen, trainable, frozen)
    loaded = Loaded(held, 3, Transformer(arch), merged, None, None, None, trainable, ())
    monkeypatch.setattr("research.train.restore.load_run", lambda *_, **__: loaded)
    return loaded


def test_the_line_that_is_printed_loads_the_adapter_with_its_labels(tmp_path, monkeypatch, capsys):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded = adapted(tmp_path, monkeypatch)
    status, out, err = export(capsys, tmp_path / "run", tmp_path / "adapter", "--adapter")
    assert (status, err) == (0, "")
    model = eval(out.splitlines()[1], {"peft": peft, "transformers": transformers}).eval()
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "none"}
    text = np.random.default_rng(1).integers(4, 60, (2, 8)).astype(np.int32)
    expected = np.asarray(logits(loaded.model, loaded.params, tokens=text, select=np.zeros((2, 1), np.int32)))[:, 0]
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor(text).long()).logits.numpy(), expected, rtol=0, atol=1e-4)


def test_a_base_that_the_updates_were_not_trained_on_is_refused(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    adapted(tmp_path, monkeypatch)
    other = transformers.AutoModel.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        other.embeddings.LayerNorm.bias += 1e-6
    other.save_pretrained(tmp_path / "other")
    status, out, err = export(capsys, tmp_path / "run", tmp_path / "x", "--adapter", "--base", tmp_path / "other")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "other is not what the updates were trained on: give that as --base" in err
    assert not (tmp_path / "x").exists()


def test_a_base_that_peft_cannot_open_is_refused_and_another_can_be_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    loaded = adapted(tmp_path, monkeypatch)
    (tmp_path / "base" / "run.json").write_text("{}")  # as where init.path names a run
    status, out, err = export(capsys, tmp_path / "run", tmp_path / "adapter", "--adapter")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"base is a run, which PEFT cannot open: python -m research export {loaded.run.init.path} FOLDER" in err
    status, out, err = export(capsys, tmp_path / "run", tmp_path / "adapter", "--adapter", "--base", "some/base")
    assert status == 0 and 'from_pretrained("some/base", num_labels=3' in out
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    status, _, err = export(capsys, tmp_path / "run", tmp_path / "x", "--base", "some/base")
    assert status == 2 and "--base says what an adapter is loaded onto: give --adapter too" in err
