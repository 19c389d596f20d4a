"""Folders that `transformers` wrote compute the same here; what does not fit, or is not there, is said in one line."""

import json
import os
import pathlib
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

import research
from research.interop import folder as interop
from research.interop.config_json import to_config
from research.interop.folder import architecture, locate, parameters
from research.models.arch import base
from research.models.heads import logits
from research.models.paths import flatten
from research.models.rules import HEADS, to_huggingface
from research.models.build import initial_parameters, parameter_shapes
from research.models.transformer import Transformer
from research.types import UserError
from tests.models.oracles import ARCHS, PAD, torch_model

IDS = {"pad": 1, "bos": 0, "eos": 2, "decoder_start": 2}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def tokens(seed=0):
    return np.random.default_rng(seed).integers(PAD + 1, 48, (2, 9))


def ours(arch):
    both = arch.structure == "encoder-decoder"
    return {"tokens": tokens(), "source": tokens(1)} if both else {"tokens": tokens()}


def theirs(model, arch):
    torch = pytest.importorskip("torch")
    names = {"tokens": "decoder_input_ids" if "source" in ours(arch) else "input_ids", "source": "input_ids"}
    with torch.no_grad():
        out = model(**{names[name]: torch.tensor(value) for name, value in ours(arch).items()})
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()


def write(folder, arch, tensors=None, **config):
    """Write a folder by hand, with random parameters unless there are `tensors`; return them."""
    folder.mkdir(exist_ok=True)
    if tensors is None:
        tensors = to_huggingface(arch, initial_parameters(arch, jax.random.key(0)))
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(to_config(arch, **IDS) | config))
    return tensors


@pytest.mark.parametrize("form", ["whole", "sharded", "bfloat16"])
@pytest.mark.parametrize("name", ARCHS)
def test_logits_equal_those_of_transformers(name, form, tmp_path):
    model = torch_model(name)
    if form == "bfloat16":
        model = model.bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="8KB" if form == "sharded" else "1GB")
    assert (tmp_path / "model.safetensors").exists() == (form != "sharded")
    found = research.load(tmp_path)
    assert found.tokenizer is None
    arch, rates = ARCHS[name], ("dropout", "attention_dropout", "activation_dropout")
    same = {field: getattr(found.arch, field) for field in (*rates, *(["max_length"] if "t5" in name else []))}
    assert found.arch == architecture(tmp_path) == replace(arch, **same)
    assert all(leaf.dtype == jnp.float32 and isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.params))
    expected = theirs(model.float(), arch)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits(found.model, found.params, **ours(arch)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARCHS)
def test_states_of_a_model_without_its_head_equal_those_of_transformers(name, tmp_path):
    import transformers

    whole = torch_model(name)
    model = transformers.AutoModel.from_config(whole.config, attn_implementation="eager").eval()  # BERT's has a pooler
    state = {key.removeprefix(f"{model.base_model_prefix}."): value for key, value in whole.state_dict().items()}
    model.load_state_dict(state, strict=False)
    model.save_pretrained(tmp_path)
    found = research.load(tmp_path)
    assert (found.arch.head_transform, found.arch.head_bias) == (False, False)
    assert found.arch.tied and found.arch.pooler == (name in ("bert", "roberta"))
    states = found.model.apply({"params": found.params}, method="states", **ours(found.arch))
    np.testing.assert_allclose(states, theirs(model, found.arch), rtol=0, atol=1e-5)
    if found.arch.pooler:
        torch = pytest.importorskip("torch")
        pooled = found.model.apply({"params": found.params}, states[:, 0], method="pool")
        there = model(torch.tensor(tokens())).pooler_output.detach().numpy()
        np.testing.assert_allclose(pooled, there, rtol=0, atol=1e-5)


def test_heads_that_the_file_lacks_are_left_to_the_caller(tmp_path):
    arch = ARCHS["bert"]
    write(tmp_path, base(arch))
    with pytest.raises(UserError, match=r"tensor cls\.predictions\.\S+ is missing"):
        parameters(tmp_path, arch)
    params, absent = parameters(tmp_path, arch, optional=HEADS)
    assert sorted(absent) == ["head/bias", "head/norm/bias", "head/norm/scale"] + [
        f"head/transform/{leaf}" for leaf in ("bias", "kernel")
    ]
    assert flatten(params).keys() | set(absent) == flatten(parameter_shapes(arch)).keys()
    write(tmp_path, arch)
    params, absent = parameters(tmp_path, replace(arch, head_transform=False, head_bias=False))
    assert not absent and "head" not in params


def test_a_tied_file_of_an_untied_family_is_tied_and_unscaled(tmp_path):
    arch = replace(ARCHS["t5-v1.1"], tied=True)
    write(tmp_path, arch)
    assert architecture(tmp_path) == replace(arch, max_length=512)
    params, absent = parameters(tmp_path, ARCHS["t5-v1.1"], optional=HEADS)
    assert absent == ["head/kernel"]


