"""The exported folder is the same model in `transformers`: same logits, same names, same start of a decoder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from research.data.tokenizer import Tokenizer, train, vocabulary
from research.interop import card, config_json, export
from research.models import preset
from research.models.heads import logits
from research.models.paths import flatten, unflatten
from research.models.build import parameter_shapes
from research.models.transformer import Transformer
from research.objectives import OBJECTIVES
from research.objectives.spans import shift_right
from research.types import UserError

TEXT = [f"Sentence {n} of these speaks of {n * 7 % 60} apples and of {n * n % 50} blue pears." for n in range(200)]
OBJECTIVE = {"bert": "masked", "roberta": "masked", "gpt2": "causal", "bart": "denoising"}
FAMILIES = ("bert", "roberta", "gpt2", "t5", "t5-v1.1", "bart")


class Readme:
    """In place of a model card."""

    def save(self, path):
        path.write_text("# model\n")


@pytest.fixture(scope="module")
def tokenizer():
    return train(Tokenizer(kind="bpe", size=320, sentinels=10), TEXT)


@pytest.fixture(scope="module")
def words(tokenizer):
    return vocabulary(tokenizer)


def drawn(family, words, **fields):
    """Return an architecture with its padding id elsewhere than its family's published one, and random parameters."""
    small = {"vocab_size": words.size + 3, "width": 32, "mlp_width": 48, "layers": 2, "max_length": 24}
    arch = dataclasses.replace(preset(f"{family}-nano"), **small | fields)
    rng = np.random.default_rng(0)
    shapes = flatten(parameter_shapes(arch)).items()
    return arch, unflatten({p: rng.normal(p.endswith("scale"), 0.2, x.shape).astype(x.dtype) for p, x in shapes})


def start(family, words):
    return getattr(words, OBJECTIVES[OBJECTIVE.get(family, "span_corruption")].start)


def write(folder, arch, params, tokenizer, words, **options):
    if arch.structure == "encoder-decoder":
        options.setdefault("decoder_start", words.pad)
    export.write(folder, arch, params, tokenizer, words, Readme(), **options)
    return folder


