"""`export RUN FOLDER`: write a trained model as Hugging Face's transformers reads it, with a model card."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from research.commands.arguments import CHECKPOINTS, Parser, check_writable, checkpoint
from research.types import UserError

if TYPE_CHECKING:
    from research.train.restore import Loaded

EXAMPLES = """examples:
  python -m research export runs/x exported/x
  python -m research export runs/x exported/x --checkpoint latest
  python -m research export runs/x exported/raw --raw
  python -m research export runs/x exported/x --adapter
  python -m research export runs/x exported/x --adapter --base exported/base

Then, in any program: transformers.AutoModelForCausalLM.from_pretrained("exported/x"), or MaskedLM, or Seq2SeqLM."""


def main(arguments: list[str]) -> int:
    """Write the folder and say how to load it."""
    parser = Parser("export", __doc__ or "", epilog=EXAMPLES)
    parser.add_argument("run", type=pathlib.Path, help="folder of a run")
    parser.add_argument("folder", type=pathlib.Path, help="new folder, or an empty one")
    parser.add_argument("--checkpoint", default="best", help=CHECKPOINTS)
    parser.add_argument("--raw", action="store_true", help="the raw parameters of a run that kept a moving average")
    parser.add_argument("--adapter", action="store_true", help="low-rank updates alone, as PEFT loads them")
    parser.add_argument("--base", help="of --adapter: folder or hub id that it is loaded onto; else init.path")
    options = parser.parse(arguments)
    checkpoint(options.checkpoint)
    if not (options.run / "run.json").is_file():
        raise UserError(f"no run in {options.run}: there is no run.json; give the folder that train wrote (--out)")

    from research.interop.card import task
    from research.interop.export import check_free

    check_free(options.folder)
    check_writable(options.folder.absolute().parent, "FOLDER")
    if options.base and not options.adapter:
        raise UserError("--base says what an adapter is loaded onto: give --adapter too")
    if options.adapter:
        base = base_of(options.run, options.base)
        if options.checkpoint.startswith("average:"):
            raise UserError("--adapter: the mean of checkpoints is no low-rank update: leave --adapter out, or name one step")

    from research.train.restore import load_run  # jax

    loaded = load_run(options.run, options.checkpoint, raw=options.raw)
    load = f"transformers.{task(loaded.run.arch).auto}.from_pretrained"
    if options.adapter:
        from research.interop import peft

        run, names = loaded.run, getattr(loaded.run.objective, "labels", ())
        kind = getattr(run.objective, "problem", "")
        peft.write(options.folder, run.arch, run.adapter, loaded.params, loaded.trainable, base, names, kind)
        told = f", num_labels={run.arch.labels}" if run.arch.labels else ""
        told += f", id2label={dict(enumerate(names))}" if names else ""
        said, remarks = f'peft.PeftModel.from_pretrained({load}("{base}"{told}), "{options.folder}")', []
    else:
        remarks = export(options.run, loaded, options.folder, raw=options.raw)
        said = f'{load}("{options.folder}")'
    print(f"step {loaded.step:,} of {options.run} -> {options.folder}")
    print(said)
    for remark in remarks:
        print(f"note: {remark}")
    return 0


def base_of(run: pathlib.Path, named: str | None) -> str:
    """Return the folder or hub id that a run's low-rank updates belong to: the one `named`, or what it started from.

    Raises:
        UserError: The run was trained otherwise, or from nothing: export the whole model; or the base is a run, which
            PEFT cannot open: export that first.
    """
    from research.config import from_json
    from research.report.logs import read_run

    held = from_json(read_run(run)["resolved"])
    if held.adapter.method != "lora":
        raise UserError(f"--adapter: {run} has adapter.method {held.adapter.method}, not lora: leave it out")
    if not held.init.path:
        raise UserError(f"--adapter: {run} began with fresh parameters (init.path is empty), no base: leave it out")
    base = named or held.init.path
    if (pathlib.Path(base) / "run.json").exists():
        raise UserError(
            f"--adapter: {base} is a run, which PEFT cannot open: python -m research export {base} FOLDER, then train "
            "with --init.path FOLDER, or give --base FOLDER here"
        )
    return base


def export(run: pathlib.Path, loaded: Loaded, folder: pathlib.Path, *, raw: bool = False) -> list[str]:
    """Write a loaded run as `folder` and return what `transformers` has no word for.

    Raises:
        UserError: Something is in `folder`, or it cannot be written; or the model has no equal in `transformers`.
    """
    from research.config import to_json
    from research.interop import card
    from research.interop.export import write

    objective, words = loaded.run.objective, loaded.vocabulary
    start = getattr(words, objective.start) if loaded.run.arch.structure == "encoder-decoder" else None
    made = card.create(run, loaded.step, loaded.tokenizer, words, raw=raw)
    record = to_json(loaded.run)
    write(
        folder,
        loaded.run.arch,
        loaded.params,
        loaded.tokenizer,
        words,
        made,
        decoder_start=start,
        record=record,
        labels=getattr(objective, "labels", ()),
        problem=getattr(objective, "problem", ""),
    )
    return card.remarks(loaded.run, loaded.tokenizer, words)
