"""Runs become rows, columns and cells by their fields; what cannot be compared is refused."""

import json
import math

import numpy as np
import pytest

from research.report import comparable, fields, runs, significance
from research.report.cells import arrange
from research.types import UserError
from tests.report import made


def loaded(*folders, split="test"):
    return runs.load(folders, split)


def only(grid, row=0, column=0):
    return grid.cells[grid.row_keys[row], grid.column_keys[column], grid.scores[0]]


def test_seeds_are_one_cell_and_models_are_rows(tmp_path):
    grid = arrange(loaded(*made.ladder(tmp_path)), "test")
    assert grid.rows == ["name"] and grid.scores == ["perplexity"]
    assert [key[0] for key in grid.row_keys] == list(made.LADDER)
    cell = only(grid, 4)
    values = [math.exp(math.log(114.5) + 0.004 * d) for d in (-1, 0, 1)]
    assert cell.n == 3 and (cell.mean, cell.spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert only(grid).n == 1 and only(grid).spread is None


def test_a_sweep_is_told_by_what_was_swept_in_the_order_of_its_size(tmp_path):
    folders = [
        made.run(tmp_path / f"{rate}-{seed}", seed=seed, optimizer__learning_rate=rate, log_every=seed + 1)
        for rate in (0.01, 0.001, 0.1)
        for seed in (0, 1)
    ]
    grid = arrange(loaded(*folders), "test")
    assert grid.rows == ["optimizer.learning_rate"] and grid.row_keys == [(0.001,), (0.01,), (0.1,)]
    assert fields.heads(grid.rows) == ["learning rate"] and grid.row_names[(0.1,)] == "learning rate 0.1"


def test_what_a_run_found_tells_it_apart_last(tmp_path):
    def run(name, labels, path="", tokenizer="/tokenizers/bert", **given):
        folder = made.run(tmp_path / name, **given, arch__labels=0, objective__label="", data__tokenizer__path=path)
        found = {"labels": labels, "label": f"column {labels}"}
        made.change(
            folder, "run.json", resolved__arch__labels=labels, resolved__objective=found,
            resolved__data__tokenizer__path=path or tokenizer,
        )  # fmt: skip
        return folder

    data = [run(f"of-{n}", n, data__sources__0__path=f"/data/{n}") for n in (1, 2, 4)]
    assert arrange(loaded(*data), "test").rows == ["data.sources.0.path"]
    starts = [run("scratch", 2, "/tokenizers/bert"), run("tuned", 2, tokenizer="runs/mlm/tokenizer", init__path="runs/mlm")]
    assert arrange(loaded(*starts), "test").rows == ["init.path"]


def test_fields_that_tell_nothing_more_are_left_out(tmp_path):
    made.run(tmp_path / "a", arch__width=1, arch__layers=10)
    made.run(tmp_path / "b", arch__width=2, arch__layers=20)
    made.run(tmp_path / "c", arch__width=2, arch__layers=20, data__length=70)
    grid = arrange(loaded(*sorted(tmp_path.iterdir())), "test")
    assert grid.rows == ["arch.width", "data.length"]


def test_a_counted_model_has_no_fields_of_training(tmp_path):
    made.run(tmp_path / "a", optimizer__learning_rate=0.1)
    made.run(tmp_path / "b", trained=False)
    grid = arrange(loaded(*sorted(tmp_path.iterdir())), "test", rows=["learning_rate"])
    assert list(grid.row_names.values()) == ["learning rate 0.1", "learning rate –"]


def test_runs_of_one_name_are_told_by_their_paths(tmp_path):
    folders = [made.run(tmp_path / str(seed) / "run", seed=seed) for seed in (0, 1)]
    assert [run.id for run in loaded(*folders)] == list(map(str, folders))
    assert [run.id for run in loaded(folders[0])] == ["run"]


def test_short_names_of_fields(tmp_path):
    run = loaded(made.run(tmp_path / "a"))
    assert fields.find("learning_rate", run) == fields.find("learning-rate", run) == "optimizer.learning_rate"
    assert fields.find("sources.0.path", run) == "data.sources.0.path"
    assert fields.find("name", run) == "name"
    with pytest.raises(UserError, match=r"^unknown field learning_rat: did you mean optimizer\.learning_rate\?$"):
        fields.find("learning_rat", run)
    with pytest.raises(UserError, match=r"^field path could be data\.sources\.0\.path or .*: write one of them whole$"):
        fields.find("path", run)
    with pytest.raises(UserError, match=r"^unknown field arch: it has parts, such as arch\.family$"):
        fields.find("arch", run)


def test_values_are_shown_short():
    assert [fields.shown(value) for value in (None, "", True, 0.0003, 5)] == ["–", "–", "yes", "0.0003", "5"]
    assert fields.shown(["a", "b"]) == "a, b"
    assert fields.shown("/data/ptb", ["/data/ptb", "/data/wikitext2"]) == "ptb"
    assert fields.shown("/a/ptb", ["/a/ptb", "/b/ptb"]) == "/a/ptb"
    assert fields.heads(["arch.width", "optimizer.name", "data.sources.0.path", "name"]) == [
        "width", "optimizer", "data", "model"
    ]  # fmt: skip
    assert fields.heads(["data.length", "arch.length"]) == ["data.length", "arch.length"]


def test_runs_of_one_cell_differ_by_seed_alone(tmp_path):
    a, b = made.run(tmp_path / "a"), made.run(tmp_path / "b", seed=1, optimizer__learning_rate=0.01)
    with pytest.raises(UserError, match=r"a and b would be one cell, but differ in .*_rate \(0.001 and 0.01\)"):
        arrange(loaded(a, b), "test", rows=["name"])
    c = made.run(tmp_path / "c")
    with pytest.raises(UserError, match="a and c are the same run, seed 0 of one configuration: leave one out"):
        arrange(loaded(a, c), "test")


INFINITE = dict.fromkeys(("loss", "perplexity", "bits_per_byte", "accuracy"))  # what JSON has of infinities, and none


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ended": False}, "x: unfinished at step 800 of 2,000"),
        ({"scores": False}, "not evaluated on test: python -m research evaluate {folder} --split test"),
        ({"more": INFINITE}, "x gives some of the test split no probability: its perplexity is infinite"),
    ],
)
def test_a_missing_cell_has_its_reason(tmp_path, options, reason):
    folder = made.run(tmp_path / "x", **options)
    cell = only(arrange(loaded(folder), "test"))
    assert cell.mean is None and cell.reasons == [reason.format(folder=folder)]


