"""Models with heads for labels are the same here and in `transformers`, alone and packed; heads come and go as they should."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import research
from research.data.tokenizer import Tokenizer, load, train, vocabulary
from research.interop import card, config_json, export
from research.interop.folder import architecture, parameters
from research.models import preset
from research.models.arch import base, with_head
from research.models.heads import logits
from research.models.paths import flatten
from research.models.rules import HEADS, from_huggingface, match, to_huggingface
from research.models.build import parameter_shapes
from research.models.transformer import Transformer
from research.types import UserError
from tests.interop.test_export import TEXT, Readme
from tests.models.oracles import ARCHS, PAD, same, torch_model, trainable
from tests.models.oracles import parameters as drawn

LABELS = 3
NAMES = ("good", "bad", "neither of them")
FAMILIES = ("bert", "roberta", "gpt2")
HEADED = [(name, head) for name in FAMILIES for head in ("sequence", "tokens")]
IDS = {"pad": 1, "bos": 0, "eos": 2}
LENGTHS = (5, 9, 3, 8)
SIZE = 18
APART, PACKED = [[0], [1], [2], [3]], [[0, 1], [2, 3], [], []]
CLASSIFIER = {"classifier/kernel", "classifier/bias"}
POOLER = {"pooler/kernel", "pooler/bias"}


def texts():
    draw = np.random.default_rng(0)
    return [(draw.integers(2, 48, length), np.sort(draw.integers(0, 2, length))) for length in LENGTHS]


def batch(rows, arch):
    """Return texts laid out in rows as a task's objective gives them to the model, [4, SIZE] and select [4, 4]."""
    tokens = np.full((4, SIZE), PAD, np.int32)
    segments, types, select = np.zeros_like(tokens), np.zeros_like(tokens), np.zeros((4, 4), np.int32)
    for r, row in enumerate(rows):
        start = 0
        for number, d in enumerate(row):
            ids, kinds = texts()[d]
            end = start + len(ids)
            tokens[r, start:end], segments[r, start:end], types[r, start:end] = ids, number + 1, kinds
            select[r, number] = start if arch.structure == "encoder" else end - 1
            start = end
    out = {"tokens": tokens, "segments": segments}
    out |= {"types": types} if arch.types == 2 else {}
    return out | ({"select": select} if arch.head == "sequence" else {})


@functools.cache
def forward(arch):
    return jax.jit(lambda params, inputs: logits(Transformer(arch), params, **inputs))


def ours(arch, params, rows):
    """Return our logits of each text: float32[labels] of a sequence, float32[length, labels] of its tokens."""
    out, found = np.asarray(forward(arch)(params, batch(rows, arch))), {}
    for r, row in enumerate(rows):
        ends = np.cumsum([0, *(LENGTHS[d] for d in row)])
        for number, d in enumerate(row):
            found[d] = out[r, number] if arch.head == "sequence" else out[r, ends[number] : ends[number + 1]]
    return [found[d] for d in range(len(LENGTHS))]


def theirs(model, arch):
    """Return the logits of `transformers` of each text, all in one padded batch."""
    torch = pytest.importorskip("torch")
    given = batch(APART, arch)
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    with torch.no_grad():
        out = model(**{names[key]: torch.tensor(given[key]).long() for key in names if key in given}).logits.numpy()
    return [one if arch.head == "sequence" else one[:length] for one, length in zip(out, LENGTHS, strict=True)]


