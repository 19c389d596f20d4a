"""The model card says what run.json and metrics.jsonl say, and the hub's library reads it back."""

import dataclasses
import json
import types

import numpy as np
import pytest
from huggingface_hub import ModelCard

from research.config import Init, Run, to_json
from research.data.corpus import Data
from research.data.sources import Source
from research.interop import card
from research.models import preset
from research.models.arch import with_head
from research.objectives import PRETRAINING, TASKS

ARCHS = {"masked": "bert-nano", "causal": "gpt2-nano", "prefix": "gpt2-nano", "denoising": "bart-nano"}
TOKENIZER = types.SimpleNamespace(eos_token="</s>", convert_ids_to_tokens=lambda ids: [f"<{i}>" for i in ids])
WORDS = types.SimpleNamespace(modes=np.array([7, 8, 9]))
WIKITEXT = Source("Salesforce/wikitext", name="wikitext-2-raw-v1")
LAST = {"loss": 2.5, "perplexity": 12.18, "accuracy": 0.5, "scored": 1200, "unigram_loss": 6.0}


def run(objective="causal", **fields):
    arch = dataclasses.replace(preset(ARCHS.get(objective, "t5-nano")), vocab_size=99)
    values = {"data": Data(sources=(WIKITEXT,)), "steps": 20, "batch_size": 4} | fields
    return Run("my run", arch, PRETRAINING[objective](), **values)


def write(folder, run, last=LAST, **record):
    """Write what a run of 20 steps leaves, evaluated before its first and after its last, and return its folder."""
    values = to_json(run)
    record = {
        "configuration": values,
        "resolved": values,
        "parameters": 1234567,
        "command": "python -m research train 'a b.py' --steps 20",
        "git": {"commit": "c0ffee", "dirty": False},
        "versions": {"jax": "0.10.2", "torch": None},
        "fingerprints": {"data": "d1", "tokenizer": "t1"},
    } | record
    base = {"kind": "evaluation", "split": "validation"}
    first = {**LAST, "loss": 7.0, "perplexity": 1096.6}
    rows = [{**base, "step": 0, **first}, {"kind": "train", "step": 20, "loss": 2.4}, {**base, "step": 20, **last}]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder, made):
    """Return the card as the hub's library reads its file."""
    made.save(folder / "README.md")
    found = ModelCard.load(folder / "README.md")
    assert found.data.to_dict() == made.data.to_dict()
    return found


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    folder = write(tmp_path, run(), last=LAST | {"bits_per_byte": 1.5})
    found = read(tmp_path, card.create(folder, 20, TOKENIZER, WORDS)).data
    assert (found.library_name, found.pipeline_tag, found.model_name) == ("transformers", "text-generation", "my run")
    assert found.tags == ["tercet", "gpt2", "causal"] and found.datasets == ["Salesforce/wikitext"]
    assert found.license is None  # nobody has given one
    figures = {result.metric_type: result.metric_value for result in found.eval_results}
    assert figures == {"loss": 2.5, "perplexity": 12.18, "accuracy": 0.5, "bits_per_byte": 1.5}
    about = {(r.dataset_type, r.dataset_config, r.dataset_split, r.task_type) for r in found.eval_results}
    assert about == {("Salesforce/wikitext", "wikitext-2-raw-v1", "validation", "text-generation")}


def test_the_body_tells_all_that_was_recorded(tmp_path):
    text = read(tmp_path, card.create(write(tmp_path, run()), 20, TOKENIZER, WORDS)).text
    for said in (
        "# my run",
        "GPT2 decoder of depth 2 and width 64, 1,234,567 parameters",
        "for 20 of 20 steps (10,240 tokens)",
        "AutoModelForCausalLM.from_pretrained",
        "`causal`, which has no fields.",
        "| `Salesforce/wikitext/wikitext-2-raw-v1` | 1 | CC BY-SA 3.0 and GFDL (Wikipedia text) |",
        "data `d1`, tokenizer `t1`",
        "| loss, nats a scored token | 7.0000 | 2.5000 | 6.0000 |",
        "| perplexity | 1,096.6000 | 12.1800 | 403.4288 |",
        "| accuracy on scored tokens | 0.5000 | 0.5000 | - |",
        "the whole validation split, 1,200 scored tokens",
        "python -m research train 'a b.py' --steps 20",
        "`c0ffee` |",
        "| versions | jax 0.10.2 |",
    ):
        assert said in text, said
    assert "bits per byte" not in text
    block = text.split("```json\n")[1].split("\n```")[0]
    assert json.loads(block) == to_json(run())


