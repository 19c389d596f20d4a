"""`export RUN FOLDER`: write a trained model as Hugging Face's transformers reads it, with a model card.

An n-gram model, which `transformers` has no class for, is written as an ARPA file, beside its tokenizer.
"""

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
  python -m research export runs/kn5 exported/kn5

Then, in any program: transformers.AutoModelForCausalLM.from_pretrained("exported/x"), or MaskedLM, or Seq2SeqLM.
Of an n-gram run: model.arpa, in the spellings of the tokenizer beside it, for KenLM, SRILM, or --arch.arpa here."""


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

    from research.config import from_json
    from research.interop.card import task
    from research.interop.export import check_free
    from research.models.arch import Arch
    from research.models.ngram import Ngram
    from research.report.logs import read_trained

    check_free(options.folder)
    check_writable(options.folder.absolute().parent, "FOLDER")
    if options.base and not options.adapter:
        raise UserError("--base says what an adapter is loaded onto: give --adapter too")
    if options.adapter:
        base = base_of(options.run, options.base)
        if options.checkpoint.startswith("average:"):
            raise UserError("--adapter: the mean of checkpoints is no low-rank update: leave --adapter out, or name one step")
    arch = from_json(read_trained(options.run)["resolved"]).arch
    if isinstance(arch, Ngram):
        return export_arpa(options.run, options.folder, options.raw)
    if not isinstance(arch, Arch):
        raise UserError(
            f"{options.run} holds a {type(arch).__name__} model, which transformers has no class for: only "
            "transformers and n-gram models are exported"
        )

    from research.train.restore import load_run  # jax

    loaded = load_run(options.run, options.checkpoint, raw=options.raw)
    load = f"transformers.{task(loaded.run.arch).auto}.from_pretrained"
    if options.adapter:
        from research.interop import peft

        run, names = loaded.run, getattr(loaded.run.objective, "labels", ())
        kind = getattr(run.objective, "problem", "")
        if pathlib.Path(base).is_dir():  # one that is to be on the hub may not be there yet
            check_base(loaded, base)
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


def export_arpa(run: pathlib.Path, folder: pathlib.Path, raw: bool) -> int:
    """Write the n-gram model of `run` as `folder`, model.arpa and the tokenizer, and say how to read it.

    Raises:
        UserError: `raw` parameters are asked for; or as `write_arpa`.
    """
    if raw:
        raise UserError(f"--raw: {run} holds an n-gram model, which has no parameters to average: leave it out")

    from research.data.tokenizer import save
    from research.interop.export import whole_folder
    from research.models.arpa import KENLM, write_arpa
    from research.train.restore import read_model  # jax

    opened = read_model(str(run))
    model, tokenizer = opened.model, opened.reader.tokenizer
    with whole_folder(folder) as partial:
        spellings = tokenizer.convert_ids_to_tokens(list(range(model.size)))
        write_arpa(model, spellings, partial / "model.arpa", tokenizer.unk_token_id)
        save(tokenizer, partial)
    print(f"{model.parameters:,} n-grams of {run} -> {folder}")
    if model.order in KENLM:
        print(f'kenlm.Model("{folder}/model.arpa")')
    print(f"--arch.arpa {folder}/model.arpa --data.tokenizer.path {folder}")
    return 0


def base_of(run: pathlib.Path, named: str | None) -> str:
    """Return the folder or hub id that a run's low-rank updates belong to: the one `named`, or what it started from.

    Raises:
        UserError: The run was trained otherwise, or from nothing: export the whole model; or the base is a run, which
            PEFT cannot open: export that first.
    """
    from research.config import from_json
    from research.report.logs import read_trained

    held = from_json(read_trained(run)["resolved"])
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


def check_base(loaded: Loaded, base: str) -> None:
    """Refuse a folder that is not what a run's low-rank updates were trained on.

    Raises:
        UserError: A parameter that was frozen is another there: give the right --base, or export the merged model.
    """
    import numpy as np

    from research.interop import folder
    from research.models.lora import A, B
    from research.models.paths import flatten
    from research.models.rules import HEADS

    moved = {path.removesuffix(A).removesuffix(B) + "kernel" * path.endswith((A, B)) for path in flatten(loaded.trainable)}
    ours = flatten(loaded.params)
    theirs, _ = folder.parameters(base, loaded.run.arch, None, HEADS, ("classifier/", "pooler/"))
    for path, leaf in flatten(theirs).items():
        if path not in moved and not np.array_equal(leaf, ours[path]):
            raise UserError(
                f"--adapter: {path} of {base} is not what the updates were trained on: give that as --base, or leave "
                "--adapter out" + ", for init.rescale changed it" * loaded.run.init.rescale
            )


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
