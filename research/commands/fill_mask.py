"""`fill-mask MODEL`: the likeliest words in place of each mask, by a run, an exported folder or a hub id."""

from __future__ import annotations

import json

from research.commands.arguments import Parser, texts

DESCRIPTION = """Print the likeliest tokens in place of each mask.

Without --prompt and --file, each line of standard input is a text. The mask is written as the tokenizer writes it, for
example [MASK] or <mask>."""


def main(arguments: list[str]) -> int:
    """Print the guesses for every mask of every text; return 0."""
    parser = Parser("fill-mask", DESCRIPTION)
    parser.add_argument("model", help="a run's folder, a folder in Hugging Face's layout, or a hub id")
    parser.add_argument("--prompt", help="a text with one mask or several")
    parser.add_argument("--file", help="a text file with one text a line")
    parser.add_argument("--checkpoint", help="of a run: best (if not given), latest, a step, or average:N")
    parser.add_argument("--top", type=int, default=5, help="guesses for each mask")
    parser.add_argument("--json", action="store_true", help="one JSON object a text: prompt, and guesses for each mask")
    options = parser.parse(arguments)
    prompts = texts(options.prompt, options.file)

    from research.generate.fill import fill_mask
    from research.train.restore import open_model

    opened = open_model(options.model, options.checkpoint)
    found = fill_mask(opened.model, opened.params, opened.reader.tokenizer, prompts, options.top)
    for text, masks in zip(prompts, found, strict=True):
        if options.json:
            print(json.dumps({"prompt": text, "masks": masks}, ensure_ascii=False))
            continue
        print(text)
        for guesses in masks:
            print("    " + ", ".join(f"{word!r} {share:.1%}" for word, share in guesses))
    return 0
