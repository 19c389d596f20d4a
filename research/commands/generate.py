"""`generate MODEL`: continue or answer prompts with a run, an exported folder or a hub id."""

from __future__ import annotations

import json
import sys

from research.commands import overrides
from research.commands.arguments import switch, take, texts
from research.generate.settings import Decoding, check
from research.types import UserError

USAGE = """usage: python -m research generate MODEL --prompt TEXT [--FIELD VALUE ...]
       python -m research generate MODEL --file FILE [--json] [--FIELD VALUE ...]
       ... | python -m research generate MODEL [--FIELD VALUE ...]

MODEL         a run's folder, a folder in Hugging Face's layout, or a hub id
--prompt      one prompt; without it, and without --file, each line of standard input is one
--file        a text file with one prompt a line
--checkpoint  of a run: best (if not given), latest, a step, or average:N
--batch-size  sequences made at the same time (16)
--json        one JSON object a prompt: prompt, texts and their scores, in nats

A causal model continues its prompt; a prefix LM reads it in both directions first. A model trained with span corruption
puts a text in place of each sentinel (<extra_id_0>, ...), or one at the end of a prompt without any. One text is shown
while it is made. The fields of decoding:
"""


def main(arguments: list[str]) -> int:
    """Print what the model makes of every prompt; return 0."""
    if not arguments or arguments[0] in ("-h", "--help") or "--help" in arguments:
        print(USAGE)
        overrides.show_help(Decoding(), "generate MODEL", "")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise UserError("generate needs a model first: a run's folder, an exported folder or a hub id")
    path, rest = arguments[0], arguments[1:]
    prompt, rest = take(rest, "--prompt", anything=True)
    file, rest = take(rest, "--file")
    checkpoint, rest = take(rest, "--checkpoint")
    width, rest = take(rest, "--batch-size")
    as_json, rest = switch(rest, "--json")
    if width and not (width.isdecimal() and int(width)):
        raise UserError(f"--batch-size is {width}: it must be a whole number, at least 1")
    decoding = check(overrides.parse(Decoding(), rest))
    prompts = texts(prompt, file)

    from research.generate.decoding import generate, stream
    from research.train.restore import open_model

    opened = open_model(path, checkpoint)
    reader, size = opened.reader, opened.reader.vocabulary.size
    decoding = reader.settings(decoding)
    read = [reader.prompt(text) for text in prompts]
    show = reader.structure == "decoder"  # an encoder-decoder's answer may change the middle of a text: shown at the end
    if show and len(read) == 1 and not as_json and decoding.method != "beam" and decoding.returned == 1 and _is_seen():
        made: tuple[int, ...] = ()
        shown = ""
        print(prompts[0], end="", flush=True)
        pieces = stream(opened.model, opened.params, read[0], decoding, bidirectional=reader.bidirectional, size=size)
        for piece in pieces:
            made += piece
            text = reader.text(read[0], made)
            if text.startswith(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half a character
                print(text[len(shown) :], end="", flush=True)
                shown = text
        text = reader.text(read[0], made)
        print(text[len(shown) :] if text.startswith(shown) else f"\n{prompts[0]}{text}")
        return 0
    found = generate(
        opened.model,
        opened.params,
        read,
        decoding,
        batch_size=int(width or 16),
        bidirectional=reader.bidirectional,
        size=size,
    )
    for text, prompt_, row in zip(prompts, read, found, strict=True):
        answers = [reader.text(prompt_, one.tokens) for one in row]
        if as_json:
            scores = [one.score for one in row]
            print(json.dumps({"prompt": text, "texts": answers, "scores": scores}, ensure_ascii=False))
        else:
            print("\n".join((text if show else "") + answer for answer in answers))
    return 0


def _is_seen() -> bool:
    return sys.stdout.isatty()
