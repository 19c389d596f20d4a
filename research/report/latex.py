"""Tables as LaTeX with booktabs, and any text escaped so that pdflatex takes it."""

from __future__ import annotations

import re
import unicodedata

from research.report.tables import Head, Table, Text

# Signs are of the fonts of formulas: those of text (\textpm) are bitmaps in old fonts, which several venues refuse.
SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": r"{\char96}",
    **{c: f"\\{c}" for c in "&%_#${}"},
    "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--", "—": "---", "…": r"\ldots{}",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$",
    # After \\ they would be its argument; bare, * would be its star.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "−": "$-$", "→": r"$\rightarrow$", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}",
    "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ı": r"\i{}",
    "©": r"\copyright{}", "\u00a0": "~", "‘": "`", "’": "'", "“": "``", "”": "''",
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c",
}  # fmt: skip
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def escape(text: str) -> str:
    """Return `text` as LaTeX that sets it, whatever is in it; letters that pdflatex lacks become their code points."""
    return re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|--+|.", lambda found: _set(found[0]), text, flags=re.DOTALL)


def _set(text: str) -> str:
    """Return the LaTeX of one letter, of raised digits, or of several hyphens, which must not become a dash."""
    if text in SPECIAL:
        return SPECIAL[text]
    if text[0] == "-":
        return text.replace("-", "{-}") if len(text) > 1 else text
    if text.isascii():
        return text if text.isprintable() else " "
    if ord(text[0]) in RAISED:
        return f"$^{{{text.translate(RAISED)}}}$"
    base, *marks = unicodedata.normalize("NFD", text)
    if base.isascii() and len(marks) == 1 and marks[0] in ACCENTS:
        return f"\\{ACCENTS[marks[0]]}{{{base}}}"
    return f"\\texttt{{U+{ord(text):04X}}}"


def latex(table: Table) -> str:
    """Return `table` as a tabular with its notes below, for a table environment with a caption of your own.

    Needs \\usepackage{booktabs}; it is set as wide as its text is.
    """
    columns = "l" * table.left + "r" * (len(table.rows[0]) - table.left if table.rows else 0)
    lines = ["% Made by: python -m research report. Needs \\usepackage{booktabs}."]
    lines += [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", "\\toprule"]
    for heads in table.heads[:-1]:
        lines += [" & ".join(_spanning(head) for head in heads) + r" \\", _rules(heads)]
    lines.append(" & ".join(escape(head.text) for head in table.heads[-1]) + r" \\")
    lines.append("\\midrule")
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if table.notes:
        lines += ["", "\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright"]
        lines += [" \\\\\n".join(_notes(table)), "\\end{minipage}"]
    return "\n".join(lines) + "\n"


def long(table: Table, widths: list[float]) -> str:
    """Return `table` as a longtable, which may go over pages, whose columns are paragraphs of shares of the line."""
    lines = ["% Made by: python -m research report. Needs \\usepackage{array,booktabs,longtable}."]
    lines += ["\\begingroup\\footnotesize\\setlength{\\tabcolsep}{4pt}"]
    if table.rows:
        columns = "".join(f">{{\\raggedright\\arraybackslash}}p{{{width:.3f}\\linewidth}}" for width in widths)
        lines += [f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}", "\\toprule"]
        lines += [" & ".join(escape(head.text) for head in table.heads[-1]) + r" \\", "\\midrule", "\\endhead"]
        lines += [" & ".join(breakable(_cell(cell)) for cell in row) + r" \\" for row in table.rows]
        lines += ["\\bottomrule", "\\end{longtable}"]
    lines += [f"\\noindent {breakable(note)}\\par" for note in _notes(table)]
    return "\n".join([*lines, "\\endgroup"]) + "\n"


def _notes(table: Table) -> list[str]:
    return [(f"\\textsuperscript{{{escape_mark(mark)}}}~" if mark else "") + escape(note) for mark, note in table.notes]


def breakable(text: str) -> str:
    """Return LaTeX that may break after slashes and underscores: names and addresses are longer than a column."""
    return text.replace("/", "/\\allowbreak{}").replace("\\_", "\\_\\allowbreak{}")


def escape_mark(mark: str) -> str:
    """Return the marks of a note, which are raised already."""
    return escape(mark).replace("^", "")


def _cell(cell: Text) -> str:
    text = escape(cell.text)
    if cell.bold:
        text = f"\\textbf{{{text}}}"
    if cell.underlined:
        text = f"\\underline{{{text}}}"
    text += f"\\textsuperscript{{{escape_mark(cell.notes)}}}" if cell.notes else ""
    return text + (f"\\phantom{{{escape(cell.pad)}}}" if cell.pad else "")


def _spanning(head: Head) -> str:
    if head.span == 1:
        return escape(head.text)
    return f"\\multicolumn{{{head.span}}}{{{'c' if head.text else 'l'}}}{{{escape(head.text)}}}"


def _rules(heads: list[Head]) -> str:
    rules, at = [], 1
    for head in heads:
        if head.text:
            rules.append(f"\\cmidrule(lr){{{at}-{at + head.span - 1}}}")
        at += head.span
    return "".join(rules)
