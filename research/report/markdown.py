"""Tables as Markdown, as GitHub shows it."""

from __future__ import annotations

import re

from research.report.tables import Table, Text


def escape(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, in one cell."""
    return re.sub(r"([\\`*_{}\[\]<>|~#$])", r"\\\1", " ".join(text.split()))


def markdown(table: Table) -> str:
    """Return `table` with its notes below; heads that span columns are joined with those under them."""
    heads = [escape(head.text) for head in table.heads[-1]]
    for upper in table.heads[:-1]:
        over = [head.text for head in upper for _ in range(head.span)]
        heads = [f"{escape(above)}: {head}" if above else head for above, head in zip(over, heads, strict=True)]
    align = ["---"] * table.left + ["--:"] * (len(heads) - table.left)
    lines = [heads, align, *([_cell(cell) for cell in row] for row in table.rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = [(f"<sup>{mark}</sup> " if mark else "") + escape(note) for mark, note in table.notes]
    return text + "".join(f"\n{note}\n" for note in notes)


def _cell(cell: Text) -> str:
    text = escape(cell.text)
    # GitHub shows <ins> underlined, and leaves <u> out.
    text = f"**{text}**" if cell.bold else f"<ins>{text}</ins>" if cell.underlined else text
    return text + (f"<sup>{cell.notes}</sup>" if cell.notes else "")
