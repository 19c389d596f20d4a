"""A paper that takes a report in compiles, and its page opens in a browser; both are kept to be looked at.

Slow: about 20 seconds. With TERCET_SHOW=folder the PDF and the picture of the page are left there.
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from research.commands import main as door
from tests.report import made
from tests.report.test_tables import AWKWARD

pytestmark = pytest.mark.slow

PAPER = r"""\documentclass[11pt]{article}
\usepackage[margin=2.2cm]{geometry}
\usepackage{array,booktabs,graphicx,longtable}
\usepackage[hidelinks]{hyperref}
\begin{document}
\begin{table}[t]\centering\small
\caption{Language models from counts to attention.}
\input{table}
\end{table}
\begin{figure}[t]\centering
\includegraphics[width=.49\linewidth]{curves-perplexity}\hfill\includegraphics[width=.49\linewidth]{size-perplexity}
\includegraphics[width=.49\linewidth]{bars-perplexity}\hfill\includegraphics[width=.49\linewidth]{compute-perplexity}
\caption{The same, drawn.}
\end{figure}
Some text~\cite{marcus1993building}.\nocite{*}
\appendix
\section{Provenance}
\input{provenance}
\section{Tests}
\input{statistics}
\section{Licences}
\input{licences}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report of a ladder, with names that have all in them that LaTeX and HTML stumble over."""
    base = tmp_path_factory.mktemp("report")
    folders = made.ladder(base / "runs")
    for i, name in enumerate((AWKWARD[:15], AWKWARD[15:28], AWKWARD[28:36], AWKWARD[36:])):
        folder = base / "runs" / f"{i}00%_odd&#"
        folders.append(made.run(folder, name, loss=4.9 + i, dirty=True, data__tokenizer__path="/t/gpt2"))
    folders.append(made.run(base / "runs" / "late", "late", ended=False))
    assert door.main(["report", *map(str, folders), "--rows", "name", "--out", str(base / "out")]) == 0
    return base / "out"


def shown(path: pathlib.Path) -> None:
    """Keep `path` where somebody asked to look at it."""
    if folder := os.environ.get("TERCET_SHOW"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def test_a_paper_with_the_tables_and_figures_compiles(report, tmp_path):
    if not (shutil.which("pdflatex") and shutil.which("bibtex")):
        pytest.skip("no pdflatex here: apt-get install texlive-latex-recommended")
    folder = shutil.copytree(report, tmp_path / "paper")
    (folder / "paper.tex").write_text(PAPER)
    for command in (["pdflatex"], ["bibtex"], ["pdflatex"], ["pdflatex"]):
        flags = ["-interaction=nonstopmode", "-halt-on-error"] if command == ["pdflatex"] else []
        done = subprocess.run([*command, *flags, "paper"], cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    log = (folder / "paper.log").read_text(errors="replace")
    assert "undefined" not in log and "Missing character" not in log
    assert [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(width) > 12] == []
    assert b"/Type3" not in (folder / "paper.pdf").read_bytes()
    shown(folder / "paper.pdf")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_in_a_browser(report, tmp_path, scheme):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here: apt-get install chromium")
    picture = tmp_path / f"page-{scheme}.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,3200", f"--screenshot={picture}"]
    flags += ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [browser, *flags, (report / "index.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and picture.stat().st_size > 100_000, done.stderr[-2000:]
    from matplotlib.image import imread

    corner = imread(picture)[5, 5, :3].mean()
    assert corner > 0.9 if scheme == "light" else corner < 0.2
    shown(picture)
