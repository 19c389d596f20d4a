"""The harness gets the same figures from a model here and from its own `hf` model of the same weights in torch."""

import json
import subprocess
import sys

import numpy as np
import pytest

REFERENCE = "the harness's own model is the reference: pip install 'lm_eval[hf]'"
for module in ("torch", "accelerate", "lm_eval"):
    pytest.importorskip(module, reason=REFERENCE)

import lm_eval
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from research.data.tokenizer import Tokenizer, save, train
from research.generate.lm_eval import Tercet, arrays, before, main, settings_of
from research.generate.settings import Decoding
from research.interop.folder import load
from research.types import UserError

WORDS = "one two three four five six seven eight nine ten and or not, yes. why? because".split()
POSITIONS = 16


def text(seed, length):
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


def write(folder, family, template="kind"):
    """Save a model of random weights, in torch, with a tokenizer of its own; return the model."""
    kind, size = ("unigram", 100) if family == "t5" else ("bpe", 300)
    settings = Tokenizer(kind=kind, size=size, sentinels=0, min_frequency=1, template=template)
    tokenizer = train(settings, [text(i, 50) for i in range(20)])
    common = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    common |= {"vocab_size": len(tokenizer)}
    if family == "gpt2":
        config = transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=POSITIONS, **common)
        model = transformers.GPT2LMHeadModel(config)
    else:
        sizes = {"d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3}
        config = transformers.T5Config(**sizes, decoder_start_token_id=tokenizer.pad_token_id, **common)
        model = transformers.T5ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0.0, 0.1, generator=generator)
    model.eval().save_pretrained(folder)
    save(tokenizer, folder)
    return model


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def both(request, tmp_path_factory):
    """Return (our model, theirs) with the same weights and tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write(folder, request.param)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=POSITIONS)
    return Tercet(str(folder), batch_size=8, max_length=POSITIONS), theirs


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Return the folder of a GPT-2 whose tokenizer ends every text in eos."""
    folder = tmp_path_factory.mktemp("decoder")
    write(folder, "gpt2", template="eos")
    return folder


def requests(kind, *arguments):
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def same(found, expected):
    np.testing.assert_allclose([logp for logp, _ in found], [logp for logp, _ in expected], atol=1e-3)
    assert [best for _, best in found] == [best for _, best in expected]


def test_log_likelihoods_are_those_of_the_harness(both):
    asked = [(text(i, 1 + i), " " + text(100 + i, 1 + i % 2)) for i in range(12)]
    asked += [("", text(1, 2)), ("", text(2, 1)), (text(3, 4) + " ", text(4, 2)), (text(5, 60), " " + text(6, 2))]
    asked += [("one two", choice) for choice in (" three", " four", " two")]
    same(*(lm.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True) for lm in both))


def test_greedy_is_what_the_harness_calls_so(both):
    ours, theirs = both
    context = ours.tok_encode("one two three")
    every = [(None, context, [i]) for i in range(len(ours.tokenizer))]
    found = ours._loglikelihood_tokens(every, disable_tqdm=True)
    same(found, theirs._loglikelihood_tokens(every, disable_tqdm=True))
    assert sum(best for _, best in found) == 1
    assert sum(np.exp(logp) for logp, _ in found) == pytest.approx(1, abs=1e-4)


def test_rolling_log_likelihoods_are_those_of_the_harness(both):
    some = requests("loglikelihood_rolling", *((text(i, n),) for i, n in enumerate((1, 5, 15, 40, 90))))
    found, expected = (lm.loglikelihood_rolling(some, disable_tqdm=True) for lm in both)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_texts_are_those_of_the_harness(both):
    ours, theirs = both
    settings = [{"until": [], "max_gen_toks": 6}, {"until": ["e", "on"], "max_gen_toks": 6, "temperature": 0.0}]
    asked = [(text(i, n), each) for each in settings for i, n in enumerate((1, 2, 5, 9, 60))]
    # The harness lets an encoder-decoder make as many tokens more as its context has, unless told the length in all.
    limit = {"max_length": 7} if theirs.backend == "seq2seq" else {}
    expected = theirs.generate_until(requests("generate_until", *((c, each | limit) for c, each in asked)), True)
    assert ours.generate_until(requests("generate_until", *asked), disable_tqdm=True) == expected
    assert len(set(expected)) > 1


TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 1,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{made}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder, documents, names):
    """Write tasks over a local file as the harness reads them, and return what finds them."""
    (folder / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    source = {"data_files": {"test": str(folder / "test.jsonl")}, "cache_dir": str(folder)}
    for name in names:
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"} | TASKS[name]
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # which is YAML too
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_local_tasks_give_the_figures_of_the_harness(both, tmp_path):
    ours, theirs = both
    documents = [
        {"question": text(i, 6), "choices": [f" {word}" for word in WORDS[i % 9 : i % 9 + 4]], "answer": i % 4}
        for i in range(12)
    ]
    names = list(TASKS) if ours.backend == "causal" else ["choices", "perplexity"]  # see above
    asked = [(each["question"], TASKS["answers"]["generation_kwargs"]) for each in documents]
    made = ours.generate_until(requests("generate_until", *asked)) if "answers" in names else [""] * len(documents)
    for i, (each, one) in enumerate(zip(documents, made, strict=True)):
        each["made"] = one if i % 2 else "no such text"
    manager = write_tasks(tmp_path, documents, names)
    found, expected = (
        lm_eval.simple_evaluate(model=lm, tasks=names, task_manager=manager, bootstrap_iters=0)["results"]
        for lm in both
    )
    for name in names:
        numbers = {key: value for key, value in expected[name].items() if isinstance(value, float)}
        assert len(numbers) >= len(TASKS[name]["metric_list"])
        assert {key: found[name][key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
    assert "answers" not in names or found["answers"]["exact_match,none"] == 0.5


@pytest.mark.slow  # the harness reads the names of all its thousands of tasks: 20 s
def test_the_command_line_is_that_of_the_harness(decoder, tmp_path, monkeypatch, capsys):
    write_tasks(tmp_path, [{"question": text(i, 6)} for i in range(3)], ["perplexity"])
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert main([str(decoder), "--tasks", "perplexity", "--include_path", str(tmp_path), "--batch_size", "4"]) == 0
    assert "word_perplexity" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), "--tasks", "perplexity", "--include_path", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no folder")
    assert main([]) == 2


def test_a_decoder_goes_on_from_a_context_without_its_end_token(decoder):
    lm = Tercet(str(decoder))
    assert lm.tokenizer.encode("one two")[-1] == lm.eot_token_id
    context, continuation = lm._encode_pair("one two", " three")
    assert [*context, *continuation] == lm.tokenizer.encode("one two three", add_special_tokens=False)
    assert lm.tok_encode(lm.tokenizer.bos_token + "one") == lm.tokenizer.encode("<s>one", add_special_tokens=False)


def test_the_same_question_asked_again_gets_another_sample(decoder):
    lm = Tercet(load(decoder), batch_size=3)
    settings = {"until": ["\n"], "do_sample": True, "temperature": 1.5, "max_gen_toks": 8}
    asked = requests("generate_until", *[("one two", settings)] * 4)
    drawn = lm.generate_until(asked)
    assert len(set(drawn)) == 4
    assert lm.generate_until(asked) == drawn


def test_tokens_that_hold_a_stop_string_end_a_text(both):
    lm, _ = both
    spelled = {i for token, i in lm.tokenizer.get_vocab().items() if "Ġt" in token or "▁t" in token}
    assert spelled and set(lm._stops([" t"])) == spelled  # though by itself, T5's ▁two reads "two"
    assert lm._stops([]) == ()
    assert before("one, two. three", ["three", ", t", "four"]) == "one"
    assert before("one", []) == "one"


def test_batches_have_few_shapes(decoder):
    lm = Tercet(str(decoder), batch_size=8)
    shapes = set()
    for length in range(2, 40):
        rows = [lm._row([3] * length, [4] * (1 + length % 7)) for _ in range(1 + length % 8)]
        inputs, targets, real = arrays(rows, 8, lm.max_length)
        assert real.shape == targets.shape == inputs["select"].shape
        shapes.add((*inputs["tokens"].shape[1:], *targets.shape))
    assert {length for length, *_ in shapes} == {8, 12, 16}
    assert {rows for _, rows, _ in shapes} == {1, 2, 4, 8}


def test_settings_of_a_task():
    until, decoding = settings_of({"until": "\n", "temperature": 0.0, "max_new_tokens": 3, "num_beams": 1})
    assert (until, decoding) == (["\n"], Decoding(max_new_tokens=3, beams=1))
    until, decoding = settings_of({"do_sample": True, "top_p": 0.9})
    assert (until, decoding) == ([], Decoding(method="sample", max_new_tokens=256, top_p=0.9))
    assert settings_of({"do_sample": False, "temperature": 0.7, "num_beams": 2})[1].method == "beam"
    with pytest.raises(UserError, match="tok_k is not supported: did you mean top_k"):
        settings_of({"tok_k": 3})


def test_what_cannot_work_is_refused(decoder):
    lm = Tercet(str(decoder))
    with pytest.raises(UserError, match="makes 256 tokens, but the model reads 16"):
        lm.generate_until(requests("generate_until", ("one", {})))
    with pytest.raises(UserError, match="a continuation has .* tokens, but the model reads 16"):
        lm.loglikelihood(requests("loglikelihood", ("one", " " + text(0, 50))))
    for fields, message in [
        ({"max_length": 17}, "max_length is 17, but the model has 16 positions"),
        ({"batch_size": "auto"}, "batch_size is auto: it must be a whole number"),
    ]:
        with pytest.raises(UserError, match=message):
            Tercet(str(decoder), **fields)
    with pytest.raises(UserError, match="the model has no tokenizer"):
        Tercet(load(decoder)._replace(tokenizer=None))


def test_without_the_harness_one_line_says_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = None; import runpy; runpy.run_module({!r}, run_name='__main__')"
    command = [sys.executable, "-c", code.format("research.generate.lm_eval")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: lm-evaluation-harness cannot be imported")
    assert line.endswith("pip install lm_eval")