def assert_close(here, there):
    assert max(np.abs(one).max() for one in there) > 0.05
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def torch_classifier(name, head, **config):
    """Return the classifier of `transformers` of ARCHS[name] in eval mode, every tensor redrawn."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made = torch_model(name).config
    for key, value in ({"num_labels": LABELS} | config).items():
        setattr(made, key, value)
    auto = getattr(transformers, card.TASKS[head].auto)
    model = auto.from_config(made, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in trainable(model).items():
            scale = ("norm" in key.lower() or "ln_" in key) and key.endswith("weight")
            tensor.normal_(1.0 if scale else 0.0, 0.2, generator=generator)
    return model


def write(folder, arch, params, tokenizer=None, **options):
    tokenizer = tokenizer or small()
    export.write(folder, arch, params, tokenizer, vocabulary(tokenizer), Readme(), **options)
    return folder


@functools.cache
def small(kind="bpe", template="none"):
    return train(Tokenizer(kind=kind, template=template, size=300, sentinels=0), TEXT)


def sized(name, head, labels=LABELS, **fields):
    """Return a small architecture for the tokenizers trained here, whose padding id is 0, and random parameters."""
    arch = dataclasses.replace(preset(f"{name}-nano"), vocab_size=300, width=32, mlp_width=48, **fields)
    arch = with_head(arch, head, labels)
    return arch, jax.tree.map(lambda leaf: 0.2 * leaf, drawn(arch))


def loaded(folder, auto):
    """Return the model that `transformers` makes of a folder, which nothing must be missing from or left over in."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    model, found = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@pytest.mark.parametrize(("name", "head"), HEADED)
def test_logits_equal_those_of_transformers_apart_and_packed(name, head, tmp_path):
    model = torch_classifier(name, head)
    model.save_pretrained(tmp_path)
    found = research.load(tmp_path)
    assert found.arch == architecture(tmp_path)
    same_rates = {rate: getattr(found.arch, rate) for rate in config_json.RATES}
    assert found.arch == dataclasses.replace(with_head(ARCHS[name], head, LABELS), **same_rates)
    expected = theirs(model, found.arch)
    for rows in (APART, PACKED):
        assert_close(ours(found.arch, found.params, rows), expected)
    if name == "bert":
        params = dict(found.params, encoder=dict(found.params["encoder"]))
        params["encoder"]["types"] = {"embedding": found.params["encoder"]["types"]["embedding"][::-1]}
        assert np.abs(ours(found.arch, params, APART)[1] - expected[1]).max() > 1e-3  # types reach the model


