"""Tables say what cells hold, with units and reasons, the same in every format; nothing in a name breaks one."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.report import costs, latex, markdown, page, provenance, runs, significance, spreadsheet, tables
from research.report.cells import arrange
from research.report.records import Published
from tests.report import made


def grid_of(*folders, **options):
    return arrange(runs.load(folders, "test"), "test", **options)


def results(grid):
    return tables.results(grid, significance.compare(grid), {})


def noted(table, cell):
    """The notes of a cell, said."""
    return [dict(table.notes)[letter] for letter in cell.notes.split(",") if letter]


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


@pytest.fixture
def ladder(tmp_path):
    return made.ladder(tmp_path)


def test_the_ladder(ladder):
    table = results(grid_of(*ladder))
    assert [head.text for head in table.heads[0]] == [
        "model", "runs", "perplexity", "parameters (M)", "tokens (M)", "FLOPs (10¹²)", "time (min)"
    ]  # fmt: skip
    found = texts(table)
    assert found[0] == ["kn3", "1", "148.3", "1.96", "0.93", "–", "0.04"]
    assert found[5] == ["transformer", "3", "113.9 ± 0.5", "4.70", "1.40", "58.0", "31.75"]
    assert [row[2].bold for row in table.rows] == [False] * 5 + [True]
    assert [row[2].underlined for row in table.rows] == [False] * 4 + [True, False]
    assert table.rows[0][5].notes == "a" and table.notes[-1] == ("a", "counted: no updates, so no training FLOPs")
    assert "paired permutation test over 200 documents in 40 blocks, Holm-corrected, p ≥ 0.05" in table.notes[0][1]
    assert [row[2].pad for row in table.rows] == [" ± 0.6"] * 2 + [""] * 4  # means stand below one another
    assert all(cell.text for row in table.rows for cell in row)  # a dash, never a blank


def test_columns_of_data_have_heads_over_them_and_costs_are_ranges(ladder, tmp_path):
    other = made.ladder(tmp_path / "more", "wikitext2", 0.25)
    shape = {"rows": ["name"], "columns": ["sources.0.path"], "scores": ["perplexity", "loss"]}
    table = results(grid_of(*ladder, *other[1:], **shape))
    over, under = table.heads
    assert [(head.text, head.span) for head in over] == [("", 2), ("ptb", 2), ("wikitext2", 2), ("", 4)]
    assert [head.text for head in under][2:6] == ["perplexity", "loss (nats)"] * 2
    assert texts(table)[0][:6] == ["kn3", "1", "148.3", "4.999", "–", "–"]
    assert ("a", "no such run was given") in table.notes and table.rows[0][4].notes == "a"
    fewer = results(grid_of(*ladder, *other[:-1], **shape))
    assert fewer.rows[5][1].text == "3" and noted(fewer, fewer.rows[5][4]) == ["n = 2"]


def test_published_figures_stand_beside_the_scores_of_the_runs_that_are_named(ladder):
    grid = grid_of(*ladder, scores=["perplexity", "loss"])
    figures = {"perplexity": {
        "kn3": [Published(148.3, "Mikolov (2012)", "a")],
        "lstm": [Published(115.0, "Zaremba", "c"), Published(114.5, "their code", "d")],
        "other": [Published(1.0, "nobody", "b")],
    }}  # fmt: skip
    table = tables.results(grid, significance.compare(grid), figures)
    assert [head.text for head in table.heads[0]][2:5] == ["perplexity", "published", "loss (nats)"]
    assert texts(table)[0][2:4] == ["148.3", "148.3"] and texts(table)[1][3] == "–"
    assert noted(table, table.rows[0][3]) == ["published: Mikolov (2012)"]
    assert noted(table, table.rows[1][3]) == ["no published figure is recorded"]
    assert table.rows[4][3].text == "115 / 114.5" and len(noted(table, table.rows[4][3])) == 2
    rows = list(csv.DictReader(io.StringIO(spreadsheet.as_csv(grid, figures))))
    assert [row["published"] for row in rows[:3]] == ["148.3", "", ""]
    assert provenance.provenance(grid, figures)[0]["published"][0]["record"] == "a"
    assert len({len(row) for row in table.rows} | {sum(head.span for head in heads) for heads in table.heads}) == 1
    across = grid_of(*ladder, rows=["name"], columns=["sources.0.path"])
    over, under = tables.results(across, significance.compare(across), figures).heads
    assert sum(head.span for head in over) == len(under) and over[1].span == 2


def test_a_dirty_tree_is_marked(tmp_path):
    folders = [made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b", dirty=True, loss=4.7)]
    grid = grid_of(*folders)
    table = results(grid)
    assert [row[0].notes for row in table.rows] == ["", "†"]
    assert dict(table.notes)["†"].startswith("from a working tree with changes that no commit holds")
    assert [row[4].notes for row in provenance.table(grid).rows] == ["", "†"]


def test_runs_outside_git_and_those_that_come_from_other_runs_are_marked_as_these_are(tmp_path):
    dirty = made.run(tmp_path / "dirty", "dirty", dirty=True)
    away = made.run(tmp_path / "away", "away", loss=4.7)
    made.change(away, "run.json", git=None)
    tuned = made.run(tmp_path / "tuned", "tuned", loss=4.8, init__path=str(dirty))
    mixed = made.run(tmp_path / "mixed", "mixed", loss=4.5, trained=False)
    made.change(mixed, "run.json", parts=[{"folder": str(dirty)}, {"folder": str(away)}, {"folder": "/gone"}])
    grid = grid_of(dirty, away, tuned, mixed, rows=["name"])
    table = provenance.table(grid)
    assert [row[0].notes for row in results(grid).rows] == ["†", "‡", "†", "†‡"]
    assert [row[4].notes for row in table.rows] == ["†", "‡", "†", "†‡"] and table.rows[1][4].text == "–"
    assert {"†", "‡"} <= dict(table.notes).keys()
    traced = provenance.provenance(grid, {})[-1]["runs"][0]
    assert [each["run"] for each in traced["from"]] == ["dirty", "away"] and len(traced["parts"]) == 3


def test_every_dash_has_its_reason(tmp_path):
    made.run(tmp_path / "late", "late", ended=False)
    less = {"scores": False, "flops": None, "parameters": None, "arch": {"family": "x"}}
    bare = made.run(tmp_path / "bare", "bare", **less)
    made.change(bare, "run.json", started=None, git=None)
    made.run(tmp_path / "a", "a"), made.run(tmp_path / "b", "b", loss=4.7, units=0)
    grid = grid_of(*sorted(tmp_path.iterdir()), rows=["name", "arch.cell"])
    tests = significance.compare(grid)
    for table in (tables.results(grid, tests, {}), provenance.table(grid), significance.table(grid, tests)):
        dashes = [cell for row in table.rows for cell in row if cell.text == "–"]
        assert dashes and all(noted(table, cell) if cell.notes != "‡" else "‡" in dict(table.notes) for cell in dashes)
        assert all(cell.text for row in table.rows for cell in row)


def test_a_perplexity_of_masked_tokens_is_said_to_be_one(tmp_path):
    masked = made.run(tmp_path / "m", objective={"name": "masked", "rate": 0.15})
    said = ("", "Perplexity under masked is of the tokens that are predicted, not of a whole text.")
    assert said in results(grid_of(masked)).notes and said not in results(grid_of(made.run(tmp_path / "c"))).notes


def test_a_bootstrap_interval_is_in_the_cell(tmp_path):
    table = results(grid_of(made.run(tmp_path / "a"), spread="bootstrap"))
    assert re.fullmatch(r"99\.48 \[9\d\.\d\d, 10\d\.\d\d\]", table.rows[0][2].text)
    assert table.notes[0][1] == "Mean [95 % bootstrap interval] of one run over documents, rows or examples."
    seeds = [made.run(tmp_path / f"b{seed}", seed=seed, loss=4.6 + seed / 100) for seed in range(3)]
    narrow = "Bootstrap intervals over 3 seeds are too narrow: they hold the mean in less than 95 %."
    assert ("", narrow) in results(grid_of(*seeds, spread="bootstrap")).notes
    assert ("", narrow) not in results(grid_of(*seeds)).notes


def test_numbers_far_apart_are_powers_of_ten(tmp_path):
    folders = [made.run(tmp_path / str(n), str(n), parameters=n, loss=4 + n / 1e9) for n in (12, 50_000, 124_000_000)]
    table = results(grid_of(*folders))
    assert [row[3] for row in texts(table)] == ["12", "5.00 × 10⁴", "1.24 × 10⁸"]
    assert costs.scientific(1.3e15) == "1.30 × 10¹⁵" and costs.scientific(812) == "812"


def test_csv_holds_every_cell_and_its_reason(ladder, tmp_path):
    late = made.run(tmp_path / "late", "late", ended=False)
    grid = grid_of(*ladder, late)
    significance.compare(grid)
    rows = list(csv.DictReader(io.StringIO(spreadsheet.as_csv(grid, {}))))
    assert len(rows) == 7 and rows[5]["best"] == "true" and rows[4]["not_significantly_worse"] == "true"
    assert float(rows[5]["mean"]) == grid.cells[("transformer",), (), "perplexity"].mean and rows[5]["n"] == "3"
    assert rows[6]["mean"] == "" and rows[6]["reason"] == "late: unfinished at step 800 of 2,000"


def test_provenance_traces_every_cell(ladder, tmp_path):
    late = made.run(tmp_path / "late", "late", ended=False)
    made.change(late, "run.json", resumed=[{"git": {"commit": "beef" * 10}}])
    grid = grid_of(*ladder, late)
    found = provenance.provenance(grid, {})
    assert [len(cell["runs"]) for cell in found] == [1, 1, 3, 3, 3, 3, 0]
    assert sorted(run["run"] for cell in found for run in cell["runs"]) == sorted(folder.name for folder in ladder)
    assert [run["run"] for run in found[-1]["left_out"]] == ["late"] and found[-1]["reasons"]
    [went_on] = found[-1]["left_out"]
    assert went_on["commit"] == "beef" * 10 == went_on["commits"][1] and went_on["commits"][0].startswith("c0ffee")
    for cell in found[:-1]:
        for run in cell["runs"]:
            assert run["data"] == made.TEST and run["commit"].startswith("c0ffee") and run["step"] in (0, 1800)
            assert run["evaluated"] and run["costs"]["parameters"] > 0 and run["finished"]
            assert re.fullmatch("[0-9a-f]{16}", run["configuration"]) and run["started"] and run["dirty"] is False
    hashes = {run["configuration"] for cell in found for run in cell["runs"]}
    assert len(hashes) == len(ladder)  # seeds are part of a configuration
    table = provenance.table(grid)
    assert len(table.rows) == len(ladder) + 1 and {len(row) for row in table.rows} == {len(table.heads[0])}


def test_a_configuration_has_one_hash_whatever_the_order_of_its_keys(tmp_path):
    import json

    a, b = made.run(tmp_path / "a"), made.run(tmp_path / "b")
    record = json.loads((b / "run.json").read_text())
    record["resolved"] = dict(reversed(record["resolved"].items()))
    (b / "run.json").write_text(json.dumps(record))
    first, second = runs.load([a, b], "test")
    assert first.hash == second.hash and list(first.resolved) != list(second.resolved)


# --- formats ----------------------------------------------------------------------------------------------------------

AWKWARD = "[*] 50% of R&D_#1 {x} $5 ~a^b \\n <é> ß–¹⁵ 日 `q` \"p\" --o"


def test_latex_escapes_everything():
    assert latex.escape("50% R&D_#1 {x} $5 ~^\\<>") == (
        r"50\% R\&D\_\#1 \{x\} \$5 \textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}\textgreater{}"
    )
    assert latex.escape("é ř ß 日 10⁻¹⁵ ± –") == r"\'{e} \v{r} \ss{} \texttt{U+65E5} 10$^{-15}$ $\pm$ --"
    assert latex.escape("--out a-b") == "{-}{-}out a-b"
    assert latex.escape("[x] * ‡") == r"{[}x{]} {*} $^\ddagger$"  # a row that began with [ or * would be an argument


@settings(deadline=None)
@given(st.text())
def test_latex_of_any_text_is_balanced_and_plain(text):
    found = latex.escape(text)
    assert found.isascii()
    bare = found.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[&%#]", found) and re.sub(r"\\\$", "", found).count("$") % 2 == 0
    assert not re.search(r"(?<!\\)_", found) and "\n" not in found


@settings(deadline=None)
@given(st.text())
def test_markdown_of_any_text_stays_in_its_cell(text):
    found = markdown.escape(text)
    assert "\n" not in found and not re.search(r"(?<!\\)(\\\\)*[|<]", re.sub(r"\\[|<]", "", found))


def test_every_format_has_every_cell(tmp_path):
    folders = [made.run(tmp_path / "a", AWKWARD), made.run(tmp_path / "b", "b", ended=False)]
    table = results(grid_of(*folders))
    as_latex, as_markdown, as_html = latex.latex(table), markdown.markdown(table), page.table_section(table)
    body = as_latex[as_latex.index("\\midrule") : as_latex.index("\\bottomrule")].splitlines()[1:]
    assert len(body) == 2 and all(len(re.findall(r"(?<!\\)&", line)) == len(table.rows[0]) - 1 for line in body)
    lines = [line for line in as_markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.rows[0]) + 1}
    assert as_html.count("<td") == 2 * len(table.rows[0]) and "R&amp;D" in as_html and "<é>" not in as_html
    for text in (as_latex, as_markdown, as_html):
        assert "unfinished at step 800 of 2,000" in text and "99.48" in text
    assert as_latex.isascii()


def test_long_tables_break_and_may_be_empty():
    heads, row = [tables.Head("a"), tables.Head("b")], [tables.Text("x/y_z"), tables.Text("1")]
    table = tables.Table("t", [heads], [row], 2, [("†", "n")])
    found = latex.long(table, [0.5, 0.4])
    assert "x/\\allowbreak{}y\\_\\allowbreak{}z & 1" in found and "$\\dagger$" in found
    assert "longtable}" not in latex.long(table._replace(rows=[]), [0.5, 0.4]).split("\n", 1)[1]