def test_a_seed_that_is_left_out_is_told(tmp_path):
    folders = [made.run(tmp_path / f"s{seed}", seed=seed, ended=seed != 1) for seed in range(3)]
    cell = only(arrange(loaded(*folders), "test"))
    assert cell.n == 2 and cell.reasons == ["s1: unfinished at step 800 of 2,000"]


def test_scores_of_another_checkpoint_or_text_are_told(tmp_path):
    def remarks(folder):
        return only(arrange(loaded(folder), "test")).remarks

    folder = made.run(tmp_path / "x")
    assert remarks(folder) == []
    made.change(folder, "scores/test.json", checkpoint="latest", step=2000)
    assert remarks(folder) == ["of checkpoint latest, not of the best"]
    made.change(folder, "scores/test.json", checkpoint="800", step=800)
    assert remarks(folder) == ["of checkpoint 800 (step 800), not of the best"]
    made.change(folder, "run.json", resumed=[{"started": "2026-11-20T10:00:00+00:00", "step": 1000}])
    assert remarks(folder) == ["x was trained after it was scored: evaluate it again"]
    other = made.run(tmp_path / "other")
    made.change(other, "run.json", fingerprints__test="0711" * 8)
    assert remarks(other) == ["the test text that other was scored on is not what it recorded in training"]
    counted = made.run(tmp_path / "kn", trained=False, more={"checkpoint": "latest"})
    assert remarks(counted) == []  # it has no other