@pytest.mark.parametrize("objective", PRETRAINING)
def test_what_transformers_has_no_word_for_is_said(objective, tmp_path):
    made = run(objective)
    text = read(tmp_path, card.create(write(tmp_path, made), 20, TOKENIZER, WORDS)).text
    assert f"`{objective}`" in text and all(f"`{field}`" in text for field in vars(made.objective))
    assert ("causal attention throughout" in text) == (objective == "prefix")
    assert ("`<extra_id_0>`" in text) == (objective in ("span_corruption", "mixture"))
    assert ("`<7>` (R), `<8>` (S), `<9>` (X)" in text) == (objective == "mixture")
    assert "one document a row" not in text
    apart = dataclasses.replace(made, data=Data(cross_documents=False))
    assert any("one document a row" in remark for remark in card.remarks(apart, TOKENIZER, WORDS))


def test_only_figures_of_these_very_parameters_are_given(tmp_path):
    folder = write(tmp_path, run(ema=0.9))
    averaged, raw, earlier = (
        read(tmp_path, card.create(folder, step, TOKENIZER, WORDS, raw=raw)) for step, raw in ((20, False), (20, True), (7, False))
    )
    assert len(averaged.data.eval_results) == 3 and "the moving average of its parameters (decay 0.9)" in averaged.text
    assert raw.data.eval_results is None and "raw parameters, not their average" in raw.text
    assert "evaluations are of the moving average, not of these" in raw.text
    assert earlier.data.eval_results is None and "evaluations are not made at this step" in earlier.text


def test_runs_that_recorded_less_have_a_card_too(tmp_path):
    folder = write(tmp_path, run(), last=LAST | {"perplexity": None}, command=None, git=None, versions=None, fingerprints=None)
    found = read(tmp_path, card.create(folder, 20, TOKENIZER, WORDS))
    assert {result.metric_type for result in found.data.eval_results} == {"loss", "accuracy"}
    assert "The command is not recorded" in found.text and "| git commit | not recorded |" in found.text


def test_licences_are_those_of_the_records(tmp_path):
    record = 'kind = "dataset"\nlicence = "CC0"\nsource = "https://x.org/y"\n[sha256]\n"all.txt" = "{}"\n'
    (tmp_path / "records" / "x").mkdir(parents=True)
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc" (FIPS 180-2)
    (tmp_path / "records" / "x" / "METADATA.toml").write_text(record.format(known))
    for content, found in (("abc", ("CC0", "https://x.org/y")), ("abd", ("not recorded", ""))):
        (tmp_path / "all.txt").write_text(content)
        for path in (tmp_path / "all.txt", tmp_path):
            assert card.licence(Source(str(path)), tmp_path / "records") == found
    assert card.licence(WIKITEXT)[0].startswith("CC BY-SA 3.0")
    assert card.licence(Source("pydocs")) == card.licence(Source("someone/wikitext")) == ("not recorded", "")


def test_only_data_sets_of_the_hub_are_listed_as_such(tmp_path):
    (tmp_path / "text.txt").write_text("a")
    local = (Source(str(tmp_path / "text.txt")), Source(str(tmp_path / "gone.txt")), Source("pydocs"))
    assert [card.is_hub_id(source) for source in (WIKITEXT, *local)] == [True, False, False, False]
    mixed = run(data=Data(sources=(WIKITEXT, *local)))
    found = read(tmp_path, card.create(write(tmp_path, mixed), 20, TOKENIZER, WORDS)).data
    assert found.datasets == ["Salesforce/wikitext"]
    assert {result.dataset_type for result in found.eval_results} == {"text"}