def load(folder, arch):
    """Return the model that `transformers` makes of a folder, which nothing must be missing from or left over in."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    auto = getattr(transformers, card.TASKS[arch.structure].auto)
    model, found = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def both(model, arch, params, words, prompts):
    """Return the logits of ours and theirs, float32[N, V], at every token of `prompts` that is no padding."""
    torch = pytest.importorskip("torch")
    length = max(map(len, prompts))
    tokens = np.array([prompt + [words.pad] * (length - len(prompt)) for prompt in prompts], np.int32)
    segments = np.array([[1] * len(prompt) + [0] * (length - len(prompt)) for prompt in prompts], np.int32)
    ours = {"tokens": tokens, "segments": segments}
    theirs = {"input_ids": tokens, "attention_mask": segments}
    if arch.structure == "encoder-decoder":
        ours = {"source": tokens, "source_segments": segments, "tokens": tokens[:, 4::-1], "segments": np.ones((3, 5), int)}
        theirs["decoder_input_ids"] = ours["tokens"].copy()
    real = ours["segments"] > 0
    with torch.no_grad():
        there = model(**{key: torch.tensor(value).long() for key, value in theirs.items()}).logits.numpy()
    here = jax.jit(lambda params, ours: logits(Transformer(arch), params, **ours))(params, ours)
    return np.asarray(here)[real], there[real]


PROMPTS = [[7, 8, 9, 10, 200, 11, 12, 3, 4, 150], [20, 21, 22, 23], [30, 1, 32, 33, 34, 35, 36]]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_builds_the_same_model(family, tokenizer, words, tmp_path):
    arch, params = drawn(family, words)
    model = load(write(tmp_path / "model", arch, params, tokenizer, words), arch)
    here, there = both(model, arch, params, words, PROMPTS)
    assert np.abs(there).max() > 0.5
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-5 * np.abs(there).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_have_the_names_under_which_transformers_writes_them(family, tokenizer, words, tmp_path):
    from safetensors import safe_open

    arch, params = drawn(family, words)
    load(write(tmp_path / "ours", arch, params, tokenizer, words), arch).save_pretrained(tmp_path / "theirs")
    names = []
    for folder in ("ours", "theirs"):
        with safe_open(tmp_path / folder / "model.safetensors", "numpy") as file:
            names.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            assert file.metadata()["format"] == "pt"
    assert names[0].keys() == names[1].keys()
    for name, tensor in names[0].items():
        np.testing.assert_array_equal(tensor, names[1][name], err_msg=name)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_begins_as_it_was_trained_to(family, tokenizer, words, tmp_path):
    torch = pytest.importorskip("torch")
    arch, params = drawn(family, words)
    begin = start(family, words)
    model = load(write(tmp_path / "model", arch, params, tokenizer, words, decoder_start=begin), arch)
    targets = np.array([40, 41, 42, 43, words.eos], np.int32)
    theirs = model.prepare_decoder_input_ids_from_labels(torch.tensor(targets[None]).long())[0]
    assert theirs.tolist() == shift_right(targets, np.ones(5, np.int32), begin).tolist() == [begin, 40, 41, 42, 43]
    assert model.generation_config.decoder_start_token_id == begin
    made = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=2)
    assert made[0, 0] == begin


def test_the_tokenizer_and_its_ids_come_along(tokenizer, words, tmp_path):
    transformers = pytest.importorskip("transformers")
    arch, params = drawn("gpt2", words)
    folder = write(tmp_path / "a" / "model", arch, params, tokenizer, words)
    found = transformers.AutoTokenizer.from_pretrained(folder)
    assert found(TEXT[0])["input_ids"] == tokenizer(TEXT[0])["input_ids"]
    config = json.loads((folder / "config.json").read_text())
    ids = {"pad": words.pad, "bos": tokenizer.bos_token_id, "eos": words.eos}
    assert {name: config[f"{name}_token_id"] for name in ids} == ids
    assert json.loads((folder / "generation_config.json").read_text()) == {f"{name}_token_id": ids[name] for name in ids}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model"]
    assert (folder / "README.md").read_text() == "# model\n"
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read all
    arch, params = drawn("bert", words)
    assert not (write(tmp_path / "bert", arch, params, tokenizer, words) / "generation_config.json").exists()


def test_sharded_parameters_are_gathered(tokenizer, words, tmp_path):
    arch, params = drawn("gpt2", words)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("fsdp",))
    placed = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "fsdp"))), params)
    assert len(placed["tokens"]["embedding"].sharding.device_set) == 8
    files = [write(tmp_path / name, arch, tree, tokenizer, words) for name, tree in (("a", params), ("b", placed))]
    assert len({(folder / "model.safetensors").read_bytes() for folder in files}) == 1


def test_large_models_are_spread_over_files(tokenizer, words, tmp_path):
    arch, params = drawn("gpt2", words)
    folder = write(tmp_path / "model", arch, params, tokenizer, words, shard=30_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    size = sum(leaf.nbytes for leaf in flatten(params).values())
    assert index["metadata"]["total_size"] == size and len(set(index["weight_map"].values())) > 2
    assert not (folder / "model.safetensors").exists()
    here, there = both(load(folder, arch), arch, params, words, PROMPTS)
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-5 * np.abs(there).max())


def test_positions_of_roberta_are_numbered_from_its_padding_id(tokenizer, words, tmp_path):
    arch, params = drawn("roberta", words)
    assert words.pad != arch.position_offset - 1
    same, leaves = export.as_published(arch, params, words.pad)
    assert same.position_offset == words.pad + 1
    np.testing.assert_array_equal(
        leaves["encoder"]["positions"]["embedding"][words.pad + 1 :],
        params["encoder"]["positions"]["embedding"][arch.position_offset :],
    )
    assert export.as_published(arch, params, arch.position_offset - 1) == (arch, params)
    with pytest.raises(UserError, match="has none: add a padding token"):
        export.as_published(arch, params, None)


def test_dropout_rates_that_a_family_has_no_word_for_do_not_matter(tokenizer, words, tmp_path):
    for family in ("bert", "t5"):
        arch, params = drawn(family, words, dropout=0.2, attention_dropout=0.3, activation_dropout=0.4, final_dropout=True)
        back = config_json.to_arch(config_json.read(write(tmp_path / family, arch, params, tokenizer, words)))
        rates = (back.dropout, back.attention_dropout, back.activation_dropout)
        assert rates == ((0.2, 0.3, 0.0) if family == "bert" else (0.2, 0.2, 0.2))


def test_what_is_there_is_left_alone(tokenizer, words, tmp_path):
    arch, params = drawn("bert", words)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name, message in (("full", "is not empty"), ("file", "is not a folder"), ("link", "is not a folder")):
        with pytest.raises(UserError, match=message):
            write(tmp_path / name, arch, params, tokenizer, words)
    assert (tmp_path / "full" / "a").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert (write(tmp_path / "empty", arch, params, tokenizer, words) / "config.json").exists()


def test_nothing_half_written_is_left(tokenizer, words, tmp_path, monkeypatch):
    arch, params = drawn("bert", words)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Readme, "save", full)
    with pytest.raises(UserError, match=r"^cannot write .*model: No space left on device; choose another folder$"):
        write(tmp_path / "model", arch, params, tokenizer, words)
    with pytest.raises(UserError, match="norm_first"):
        write(tmp_path / "model", dataclasses.replace(arch, norm_first=True), params, tokenizer, words)
    assert list(tmp_path.iterdir()) == []