def test_the_usual_score_of_a_task_is_what_its_best_is_by(tmp_path):
    folder = made.run(tmp_path / "x", objective__name="tagging", best_by="f1", more={"f1": 0.9, "accuracy": 0.95})
    assert arrange(loaded(folder), "test").scores == ["f1"]
    twice = arrange(loaded(folder), "test", scores=["f1", "accuracy", "f1"], rows=["name", "name"])
    assert (twice.scores, twice.rows) == (["f1", "accuracy"], ["name"])
    with pytest.raises(UserError, match="^name is both in --rows and in --columns: leave it out of one$"):
        arrange(loaded(folder), "test", rows=["name"], columns=["name"])
    with pytest.raises(UserError, match=r"--scores f2: no run has it of its test split: did you mean f1\?"):
        arrange(loaded(folder), "test", scores=["f2"])


def test_scores_of_texts_that_were_made(tmp_path):
    folder = made.run(tmp_path / "x", objective__name="seq2seq", best_by="bleu")
    held = {"split": "test", "fingerprint": "f", "bleu": 33.0}
    (folder / "scores" / "test.generated.json").write_text(json.dumps(held))
    cell = only(arrange(loaded(folder), "test"))
    [other] = cell.remarks  # its fingerprint is made up
    sample = "of 50 examples alone (--limit), spread over the test split"
    for limit, examples, said in ((0, 90, []), (200, 90, []), (50, 50, [sample])):
        made.change(folder, "scores/test.generated.json", limit=limit, examples=examples)
        assert only(arrange(loaded(folder), "test")).remarks == [*said, other]
    assert cell.score == "bleu" and cell.mean == 33


def test_bootstrap_intervals_over_units_of_one_run_and_over_seeds(tmp_path):
    one = made.run(tmp_path / "one")
    grid = arrange(loaded(one), "test", scores=["loss", "perplexity", "bits_per_byte"], spread="bootstrap")
    loss, perplexity, bits = grid.cells.values()
    assert loss.low < loss.mean < loss.high
    assert (perplexity.low, perplexity.high) == pytest.approx((math.exp(loss.low), math.exp(loss.high)))
    assert bits.low / bits.mean == pytest.approx(loss.low / loss.mean)
    assert loss.high - loss.low > 2 * 1.96 * 0.4 / math.sqrt(200) * 0.8  # sentences are of the text's difficulty
    seeds = [one, *(made.run(tmp_path / f"s{s}", seed=s, loss=4.6 + s / 100) for s in (1, 2))]
    cell = only(arrange(loaded(*seeds), "test", scores=["loss"], spread="bootstrap"))
    assert (cell.low, cell.high) == pytest.approx((4.6, 4.62))


# --- not comparable ---------------------------------------------------------------------------------------------------


def checked(*folders, **options):
    grid = arrange(loaded(*folders), "test", **options)
    comparable.check(grid)
    return grid


def test_other_data_in_one_column(tmp_path):
    a = made.run(tmp_path / "a", "a")
    b = made.run(tmp_path / "b", "b", data__sources__0__path="/data/wikitext2", fingerprint="0711" * 8)
    said = r": a was evaluated on ptb \(test, fingerprint 7e577e57\), b on wikitext2"
    for rows in (["name"], ["name", "data.sources.0.path"]):  # nor where rows tell the data
        with pytest.raises(UserError, match=said):
            checked(a, b, rows=rows)
    grid = checked(a, b, rows=["name"], columns=["data.sources.0.path"])
    significance.compare(grid)
    assert not any(cell.best for cell in grid.cells.values())  # each is alone on its data


