"""`demo`: pre-train a small BERT, GPT-2 and T5 on text found on this machine, and show what they learned."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import time

from research.commands.arguments import Parser, check_writable
from research.commands.table import show
from research.types import UserError

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
MEMBERS = {"masked (BERT)": "mlm_pydocs", "causal (GPT-2)": "clm_pydocs", "span corruption (T5)": "span_pydocs"}
MASKED_TEXT = "Return the{mask} of the list."
PROMPT = "Return a list of"
BROKEN_TEXT = "Return<extra_id_0> of the list, or None if<extra_id_1> is empty."


def main(arguments: list[str]) -> int:
    """Train, evaluate and sample the three models under --out (default runs/demo); return 0 when all is shown."""
    parser = Parser("demo", __doc__ or "")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="folder of the three runs")
    parser.add_argument("--steps", type=int, default=0, help="steps of each model; 0: as its experiment says")
    options = parser.parse(arguments)
    check_writable(options.out)

    from research.config import load_experiment, to_json
    from research.report.curves import loss_curves
    from research.report.logs import read, read_run
    from research.train.loop import status, train

    started = time.perf_counter()
    folders = {}
    for title, name in MEMBERS.items():
        run = load_experiment(str(EXPERIMENTS / f"{name}.py"))
        if options.steps:
            run = dataclasses.replace(run, steps=options.steps)
        folder = folders[title] = options.out / name
        if status(folder) != "new" and read_run(folder)["configuration"] != to_json(run):
            raise UserError(f"{folder} holds another run: remove it, or give the demo another --out")
        if status(folder) == "new" and folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty, and not a run: give the demo another --out")
        shutil.rmtree(folder, ignore_errors=True)  # a demo shows the whole way, never the end of an earlier one
        print(f"\n--- {title}: {EXPERIMENTS.name}/{name}.py -> {folder}")
        if train(run, folder) != "done":
            print("interrupted: the demo starts anew next time")
            return 130
    print()
    show("Three objectives, one step", *_table(folders))
    print("Perplexities of different objectives are not comparable: each scores other tokens. Unigram: the loss of the")
    print("best guess without any context, on the same scored tokens.")
    last = {title: [row for row in read(folder) if row["kind"] == "evaluation"][-1] for title, folder in folders.items()}
    short = [title for title, row in last.items() if row["loss"] >= row["unigram_loss"]]
    print(f"Not below it: {', '.join(short)}.\n" if short else "All three are below it: they use the context.\n")
    _texts(*folders.values())
    figure = options.out / "loss.png"
    loss_curves({title: read(folder) for title, folder in folders.items()}, figure)
    print(f"\nloss curves: {figure}    all in {time.perf_counter() - started:.0f} s\n")
    print("Next, for example:")
    print("  python -m research train experiments/clm_pydocs.py --steps 3000 --out runs/longer")
    print(f"  python -m research evaluate {folders['causal (GPT-2)']} --split test")
    print("  python -m research sweep experiments/mlm_pydocs.py --seed 0 1 --optimizer.learning-rate 1e-3 3e-3")
    print("(with .venv/bin/python, or after: source .venv/bin/activate)")
    return 1 if short and not options.steps else 0


def _table(folders: dict[str, pathlib.Path]) -> tuple[list[str], list[list[str]]]:
    """Return the header and one row of figures a run, all read from what the runs logged."""
    import statistics

    from research.report.logs import read, read_run

    header = ["objective", "parameters", "tokens", "tokens/s", "loss", "unigram", "perplexity", "bits/byte", "accuracy"]
    lines = []
    for title, folder in folders.items():
        rows = read(folder)
        evaluations = [row for row in rows if row["kind"] == "evaluation"]
        first, last = evaluations[0], evaluations[-1]
        speeds = [row["tokens_per_s"] for row in rows if row["kind"] == "train" and row["tokens_per_s"]]
        bits = [row.get("bits_per_byte") for row in (first, last)]
        lines.append(
            [
                title,
                f"{read_run(folder)['parameters']:,}",
                f"{last['tokens']:,}",
                f"{statistics.median(speeds):,.0f}" if speeds else "-",
                f"{first['loss']:.3f} -> {last['loss']:.3f}",
                f"{last['unigram_loss']:.3f}",
                f"{first['perplexity']:,.0f} -> {last['perplexity']:,.0f}",
                f"{bits[0]:.2f} -> {bits[1]:.2f}" if None not in bits else "-",
                f"{first['accuracy']:.1%} -> {last['accuracy']:.1%}",
            ]
        )
    return header, lines


def _texts(masked: pathlib.Path, causal: pathlib.Path, spans: pathlib.Path) -> None:
    """Print what each model makes of a few words."""
    from research.generate.samples import continuation, fill_mask, reconstruction
    from research.train.restore import load_run

    run = load_run(masked)
    text = MASKED_TEXT.format(mask=run.tokenizer.mask_token)
    guesses = fill_mask(run.model, run.params, run.tokenizer, text)[0]
    print(f"masked:          {text}")
    print("                 " + ", ".join(f"{word!r} {share:.1%}" for word, share in guesses))
    run = load_run(causal)
    print(f"causal:          {PROMPT} ...")
    _indented(continuation(run.model, run.params, run.tokenizer, run.vocabulary, PROMPT))
    run = load_run(spans)
    print(f"span corruption: {BROKEN_TEXT}")
    found = reconstruction(run.model, run.params, run.tokenizer, run.vocabulary, BROKEN_TEXT)
    _indented("; ".join(f"<extra_id_{i}> = {span!r}" for i, span in enumerate(found)) or "(no span)")


def _indented(text: str) -> None:
    import textwrap

    print(textwrap.indent(textwrap.fill(" ".join(text.split()), 100), " " * 17))