def task_run(objective, structure, **fields):
    arch = dataclasses.replace(preset({"encoder": "bert-nano", "decoder": "gpt2-nano"}.get(structure, "t5-nano")), vocab_size=99)
    made = TASKS[objective](**fields)
    arch = with_head(arch, made.head, len(getattr(made, "labels", ())) or int(made.head != "vocabulary"))
    data = Data(sources=(WIKITEXT,), length=64, cross_documents=False)
    return Run("my task", arch, made, data=data, steps=20, batch_size=4, init=Init("someone/base"))


@pytest.mark.parametrize(
    ("made", "tag", "auto", "remark"),
    [
        (task_run("classification", "encoder", labels=("a", "b")), "text-classification", "SequenceClassification", None),
        (
            task_run("classification", "decoder", problem="regression"),
            "text-classification",
            "SequenceClassification",
            "read from the state of `</s>` behind the text",
        ),
        (task_run("tagging", "encoder", labels=("O", "B-X")), "token-classification", "TokenClassification", "first token"),
        (task_run("seq2seq", "both", prompt="sum: {source}"), "text2text-generation", "Seq2SeqLM", '`"sum: {source}"`'),
        (task_run("seq2seq", "both"), "text2text-generation", "Seq2SeqLM", None),
        (task_run("completion", "decoder"), "text-generation", "CausalLM", 'form `"{source}\\n"`, filled in.'),
        (task_run("completion", "decoder", bidirectional=True), "text-generation", "CausalLM", "in both directions"),
    ],
)
def test_a_task_is_called_what_it_is(made, tag, auto, remark, tmp_path):
    scores = {"loss": 0.5, "accuracy": 0.75, "macro_f1": 0.5, "macro_f1_interval": [0.4, 0.625], "examples": 872}
    scores |= {"labels": {"a": {"f1": 0.5}}, "matthews": None, "scored": 900, "elapsed": 3.0, "tokens": 5}
    folder = write(tmp_path, made)
    rows = [{"kind": "evaluation", "split": "validation", "step": step, **scores} for step in (0, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path, card.create(folder, 20, TOKENIZER, WORDS))
    assert found.data.pipeline_tag == tag and f"AutoModelFor{auto}.from_pretrained" in found.text
    assert card.task(made.arch).auto == f"AutoModelFor{auto}"
    figures = {result.metric_type: (result.metric_value, result.task_type) for result in found.data.eval_results}
    assert figures == {name: (scores[name], tag) for name in ("loss", "accuracy", "macro_f1")}
    assert found.data.metrics == ["accuracy", "macro_f1"]
    for said in (
        "trained by Tercet from `someone/base` for 20 of 20 steps (80 rows)",
        "Records; rows of 64 tokens hold up to 16 examples.",
        "On the whole validation split, 872 examples. Intervals are over resampled examples.",
        "| macro f1 | 0.5000 | 0.5000 | 0.4000 to 0.6250 |",
        *([remark] if remark else []),
    ):
        assert said in found.text, said
    for wrong in ("corrupted", "unigram", "perplexity", "one document a row", "tokens)", "elapsed", *([] if remark else ["\n- "])):
        assert wrong not in found.text.partition("## Making")[0], wrong
    assert ("accuracy on scored tokens" in found.text) == (made.arch.head == "vocabulary")


def test_fields_of_an_objective_stay_in_their_table(tmp_path):
    made = task_run("completion", "decoder", prompt="{source}\n\nAnswer: | ")
    text = read(tmp_path, card.create(write(tmp_path, made), 20, TOKENIZER, WORDS)).text
    assert '| `prompt` | `"{source}\\n\\nAnswer: \\| "` |' in text
    made = task_run("classification", "encoder", labels=("very good", "bad"))
    text = read(tmp_path, card.create(write(tmp_path, made), 20, TOKENIZER, WORDS)).text
    assert '| `labels` | `"very good"`, `"bad"` |' in text and '| `pair` | `""` |' in text