def test_parameters_outlive_their_file(tmp_path):
    write(tmp_path, ARCHS["gpt2"])
    params = research.load(tmp_path).params
    before = jax.tree.map(np.array, params)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.write(bytes(os.path.getsize(file.name)))
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_parameters_go_straight_onto_a_mesh(tmp_path):
    arch = ARCHS["gpt2"]
    write(tmp_path, arch)
    mesh = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))

    def where(path):
        split = "all" if path.endswith(("tokens/embedding", "up/bias")) else None
        return NamedSharding(mesh, PartitionSpec(split))

    single, placed = research.load(tmp_path).params, research.load(tmp_path, where).params
    assert placed["tokens"]["embedding"].sharding == where("tokens/embedding")
    assert placed["tokens"]["embedding"].addressable_shards[0].data.shape == (6, 24)
    jax.tree.map(np.testing.assert_array_equal, placed, single)
    tree = jax.tree.map(lambda leaf: leaf.sharding, placed)
    again = research.load(tmp_path, tree).params
    assert jax.tree.map(lambda leaf: leaf.sharding, again) == tree


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_what_does_not_fit_is_named(name, tmp_path):
    arch = ARCHS[name]
    tensors = write(tmp_path, arch)
    last = next(key for key in reversed(tensors) if key.endswith(".weight"))

    def refused(said, **config):
        start = time.perf_counter()
        with pytest.raises(UserError, match=said) as error:
            research.load(tmp_path)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
        assert time.perf_counter() - start < 2  # one second, but for tracing on a busy machine

    write(tmp_path, arch, {key: value for key, value in tensors.items() if key != last})
    refused(f"tensor {last} is missing")
    write(tmp_path, arch, tensors | {"adapter.weight": np.zeros(3, np.float32)})
    refused("tensor adapter.weight is unexpected")
    write(tmp_path, arch, tensors | {last: np.zeros((3, 4), np.float32)})
    refused(rf"tensor {last} has shape \(3, 4\), the architecture says \({tensors[last].shape[0]}")
    write(tmp_path, arch, tensors, vocab_size=2**31 - 1)
    refused(r"has shape \(48, 24\), the architecture says \(2147483647, 24\)")
    layers = {"num_layers": 10**6} if name == "t5" else {"encoder_layers": 10**6}
    write(tmp_path, arch, tensors, **layers)
    refused("tensors cannot hold the 1000001 blocks")
    write(tmp_path, arch, tensors, model_type="mamba")
    refused("mamba.*bert, roberta, gpt2, t5, bart")
    write(tmp_path, arch, tensors | {last: np.full_like(tensors[last], np.nan)})
    refused(f"tensor {last} holds NaN")


def test_no_two_tensors_are_the_same_parameter(tmp_path):
    tensors = write(tmp_path, ARCHS["gpt2"])
    write(tmp_path, ARCHS["gpt2"], tensors | {"wpe.weight": np.zeros((20, 24), np.float32)})
    with pytest.raises(UserError, match=r"tensors \S*wpe.weight and \S*wpe.weight are the same parameter"):
        research.load(tmp_path)


def words(folder, count):
    """Write a tokenizer of `count` words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"word{i}": i for i in range(count)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


def test_the_tokenizer_comes_along_if_it_fits(tmp_path):
    write(tmp_path, ARCHS["bert"])
    words(tmp_path, 40)
    assert research.load(tmp_path).tokenizer.convert_tokens_to_ids("word7") == 7
    words(tmp_path, 49)
    with pytest.raises(UserError, match="the tokenizer has 49 ids but the embedding only 48 rows"):
        research.load(tmp_path)


def test_code_in_the_folder_never_runs(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    auto = {"auto_map": {name: f"evil.{name}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}}
    write(tmp_path, ARCHS["bert"], **auto)
    words(tmp_path, 40)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Model", None]}}))
    research.load(tmp_path)
    assert not marker.exists()


def test_folders_that_are_not_there(tmp_path):
    for path in (tmp_path / "absent", "./absent", "a/b/c", ""):
        with pytest.raises(UserError, match="no folder"):
            locate(path)
    with pytest.raises(UserError, match="no folder 'runs/few/seed=0' yet: train that run first, or correct the path"):
        locate("runs/few/seed=0")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        architecture(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="is pickled"):
        research.load(tmp_path)


def test_hub_ids_come_from_the_cache_and_otherwise_say_what_to_do(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(interop.hub, "answers", lambda address: bool(asked.append(address)))
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    words(snapshot, 40)  # only the tokenizer has been fetched yet
    start = time.perf_counter()
    for name in ("someone/model", "someone/else"):
        with pytest.raises(UserError, match="the hub cannot be reached; give a run's folder, or a local folder") as error:
            research.load(name)
        assert "\n" not in str(error.value)
    assert time.perf_counter() - start < 5
    assert len(asked) == (0 if constants.HF_HUB_OFFLINE else 2)
    write(snapshot, ARCHS["gpt2"])
    asked.clear()
    assert locate("someone/model") == snapshot
    assert research.load("someone/model").arch == ARCHS["gpt2"]
    assert not asked


PEAK = """
import pathlib, re, sys
import jax, jax.numpy as jnp
from research.interop import folder

def status(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

arch = folder.architecture(sys.argv[1])
jnp.zeros(1).block_until_ready()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
before = status("VmRSS")
found = folder.load(sys.argv[1])
jax.block_until_ready(found.params)
print((status("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(found.params)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "t5-v1.1-small"])
def test_loading_takes_little_more_memory_than_the_parameters(name, dtype, tmp_path):
    """Some 10 seconds each: half a gigabyte is written and read, mapped pages counted."""
    arch = research.models.preset(name)
    zeros = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, dtype), parameter_shapes(arch))
    write(tmp_path, arch, to_huggingface(arch, zeros))
    run = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, stdout=subprocess.PIPE, check=True)
    print(name, dtype, done.stdout)
    assert 1.0 < float(done.stdout) < 1.2