def test_columns_must_tell_what_they_differ_in(tmp_path):
    a = made.run(tmp_path / "a", "a", optimizer__name="sgd")
    data = {"data__sources__0__path": "/data/wikitext2", "fingerprint": "0711" * 8}
    b = made.run(tmp_path / "b", "b", data__length=70, **data)
    for columns in (["optimizer.name"], ["data.length"]):
        with pytest.raises(UserError, match="a was evaluated on ptb .*, b on wikitext2"):
            checked(a, b, rows=["name"], columns=columns)
    c = made.run(tmp_path / "c", "c", objective={"name": "masked", "rate": 0.15}, **data)
    with pytest.raises(UserError, match="a was evaluated on ptb .*, c on wikitext2"):  # the objectives are told
        checked(a, c, rows=["name"], columns=["objective.name"])
    checked(a, c, rows=["name"], columns=["objective.name", "data.sources.0.path"])


def test_the_same_names_with_other_text(tmp_path):
    a, b = made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b", fingerprint="0711" * 8)
    with pytest.raises(UserError, match=r"a was evaluated on ptb .* b on ptb \(test, fingerprint 07110711\)"):
        checked(a, b)


def test_masked_and_causal_in_one_column(tmp_path):
    a = made.run(tmp_path / "a", "a")
    b = made.run(tmp_path / "b", "b", objective={"name": "masked", "rate": 0.15})
    with pytest.raises(UserError, match="perplexity of a is of next tokens, that of b of masked .*no perplexity"):
        checked(a, b, rows=["name"])
    checked(a, b, rows=["name"], columns=["objective.name"])
    c = made.run(tmp_path / "c", "c", objective={"name": "masked", "rate": 0.3})
    with pytest.raises(UserError, match=r"masked tokens .*rate 0.15\), that of c of .*rate 0.3.*objective.rate"):
        checked(b, c)
    d = made.run(tmp_path / "d", "d", objective={"name": "masked", "rate": 0.3}, data__length=70)
    with pytest.raises(UserError, match="other lengths have other masks, and c of length 35.* and d of length 70"):
        checked(c, d, rows=["name"])


def test_the_same_text_of_which_other_tokens_were_scored(tmp_path):
    a, b = made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b", more={"scored": 3_761})
    for score in ("perplexity", "bits_per_byte"):
        with pytest.raises(UserError, match="is a mean over 3,945 tokens of a, but over 3,761 of b: .*cross_documents"):
            checked(a, b, scores=[score])


def test_without_a_fingerprint_nothing_says_that_it_is_the_same_text(tmp_path):
    a, b = made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b", fingerprint=None)
    with pytest.raises(UserError, match="of what b was scored on no fingerprint is recorded.*: evaluate b again"):
        checked(a, b)


def test_texts_that_were_made_are_compared_with_such_of_as_many_examples(tmp_path):
    def of(name, kept, **held):
        folder = made.run(tmp_path / name, name, objective__name="seq2seq", best_by="bleu", more={"rows": 200})
        held = {"split": "test", "fingerprint": made.TEST, "bleu": 33.0, **held}
        (folder / "scores" / kept).write_text(json.dumps(held))
        return folder

    a, b = (of(name, "test.generated.json", examples=200) for name in "ab")
    checked(a, b, scores=["bleu"], rows=["name"])
    few = of("few", "test.generated.json", examples=50, limit=50)
    with pytest.raises(UserError, match="a was scored on 200 examples, few on 50 examples"):
        checked(a, few, scores=["bleu"], rows=["name"])
    with pytest.raises(UserError, match="the bleu of a is of texts that it wrote, that of odd is not: leave one out"):
        checked(a, of("odd", "test.json", rows=200), scores=["bleu"], rows=["name"])


def test_accuracies_of_other_labels(tmp_path):
    a = made.run(tmp_path / "a", "a", objective={"name": "classification", "labels": ["no", "yes"], "per_row": 1})
    b = made.run(tmp_path / "b", "b", objective={"name": "classification", "labels": ["ham", "spam"]})
    c = made.run(tmp_path / "c", "c", objective={"name": "classification", "labels": ["no", "yes"], "per_row": 16})
    with pytest.raises(UserError, match="not comparable: the accuracy of a"):
        checked(a, b, scores=["accuracy"])
    checked(a, c, scores=["accuracy"], rows=["name"])


