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
TOLERANCE = 1e-5  # relative, between the loss of a run and that of its exported folder
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
    same = all([_exported(folder, last[title]["loss"]) for title, folder in folders.items()])
    if same:
        print("Hugging Face's transformers loads these folders; README.md in each is its model card.")
    figure = options.out / "loss.png"
    loss_curves({title: read(folder) for title, folder in folders.items()}, figure)
    print(f"\nloss curves: {figure}    all in {time.perf_counter() - started:.0f} s\n")
    print("Next, for example:")
    print("  python -m research train experiments/clm_pydocs.py --steps 3000 --out runs/longer")
    print(f"  python -m research evaluate {folders['causal (GPT-2)']} --split test")
    print("  python -m research sweep experiments/mlm_pydocs.py --seed 0 1 --optimizer.learning-rate 1e-3 3e-3")
    print("(with .venv/bin/python, or after: source .venv/bin/activate)")
    return 1 if not same or (short and not options.steps) else 0


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


def _exported(run: pathlib.Path, logged: float) -> bool:
    """Export a run, read the folder back, print its loss beside the `logged` one, and return whether they agree."""
    import jax

    from research.commands.export import export
    from research.data.corpus import prepare
    from research.data.tokenizer import Tokenizer, vocabulary
    from research.interop.folder import load
    from research.train.evaluate import evaluator
    from research.train.restore import load_run
    from research.train.session import rows_of
    from research.train.step import trainer

    folder, loaded = run / "export", load_run(run)
    export(run, loaded, folder)
    found = load(folder, jax.tree.map(lambda shape: shape.sharding, loaded.trainer.parameters))
    words = vocabulary(found.tokenizer)
    data = dataclasses.replace(loaded.run.data, tokenizer=Tokenizer(path=str(folder)))
    again = dataclasses.replace(loaded.run, arch=found.arch, data=data)  # all that it was, but from the folder
    rows = rows_of(again, prepare(data, ("validation",)), "validation")
    evaluate = evaluator(again, words, trainer(again, words, loaded.trainer.mesh))
    loss = evaluate(found.params, rows, again.evaluate_rows)["loss"]
    same = abs(loss - logged) <= TOLERANCE * abs(logged)
    print(f"{folder}: loss {logged:.6f}, exported and read back {loss:.6f}: {'equal' if same else 'NOT EQUAL'}")
    return same


def _texts(masked: pathlib.Path, causal: pathlib.Path, spans: pathlib.Path) -> None:
    """Print what each model makes of a few words."""
    from research.generate.decoding import generate
    from research.generate.fill import fill_mask
    from research.generate.settings import Decoding
    from research.train.restore import open_model

    model, params, reader, *_ = open_model(str(masked))
    text = MASKED_TEXT.format(mask=reader.tokenizer.mask_token)
    ((guesses,),) = fill_mask(model, params, reader.tokenizer, [text])
    print(f"masked:          {text}")
    print("                 " + ", ".join(f"{word!r} {share:.1%}" for word, share in guesses))
    model, params, reader, *_ = open_model(str(causal))
    prompt = reader.prompt(PROMPT)
    sampling = reader.settings(Decoding("sample", max_new_tokens=40, top_k=40))
    ((found,),) = generate(model, params, [prompt], sampling, size=reader.vocabulary.size)
    print(f"causal:          {PROMPT} ...")
    _indented(PROMPT + reader.text(prompt, found.tokens))
    model, params, reader, *_ = open_model(str(spans))
    prompt, greedy = reader.prompt(BROKEN_TEXT), reader.settings(Decoding(max_new_tokens=24, no_repeat_ngram=2))
    ((found,),) = generate(model, params, [prompt], greedy, size=reader.vocabulary.size)
    print(f"span corruption: {BROKEN_TEXT}")
    answers = map(reader.tokenizer.decode, reader.spans(found.tokens).values())
    pieces = [f"<extra_id_{i}> = {span!r}" for i, span in enumerate(answers)]
    _indented("; ".join(pieces) or "(no span)")


def _indented(text: str) -> None:
    import textwrap

    print(textwrap.indent(textwrap.fill(" ".join(text.split()), 100), " " * 17))


