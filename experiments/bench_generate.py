"""Tokens a second of greedy decoding, beside transformers on the same exported GPT-2, in alternation.

Command:  python -m experiments.bench_generate [--peer torch] [--preset gpt2] [--rounds 5]
Cost:     about 2 minutes on two cores, with the peer.
Result:   on two idle cores 1.1 times transformers' speed for batch 1, 1.25 times for batch 16, the same tokens.
Limit:    batch 1 reads every parameter once a token (0.5 GB for gpt2 in float32), so memory bandwidth is the roof;
          batch 16 does 4 GFLOP a step besides.
Source:   random weights of the published size: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import tempfile

from experiments import turns

PROMPT, NEW, BATCHES = 32, 32, (1, 16)


def main() -> None:
    """Print a line of JSON for each batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", choices=("none", "torch"), default="none", help="torch: transformers' own generate")
    parser.add_argument("--preset", default="gpt2", help="a decoder's preset")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each, in alternation; the median counts")
    options = parser.parse_args()

    import numpy as np

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        size = write(folder, options.preset, draw)
        makers = {"tercet": ours(folder)} | ({"transformers": theirs(folder)} if options.peer == "torch" else {})
        for batch in BATCHES:
            prompts = draw.integers(0, size, (batch, PROMPT))
            tokens = {who: make(prompts) for who, make in makers.items()}  # compiles
            timed = {who: functools.partial(turns.seconds, make, prompts) for who, make in makers.items()}
            seconds = turns.alternate(timed, options.rounds)
            row = {"preset": options.preset, "batch": batch, "prompt": PROMPT, "new": NEW}
            for who, times in seconds.items():
                row[f"{who}_tokens_per_s"] = round(batch * NEW / statistics.median(times), 1)
            row |= {"spread": {who: turns.spread(times) for who, times in seconds.items()}}
            if len(makers) > 1:
                row["ratio"] = round(turns.ratio(seconds["tercet"], seconds["transformers"]), 2)
                row["same_tokens"] = float(np.mean(tokens["tercet"] == tokens["transformers"]))
            print(json.dumps(row), flush=True)


def write(folder: pathlib.Path, preset_name: str, draw) -> int:
    """Write a random model as a Hugging Face folder without a tokenizer and return the size of its vocabulary."""
    import numpy as np
    from safetensors.numpy import save_file

    from research.interop.config_json import to_config
    from research.models import preset
    from research.models.paths import flatten, unflatten
    from research.models.rules import to_huggingface
    from research.models.build import parameter_shapes

    arch = preset(preset_name)
    leaves = {
        path: np.ones(leaf.shape, np.float32)
        if path.endswith("scale")
        else draw.standard_normal(leaf.shape, np.float32) * 0.05
        for path, leaf in flatten(parameter_shapes(arch)).items()
    }
    tensors = {name: np.ascontiguousarray(t) for name, t in to_huggingface(arch, unflatten(leaves)).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(to_config(arch, pad=0, bos=0, eos=None)))
    return arch.vocab_size


def ours(folder: pathlib.Path):
    """Return a function of prompts int[B, T] that returns the new tokens int[B, NEW], made here."""
    import numpy as np

    import research
    from research.generate.decoding import Prompt, generate
    from research.generate.settings import Decoding

    model, params, *_ = research.load(folder)

    def make(prompts):
        rows = [Prompt(tuple(row.tolist())) for row in prompts]
        found = generate(model, params, rows, Decoding(max_new_tokens=NEW), batch_size=len(rows))
        return np.asarray([one.tokens for (one,) in found])

    return make


def theirs(folder: pathlib.Path):
    """Return the same function made by transformers in torch."""
    from transformers import AutoModelForCausalLM, BatchEncoding

    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def make(prompts):
        inputs = BatchEncoding({"input_ids": prompts, "attention_mask": prompts * 0 + 1}, tensor_type="pt")
        out = model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
        return out[:, PROMPT:].numpy()

    return make


if __name__ == "__main__":
    main()