def test_other_tokenizers_are_compared_in_bits_per_byte_alone(tmp_path):
    a = made.run(tmp_path / "a", "a")
    other = {"tokenizer": "b22" * 8, "fingerprint": "0711" * 8}
    b = made.run(tmp_path / "b", "b", loss=5.0, more={"bits_per_byte": 5.0 / math.log(2) / 5.5}, **other)
    for score in ("perplexity", "loss", "accuracy"):
        with pytest.raises(UserError, match=f"different tokenizers, so {score} .*: give --scores bits_per_byte"):
            checked(a, b, scores=[score])
    grid = checked(a, b, scores=["bits_per_byte"])
    [test] = significance.compare(grid)
    assert test.n == "200 documents in 40 blocks" and only(grid).best
    assert test.to_json(grid)["measure"] == "bits_per_byte"
    assert test.test.difference == pytest.approx(only(grid, 1).mean - only(grid).mean, rel=1e-6)
    short = made.run(tmp_path / "c", "c", more={"bits_per_byte": 1.5}, **other)  # not as many bytes: other text
    with pytest.raises(UserError, match="a was scored on 21,69. bytes, c on "):
        checked(a, short, scores=["bits_per_byte"])


def test_labels_do_not_depend_on_the_tokenizer(tmp_path):
    task = {"objective": {"name": "classification", "labels": ["no", "yes"]}, "more": {"examples": 200}}
    a = made.run(tmp_path / "a", "a", **task)
    b = made.run(tmp_path / "b", "b", tokenizer="b22" * 8, fingerprint="0711" * 8, **task)
    checked(a, b, scores=["accuracy"], rows=["name"])
    task["more"] = {"examples": 199}
    c = made.run(tmp_path / "c", "c", tokenizer="b22" * 8, fingerprint="0712" * 8, **task)
    with pytest.raises(UserError, match="not comparable"):
        checked(a, c, scores=["accuracy"], rows=["name"])


def test_curves_of_other_objectives_data_or_tokens_are_apart(tmp_path):
    a, b = made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b")
    others = {
        "objectives": made.run(tmp_path / "c", "c", objective={"name": "masked", "rate": 0.15}),
        "data": made.run(tmp_path / "d", "d", data__sources__0__path="/data/wikitext2"),
        "tokenizers": made.run(tmp_path / "e", "e", tokenizer="b22" * 8),
    }

    def reason(*folders):
        return comparable.apart(loaded(*folders), "perplexity")

    assert reason(a, b) == ""
    assert {what: reason(a, other) for what, other in others.items()} == {
        what: f"a and {other.name} have different {what}" for what, other in others.items()
    }
    made.change(b, "run.json", fingerprints__validation="0711" * 8)
    made.change(a, "run.json", fingerprints__validation="0712" * 8)
    assert reason(a, b) == "a and b have different data"


# --- significance -----------------------------------------------------------------------------------------------------


def test_the_best_and_what_is_not_significantly_worse(tmp_path):
    grid = arrange(loaded(*made.ladder(tmp_path)), "test")
    tests = significance.compare(grid)
    marks = {cell.row[0]: (cell.best, cell.tied) for cell in grid.cells.values()}
    assert marks.pop("transformer") == (True, False) and marks.pop("lstm") == (False, True)
    assert set(marks.values()) == {(False, False)}
    assert all(test.over == "documents" and test.test.n == made.SENTENCES for test in tests) and len(tests) == 5
    assert all(test.p >= test.test.permutation for test in tests)
    found = next(test for test in tests if test.cell.row == ("kn3",)).to_json(grid)
    assert found["best"] == "transformer" and found["difference"] == pytest.approx(math.log(148.3 / 113.9), abs=1e-6)


