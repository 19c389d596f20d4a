"""Prompts, sources, targets and answers: what is read, what is cut, and that the template's words always stay."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.records import Row
from research.objectives import Completion, Seq2Seq
from research.tasks import completion, prompts, seq2seq
from research.tasks.prepare import encode_rows
from research.types import UserError
from tests.tasks.tiny import coder, tokens


def row(**fields):
    return Row("f.jsonl:3", 3, fields)


@pytest.mark.parametrize(
    ("objective", "fields", "expected"),
    [
        (Seq2Seq(), {"source": "", "target": ""}, ("source", "target")),
        (Seq2Seq(), {"id": "", "document": "", "summary": ""}, ("document", "summary")),
        (Completion(), {"prompt": "", "completion": ""}, ("prompt", "completion")),
        (Seq2Seq(), {"source": "", "target": "", "targets": [""]}, ("source", "target")),
        (Seq2Seq(), {"source": "", "references": [""]}, ("source", "references")),
        (Seq2Seq(prompt="{question} {context}"), {"question": "", "context": "", "answer": ""}, ("", "answer")),
        (Seq2Seq(source="translation.en", target="translation.de"), {"translation": {"en": "", "de": ""}},
         ("translation.en", "translation.de")),
    ],
)  # fmt: skip
def test_columns_are_guessed(objective, fields, expected):
    found = prompts.named_columns(objective, row(**fields))
    assert (found.source, found.target) == expected
    assert prompts.named_columns(found, row(**fields)) == found


def test_columns_that_are_not_there_are_named():
    said = "translation.en, translation.de: say .* --objective.source translation.en --objective.target translation.de"
    with pytest.raises(UserError, match=said):
        prompts.named_columns(Seq2Seq(), row(translation={"en": "", "de": ""}))
    with pytest.raises(UserError, match="no column is called target or alike, only 'source', 'more': set objective"):
        prompts.named_columns(Seq2Seq(), row(source="", more=""))
    objective = Seq2Seq(source="s", target="t", prompt="{source} {more}")
    with pytest.raises(UserError, match="f.jsonl:3: no column 'more', only 's', 't': set objective.prompt"):
        prompts.example(objective, row(s="", t=""), True)
    with pytest.raises(UserError, match="column 't' holds an int, not text"):
        prompts.example(objective, row(s="", t=3, more=""), True)


@pytest.mark.parametrize(
    ("fields", "target", "references"),
    [
        ({"target": "a"}, "a", ["a"]),
        ({"target": "a", "several": ["b", "c"]}, "a", ["b", "c"]),
        ({"target": "a", "several": "b"}, "a", ["b"]),
        ({"target": "a", "several": None}, "a", ["a"]),
        ({"target": "a", "several": []}, "a", ["a"]),
        ({"target": "a", "references": ["Smith, 2001"], "targets": ["b"]}, "a", ["a"]),  # nobody named them
        ({"target": ["a", "b"]}, "a", ["a", "b"]),
        ({"target": None}, None, [None]),
        ({"target": []}, None, [None]),
    ],
)
def test_references_are_kept(fields, target, references):
    objective = Seq2Seq(source="source", target="target", references="several")
    found = prompts.example(objective, row(source="x", **fields), True)
    assert (found["target"], found["references"]) == (target, references)
    assert seq2seq.untold(found) == (target is None)


def test_references_are_guessed_with_a_guessed_target_alone():
    fields = {"article": "x", "summary": "y", "references": ["Smith, 2001"], "targets": "z"}
    for objective, expected in (
        (Seq2Seq(), "references"),
        (Seq2Seq(target="summary"), ""),
        (Completion(target="summary", references="targets"), "targets"),
    ):
        assert prompts.named_columns(objective, row(**fields)).references == expected
    assert prompts.named_columns(Seq2Seq(), row(source="x", targets=["y", "z"])).references == ""  # the target itself
    for wrong in ([3], 3, {"a": "b"}):
        with pytest.raises(UserError, match="column 'r' is no list of texts: mend it or set objective.references"):
            prompts.example(Seq2Seq("s", "t", references="r"), row(s="x", t="y", r=wrong), True)
        with pytest.raises(UserError, match="'t' (is no list of texts|holds (an int|a dict), not text)"):
            prompts.example(Seq2Seq("s", "t"), row(s="x", t=wrong), True)


def test_columns_of_other_data_are_guessed_anew():
    objective = Seq2Seq("article", "highlights", references="r")
    other = row(document="x", summary="y", id=3)
    found = prompts.renamed(objective, other)
    assert (found.source, found.target, found.references) == ("document", "summary", "r")
    assert prompts.example(found, other, True)["references"] == ["y"]
    assert prompts.example(objective, row(document="x", id=3), False) == {"place": "f.jsonl:3", "source": "x"}
    lost = row(a="x", b="y")
    assert prompts.renamed(objective, lost) == objective
    with pytest.raises(UserError, match="no column 'article', only 'a', 'b': .* or rename one to 'article'"):
        prompts.example(objective, lost, False)


def test_one_column_is_the_source_of_a_prediction():
    objective = Completion(source="source", target="target")
    assert prompts.example(objective, row(text="hi"), False) == {"place": "f.jsonl:3", "source": "hi"}


TEMPLATES = [
    "{source}", "translate English to German: {source}", "the cat {source} the dog\n", "{{a}} {source} {more} ."
]  # fmt: skip
WORD = st.sampled_from(["the", "house", "klein", "unbelievable", "cat", "ö"])
TEXT = st.lists(WORD, max_size=25).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT, st.sampled_from(TEMPLATES), st.integers(20, 60), st.sampled_from(["start", "end"]),
       st.sampled_from(["bpe", "unigram", "wordpiece"]))  # fmt: skip
def test_only_values_are_cut_at_the_end_that_is_told(source, more, template, room, keep, kind):
    ours, example = coder(kind), {"place": "f:1", "source": source, "columns": {"more": more}}
    text, spans = prompts.filled(template, example)
    assert text == template.format(source=source, more=more)
    assert all(text[a:b] in (source, more) for each in spans.values() for a, b in each)
    whole = ours.ids([text])[0]
    bare = len(ours.ids([template.format(source="", more="")])[0])
    if bare > room:
        return
    (found, cut), = prompts.prompts(ours, template, [example], room, keep)  # fmt: skip
    assert cut == (len(whole) > room) and len(found) == min(len(whole), room)
    position = iter(whole)
    assert all(any(token == each for each in position) for token in found)  # in order, nothing new
    if cut and template == "{source}":
        assert found == (whole[:room] if keep == "start" else whole[-room:])
    if cut and template.startswith("translate"):
        before = ours.ids(["translate English to German:"])[0]
        assert found[: len(before)] == before
        rest = len(found) - bare
        assert keep == "start" or rest <= 0 or found[-rest:] == whole[-rest:]


def test_other_columns_are_cut_only_when_the_source_is_gone():
    ours = coder("word")
    example = {"place": "f:1", "source": "the cat sat", "columns": {"more": "a dog ran off"}}
    for room, expected in ((6, ": the a dog ran off"), (5, ": a dog ran off"), (4, ": a dog ran")):
        template = ": {source} {more}"
        found = prompts.prompts(ours, template, [example], room, "start")[0].ids
        assert " ".join(tokens(ours, found)) == expected
    with pytest.raises(UserError, match="f:1: objective.prompt alone takes 2 tokens, and there is room for 1"):
        prompts.prompts(ours, "the cat {source}", [example], 1, "start")


PAIR = st.tuples(st.lists(WORD, min_size=1, max_size=12), st.lists(WORD, max_size=8))
PAIRS = st.lists(PAIR, min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(1, 4), st.sampled_from(["pad", "eos"]), st.sampled_from(["unigram", "bpe", "wordpiece"]))
def test_rows_of_pairs_hold_each_once(pairs, per_row, begin, kind):
    ours = coder(kind)
    objective = Seq2Seq("s", "t", target_length=9, begin=begin, per_row=per_row)
    rows = [row(s=" ".join(s), t=" ".join(t)) for s, t in pairs]
    table, wrong = encode_rows(objective, ours, 30, rows, "encoder-decoder", labelled=True)
    arrays, seen, eos = table.arrays, [], ours.known.eos
    assert not wrong and arrays["source"].shape[1] == 30 and arrays["tokens"].shape[1] == 9
    for r in range(table.count):
        example = objective(jax.random.key(0), {name: array[r] for name, array in arrays.items()}, ours.known)
        assert (example.weights == (arrays["segments"][r] > 0)).all()
        for k in np.flatnonzero(arrays["example"][r] >= 0):
            number = int(arrays["example"][r, k])
            seen.append(number)
            source = arrays["source"][r][arrays["source_segments"][r] == k + 1].tolist()
            before, _, after = ours.single
            body = ours.ids([rows[number].fields["s"]])[0]
            after = after if after[-1:] == [eos] else [*after, eos]
            assert source == [*before, *body[: 30 - len(before) - len(after)], *after]
            target = arrays["targets"][r][arrays["segments"][r] == k + 1].tolist()
            assert target == [*ours.ids([rows[number].fields["t"]])[0][:8], eos]
            start = ours.known.pad if begin == "pad" else eos
            assert arrays["tokens"][r][arrays["segments"][r] == k + 1].tolist() == [start, *target[:-1]]
    assert sorted(seen) == list(range(len(pairs)))


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_rows_of_completions_hold_each_once(pairs, per_row):
    ours = coder("bpe")
    objective = Completion("s", "t", target_length=6, per_row=per_row, bidirectional=True)
    rows = [row(s=" ".join(s), t=" ".join(t)) for s, t in pairs]
    table, wrong = encode_rows(objective, ours, 20, rows, "decoder", labelled=True)
    arrays, seen = table.arrays, []
    examples = [completion.example(objective, each) for each in rows]
    read = completion.sources(objective, ours, 20, examples)
    assert not wrong and arrays["tokens"].shape == (table.count, 21)
    for r in range(table.count):
        record = {name: array[r] for name, array in arrays.items()}
        example, scored = objective(jax.random.key(0), record, ours.known), 0
        for k in np.flatnonzero(arrays["example"][r] >= 0):
            number, inside = int(arrays["example"][r, k]), arrays["segments"][r] == k + 1
            seen.append(number)
            ids, answers = arrays["tokens"][r][inside], arrays["answers"][r][inside]
            assert ids[answers == 0].tolist() == read[number].ids and len(read[number].ids) <= 20 + 1 - 6
            target = [*ours.ids([rows[number].fields["t"]])[0][:5], ours.known.eos]
            assert ids[answers == 1].tolist() == target
            scored += len(target)
        assert int(example.weights.sum()) == scored  # all of every answer, and nothing else
    assert sorted(seen) == list(range(len(pairs)))


def test_nothing_to_read_is_an_end_token_and_predictions_need_no_target():
    ours, objective = coder("bpe"), Completion("s", "t", prompt="{source}", target_length=4)
    assert completion.sources(objective, ours, 8, [{"place": "", "source": ""}])[0].ids == [ours.known.eos]
    table, wrong = encode_rows(objective, ours, 8, [row(s="the cat")], "decoder")
    assert not wrong and table.count == 1 and "target" not in table.examples[0]
    table, wrong = encode_rows(Seq2Seq("s", "t"), ours, 8, [row(s="the cat"), row(x=1, y=2)], "encoder-decoder")
    assert list(wrong) == [1] and table.arrays["tokens"].shape == (1, 64)
    for objective in (Seq2Seq("s", "t", prompt="{source} {a.b}"), Completion("s", "t")):
        assert encode_rows(objective, ours, 100, [])[0].count == 0


def test_t5_reads_and_writes_as_published(tokenizer_folder):
    from transformers import AutoTokenizer

    from tests.tasks.tiny import published

    path = tokenizer_folder / "t5-small"
    theirs, ours = AutoTokenizer.from_pretrained(path), published(str(path))
    objective = Seq2Seq("source", "target", prompt="translate English to German: {source}")
    example = seq2seq.example(objective, row(source="The house is wonderful.", target="Das Haus ist wunderbar."))
    expected = theirs("translate English to German: The house is wonderful.")["input_ids"]
    assert seq2seq.sources(objective, ours, 64, [example])[0].ids == expected
    assert prompts.targets(ours, [example], 64) == [(theirs("Das Haus ist wunderbar.")["input_ids"], False)]
    assert seq2seq.begin(objective, ours.known) == 0