@pytest.mark.parametrize(("name", "head"), HEADED)
def test_transformers_builds_the_same_model(name, head, tmp_path):
    arch = dataclasses.replace(with_head(ARCHS[name], head, LABELS), dropout=0.25)
    params = jax.tree.map(lambda leaf: 0.2 * leaf, drawn(arch))
    config = config_json.to_config(arch, **IDS, labels=NAMES, problem="single_label" if head == "sequence" else "")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {key: np.ascontiguousarray(value) for key, value in to_huggingface(arch, params).items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = loaded(tmp_path, card.task(arch).auto)
    assert type(model).__name__ == config["architectures"][0]
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id["bad"] == 1
    rates = {key: part.p for key, part in model.named_modules() if type(part).__name__ == "Dropout" and "attn" not in key}
    assert {rate for key, rate in rates.items() if "attention.self" not in key} == {0.25}
    assert_close(ours(arch, params, APART), theirs(model, arch))
    assert config_json.labels(tmp_path) == (NAMES, "single_label")
    found = research.load(tmp_path)
    assert found.arch == arch
    same(found.params, jax.tree.map(jax.numpy.asarray, params))


@pytest.mark.parametrize(("name", "gives_types"), [("bert", True), ("bert", False), ("roberta", True), ("gpt2", True)])
def test_the_exported_folder_answers_in_a_pipeline(name, gives_types, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = small("wordpiece", "cls")
    assert "token_type_ids" not in tokenizer.model_input_names
    if gives_types:
        tokenizer = load(str(saved(tokenizer, tmp_path / "tokenizer")))
    arch, params = sized(name, "sequence")
    labels = {"labels": NAMES, "problem": "single_label"}
    folder = write(tmp_path / "model", arch, params, tokenizer, **labels)
    pipe = transformers.pipeline("text-classification", str(folder), device=torch.device("cpu"))
    text, pair = TEXT[3], TEXT[8]
    for given, asked in (((text,), text), ((text, pair), {"text": text, "text_pair": pair})):
        encoded = tokenizer(*given, padding="max_length", max_length=80, return_tensors="np", return_token_type_ids=True)
        inputs = {"tokens": encoded["input_ids"], "segments": encoded["attention_mask"]}
        if arch.types == 2:
            inputs["types"] = encoded["token_type_ids"]
        last = inputs["segments"].sum() - 1
        inputs["select"] = np.array([[0 if arch.structure == "encoder" else last]])
        probabilities = np.asarray(jax.nn.softmax(forward(arch)(params, inputs)[0, 0]))
        answer = pipe(asked)
        answer = answer[0] if isinstance(answer, list) else answer
        assert answer["label"] == NAMES[probabilities.argmax()]
        np.testing.assert_allclose(answer["score"], probabilities.max(), rtol=0, atol=1e-5)


def saved(tokenizer, folder):
    """Write `tokenizer` as one that gives token types, as BERT's published ones do."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": inputs}))
    return folder


def test_problems_are_those_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[5, 6, 7]])
    for problem, labels, names in (("multi_label", LABELS, NAMES), ("regression", 1, ()), ("single_label", LABELS, ())):
        arch, params = sized("bert", "sequence", labels)
        folder = write(tmp_path / f"{problem}", arch, params, labels=names, problem=problem)
        model = loaded(folder, "AutoModelForSequenceClassification")
        given = torch.tensor([[1.0] * labels]) if problem != "single_label" else torch.tensor([2])
        out = model(ids, labels=given)
        loss = {
            "multi_label": lambda x: torch.nn.functional.binary_cross_entropy_with_logits(x, given),
            "regression": lambda x: torch.mean((x - given) ** 2),
            "single_label": lambda x: torch.nn.functional.cross_entropy(x, given),
        }[problem](out.logits)
        torch.testing.assert_close(out.loss, loss)
        expected = NAMES if names else ("LABEL_0", "LABEL_1", "LABEL_2") if problem == "single_label" else ()
        assert config_json.labels(folder) == (expected, problem)


def test_the_end_token_of_a_decoder_is_no_padding(tmp_path):
    torch = pytest.importorskip("torch")
    arch, params = sized("gpt2", "sequence")
    tokenizer = small()
    words = vocabulary(tokenizer)._replace(pad=vocabulary(tokenizer).eos)
    export.write(tmp_path / "model", arch, params, tokenizer, words, Readme())
    assert not (tmp_path / "model" / "generation_config.json").exists()
    model = loaded(tmp_path / "model", "AutoModelForSequenceClassification")
    ids = np.array([[9, 8, 7, words.eos]])
    with torch.no_grad():
        there = model(torch.tensor(ids)).logits.numpy()
    here = forward(arch)(params, {"tokens": ids, "select": np.array([[3]])})[0]
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-5)


# --- heads that come and go -------------------------------------------------------------------------------------------


def shapes(tensors):
    return {name: value.shape for name, value in tensors.items()}


@pytest.mark.parametrize(("name", "head"), HEADED)
def test_out_and_in_again_is_bitwise(name, head):
    arch = with_head(ARCHS[name], head, LABELS)
    params = drawn(arch)
    same(from_huggingface(arch, to_huggingface(arch, params)), params)


@pytest.mark.parametrize(("name", "head"), HEADED)
def test_heads_that_the_file_has_and_the_model_has_not_are_left_out(name, head):
    pretrained, arch = ARCHS[name], with_head(ARCHS[name], head, LABELS)
    own = {path for path in flatten(parameter_shapes(arch)) if path.startswith(HEADS)}
    tensors = to_huggingface(pretrained, drawn(pretrained))
    matches, absent = match(arch, shapes(tensors), HEADS)
    assert set(absent) == own and len(matches) == len(to_huggingface(arch, drawn(arch))) - len(own)
    if name != "gpt2":  # the base model's pooler: BERT's was trained, RoBERTa's classifier has another
        tensors |= to_huggingface(base(pretrained), drawn(base(pretrained)))
        assert set(match(arch, shapes(tensors), HEADS)[1]) == (own - POOLER if name == "bert" else own)
    vocabulary_head = {path for path in flatten(parameter_shapes(pretrained)) if path.startswith(HEADS)}
    classifier = to_huggingface(arch, drawn(arch))
    assert set(match(pretrained, shapes(classifier), HEADS)[1]) == vocabulary_head


def test_projections_onto_the_vocabulary_may_be_untied_and_written_twice():
    arch = with_head(ARCHS["bert"], "sequence", LABELS)
    params = drawn(arch)
    tensors = to_huggingface(arch, params)
    tensors |= {
        "cls.predictions.decoder.weight": np.zeros((48, 24), np.float32),
        "cls.predictions.decoder.bias": np.zeros(48, np.float32),
        "cls.predictions.bias": np.zeros(48, np.float32),
    }
    same(from_huggingface(arch, tensors), params)
    arch = with_head(ARCHS["gpt2"], "tokens", LABELS)
    params = drawn(arch)
    same(from_huggingface(arch, to_huggingface(arch, params) | {"lm_head.weight": np.zeros((48, 24), np.float32)}), params)


def test_a_classifier_of_other_labels_is_made_anew(tmp_path):
    arch, params = sized("bert", "sequence")
    write(tmp_path / "model", arch, params, labels=NAMES)
    found, absent = parameters(tmp_path / "model", arch, None, HEADS)
    assert not absent
    found, absent = parameters(tmp_path / "model", with_head(arch, "sequence", 5), None, HEADS)
    assert set(absent) == CLASSIFIER and "pooler" in found and "classifier" not in found
    found, absent = parameters(tmp_path / "model", arch, None, HEADS, fresh=("classifier/",))
    assert set(absent) == CLASSIFIER and "pooler" in found and "classifier" not in found
    with pytest.raises(UserError, match=r"tensor classifier.weight has shape \(3, 32\), the architecture says \(5, 32\)"):
        parameters(tmp_path / "model", with_head(arch, "sequence", 5))


def test_what_is_wrong_with_labels_is_said_in_one_line(tmp_path):
    arch, params = sized("bert", "sequence")
    folder = write(tmp_path / "model", arch, params, labels=NAMES)
    written = json.loads((folder / "config.json").read_text())

    def refused(said, read, **config):
        (folder / "config.json").write_text(json.dumps(written | config))
        with pytest.raises(UserError, match=said) as error:
            read(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)

    for labels in ({}, [], {"0": "a", "2": "b"}, {"0": "a", "1": None}, {"x": "a"}, "good"):
        refused(r"id2label is .*it must name the labels 0, 1, 2", architecture, id2label=labels)
    for count in (0, -1, 10**9, "3", True):
        refused(r"num_labels is .*must be a whole number", architecture, id2label=None, num_labels=count)
    refused("problem_type is \"ranking\", but only", config_json.labels, problem_type="ranking")
    refused(r"tensor classifier.weight has shape \(3, 32\), the architecture says \(2, 32\)", research.load, id2label=None)
    (folder / "config.json").write_text(json.dumps(written | {"architectures": ["BertForMaskedLM"]}))
    assert architecture(folder).head == "vocabulary" and config_json.labels(folder) == ((), "")
    bare = base(dataclasses.replace(arch, head="vocabulary", labels=0))
    tensors = to_huggingface(bare, drawn(bare))
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "model.safetensors")
    refused("names a head for labels, but no tensor is one", architecture)
    for labels in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(UserError, match="2 different label names, but arch.labels is 3"):
            config_json.to_config(arch, **IDS, labels=labels)


def test_labels_that_old_files_leave_out():
    config = config_json.to_config(with_head(ARCHS["bert"], "sequence", 2), **IDS)
    for key in ("id2label", "label2id", "problem_type", "classifier_dropout"):
        del config[key]
    assert config_json.as_named(config).labels == 2
    assert config_json.as_named(config | {"num_labels": 7}).labels == 7
    assert config_json.as_named(config | {"classifier_dropout": 0.3}).dropout == 0.1
    assert config_json.as_named(config | {"architectures": None}) == ARCHS["bert"]
    assert config_json.to_arch(config) == ARCHS["bert"]