def test_without_units_seeds_are_compared_where_they_can_show_anything(tmp_path):
    def of(name, seeds, loss):
        return [made.run(tmp_path / f"{name}{s}", name, s, loss + s / 1e3, units=0, scores=True) for s in range(seeds)]

    few = arrange(loaded(*of("a", 3, 4.0), *of("b", 3, 4.5)), "test")
    [test] = significance.compare(few)
    assert test.over == "seeds" and test.test.permutation == 0.25 and test.p is None
    assert test.reason == "3 shared seeds cannot show a difference at p < 0.05, 6 can" and not only(few, 1).tied
    many = arrange(loaded(*of("c", 6, 4.0), *of("d", 6, 4.5)), "test")
    [test] = significance.compare(many)
    assert test.p == test.test.permutation == 2 / 64 and not test.reason
    with_others = arrange(loaded(*of("k", 6, 4.0), *of("l", 6, 4.5), *of("m", 6, 4.6)), "test")
    for test in significance.compare(with_others):  # Holm doubles the least p
        assert test.p is None and not test.cell.tied
        assert test.reason == "6 shared seeds cannot show a difference at p < 0.05 in 2 tests, 7 can"
    alone = arrange(loaded(*of("e", 1, 4.0), *of("f", 1, 4.5)), "test")
    [test] = significance.compare(alone)
    assert test.test is None
    assert test.reason == "no scores of single documents or examples are kept, and 1 seed is shared"
    a, b = made.run(tmp_path / "g", "g", loss=4.0, units=4), made.run(tmp_path / "h", "h", loss=4.5, units=4)
    [test] = significance.compare(arrange(loaded(a, b), "test"))
    assert test.p is None and test.reason == "4 documents cannot show a difference at p < 0.05, 6 can"


def test_right_answers_are_paired_example_by_example(tmp_path):
    right = np.random.default_rng(0).random((2, 400)) < [[0.8], [0.9]]
    task = {"objective": {"name": "classification", "labels": ["no", "yes"]}, "best_by": "accuracy"}
    folders = []
    for name, each in zip("ab", right.astype(int), strict=True):
        folders.append(made.run(tmp_path / name, name, more={"accuracy": each.mean(), "examples": 400}, **task))
        kept = {"kind": "example", "right": each.tolist(), "weight": [1] * 400}
        made.change(folders[-1], "scores/test.json", units=kept)
    grid = checked(*folders, rows=["name"], spread="bootstrap")
    [test] = significance.compare(grid)
    assert only(grid, 1).best and test.n == "400 examples" and test.p < 0.01 and not only(grid).tied
    assert only(grid).low < only(grid).mean < only(grid).high < 0.9


def test_units_of_other_number_are_not_paired(tmp_path):
    a, b = made.run(tmp_path / "a", "a", units=200), made.run(tmp_path / "b", "b", units=100, loss=4.7)
    [test] = significance.compare(arrange(loaded(a, b), "test"))
    assert test.reason == "the units scored are not the same, and 1 seed is shared"
    units = json.loads((a / "scores" / "test.json").read_text())["units"]
    for wrong in ({"weight": units["weight"][:-1]}, {"nll": [2 * nll for nll in units["nll"]]}):
        made.change(a, "scores/test.json", units={**units, **wrong})
        with pytest.raises(UserError, match=r"a/scores/test\.json: units are not as many nll as weight, or are not"):
            significance.compare(arrange(loaded(a, b), "test"))


def test_higher_is_better_but_for_losses(tmp_path):
    a = made.run(tmp_path / "a", "a", loss=4.5, more={"accuracy": 0.3})
    b = made.run(tmp_path / "b", "b", loss=4.7, more={"accuracy": 0.4})
    for score, row in (("loss", 0), ("accuracy", 1)):
        grid = arrange(loaded(a, b), "test", scores=[score])
        significance.compare(grid)
        assert only(grid, row).best and not only(grid, 1 - row).best
