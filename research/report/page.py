"""One self-contained page: tables and figures as they go to paper, with their notes; no script, nothing to fetch."""

from __future__ import annotations

import base64
import html
import pathlib
from collections.abc import Sequence

from research.report.tables import Head, Table, Text

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --rule: #1a1a1a; --hair: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --faint: #a0a0a0; --rule: #c8c8c8; --hair: #33363c; }
}
* { box-sizing: border-box; }
body { margin: 2.5rem auto; padding: 0 1.25rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 "Source Serif 4", Charter, "Bitstream Charter", Georgia, serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; } .faint, figcaption, .notes { color: var(--faint); font-size: .86rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid var(--rule); border-bottom: 2px solid var(--rule);
  margin: .75rem 0 .4rem; font-variant-numeric: lining-nums tabular-nums; font-size: .93rem; }
th { font-weight: 600; text-align: right; padding: .3rem .7rem; vertical-align: bottom; }
th.words, td.words { text-align: left; } th.over { text-align: center; border-bottom: 1px solid var(--rule); }
thead tr:last-child th { border-bottom: 1px solid var(--rule); }
td { text-align: right; padding: .22rem .7rem; vertical-align: top; white-space: nowrap; }
tbody tr:nth-child(5n) td { border-bottom: 1px solid var(--hair); } tbody tr:last-child td { border-bottom: 0; }
td.words { white-space: normal; min-width: 4.5rem; }
td.long { min-width: 0; overflow-wrap: break-word; }
.pad { visibility: hidden; }
table.small { font-size: .82rem; } u { text-underline-offset: .2em; } sup { font-size: .7em; line-height: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: 1.25rem;
  align-items: start; }
figure { margin: 0; }
figure img { width: 100%; max-width: 30rem; background: #fff; border-radius: 4px; padding: .4rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; color: var(--faint); margin: .4rem 0; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; } figure { break-inside: avoid; } .wide { overflow: visible; }
}
"""


def page(title: str, command: str, sections: Sequence[str]) -> str:
    """Return the page; `command` is what makes it again."""
    made = "<details class=faint><summary>Made from the folders of runs alone</summary>"
    made += f"<pre>{html.escape(command)}</pre></details>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{made}\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def table_section(table: Table, small: bool = False, long: bool = False) -> str:
    """Return a section of one table with its notes; `long` lets words break."""
    heads = "".join(f"<tr>{_heads(row, table.left)}</tr>" for row in table.heads)
    words = ' class="words long"' if long else " class=words"
    kinds = [words if i < table.left else "" for i in range(sum(head.span for head in table.heads[-1]))]
    lines = ["".join(f"<td{k}>{_cell(c)}</td>" for k, c in zip(kinds, row, strict=True)) for row in table.rows]
    rows = "".join(f"<tr>{line}</tr>\n" for line in lines)
    marks = [(f"<sup>{html.escape(mark)}</sup> " if mark else "") + html.escape(note) for mark, note in table.notes]
    notes = "".join(f"<p class=notes>{note}</p>\n" for note in marks)
    kind = " class=small" if small else ""
    body = f"<div class=wide><table{kind}>\n<thead>{heads}</thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    body = body if rows else ""
    return f"<section>\n<h2>{html.escape(table.title)}</h2>\n{body}{notes}</section>"


def figures_section(figures: Sequence[tuple[str, pathlib.Path]]) -> str:
    """Return a section of figures, (caption, PNG) each, which are held within the page."""
    shown = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"><figcaption>{html.escape(caption)}</figcaption></figure>\n'
        for caption, path in figures
    )
    return f"<section>\n<h2>Figures</h2>\n<div class=figures>\n{shown}</div>\n</section>" if shown else ""


def source_section(title: str, source: str) -> str:
    """Return a section of text that is to be copied as it is, folded up."""
    folded = f"<details class=faint><summary>to copy</summary><pre>{html.escape(source)}</pre></details>"
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{folded}\n</section>"


def notes_section(title: str, lines: Sequence[str]) -> str:
    """Return a section of sentences; empty where there are none."""
    told = "".join(f"<p>{html.escape(line)}</p>\n" for line in lines)
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{told}</section>" if told else ""


def _heads(row: Sequence[Head], left: int) -> str:
    found, at = [], 0
    for head in row:
        kind = " class=over" if head.span > 1 and head.text else " class=words" if at < left else ""
        over = f" colspan={head.span}" if head.span > 1 else ""
        found.append(f"<th scope=col{kind}{over}>{html.escape(head.text)}</th>" if head.text else f"<td{over}></td>")
        at += head.span
    return "".join(found)


def _cell(cell: Text) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.bold else f"<u>{text}</u>" if cell.underlined else text
    text += f"<sup>{html.escape(cell.notes)}</sup>" if cell.notes else ""
    return text + (f"<span class=pad>{html.escape(cell.pad)}</span>" if cell.pad else "")
