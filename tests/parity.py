"""Print how far our models are from those of transformers: `python -m tests.parity`, a row a family with its LM head,
the share of texts that decoding makes token for token as they do, and, where TERCET_DATA names a folder of data, the
losses of 100 steps of fine-tuning on SST-2.

Every parameter is drawn anew (N(0, 0.1), scales N(1, 0.1)); float32. The last columns: in -> out -> in bitwise, and what
AutoModel makes of the folder that we write: its largest difference in logits from ours, and keys missing or unexpected.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from dataclasses import replace

import numpy as np
from safetensors.numpy import save_file

from research.generate.decoding import generate
from research.generate.settings import Decoding
from research.interop.config_json import to_config
from research.models.paths import flatten
from research.models.rules import from_huggingface, to_huggingface
from tests.generate.test_decoding import SETTINGS, STOP, both, theirs
from tests.models.oracles import ARCHS, PAD
from tests.models.test_parity import LENGTHS, ROWS, batch, oracle, ours
from tests.train.test_parity import losses

AUTO = {"encoder": "AutoModelForMaskedLM", "decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}


def row(name: str) -> list[str]:
    """Return the figures of one family, as text."""
    params, expected, expected_loss, expected_gradients = oracle(name)
    found = []
    for rows in ([[d] for d in range(len(LENGTHS))], ROWS):
        (loss, out), gradients = ours(name)(params, **batch(rows, name))
        far = 0.0
        for r, documents in enumerate(rows):
            start = 0
            for d in documents:
                far = max(far, float(np.abs(out[r, start : start + len(expected[d])] - expected[d]).max()))
                start += len(expected[d])
        there = flatten(expected_gradients)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in there.values()))
        share = max(
            float((np.abs(flatten(gradients)[path] - g) / (1e-4 * np.abs(g).max() + 1e-7 * norm)).max())
            for path, g in there.items()
        )
        found += [f"{far:.1e}", f"{abs(float(loss) / expected_loss - 1):.0e}", f"{share:.2f}"]
    again = from_huggingface(ARCHS[name], to_huggingface(ARCHS[name], params))
    same = all(np.array_equal(leaf, flatten(again)[path]) for path, leaf in flatten(params).items())
    return [name, *found, "bitwise" if same else "NO", *exported(name, params)]


def exported(name: str, params) -> list[str]:
    """Return how far AutoModel's logits are on the folder that we write, and the keys it misses or does not expect."""
    import torch
    import transformers

    arch = ARCHS[name]
    with tempfile.TemporaryDirectory() as folder:
        config = to_config(arch, pad=PAD, bos=0, eos=2, decoder_start=2)
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        tensors = {key: np.ascontiguousarray(value) for key, value in to_huggingface(arch, params).items()}
        save_file(tensors, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
        auto = getattr(transformers, AUTO[arch.structure])
        model, info = auto.from_pretrained(folder, output_loading_info=True)
    inputs = batch([[d] for d in range(len(LENGTHS))], name)
    ids = {key: torch.tensor(value).long() for key, value in inputs.items()}
    names = {"input_ids": "tokens", "attention_mask": "segments"}
    if "source" in ids:
        names = {"input_ids": "source", "attention_mask": "source_segments"}
        names |= {"decoder_input_ids": "tokens", "decoder_attention_mask": "segments"}
    with torch.no_grad():
        theirs = model.eval()(**{key: ids[value] for key, value in names.items()}).logits.numpy()
    (_, out), _ = ours(name)(params, **inputs)
    read = inputs["segments"] != 0
    keys = sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return [f"{np.abs(np.asarray(out)[read] - theirs[read]).max():.1e}", str(keys)]


def equal_texts(name: str, decoding: Decoding) -> str:
    """Return how many texts are equal, of how many, and the largest difference of beam scores."""
    oracle_, model, params, prompts = both(name)
    found = [one for row in generate(model, params, prompts, decoding) for one in row]
    reference = theirs(oracle_, prompts, decoding)
    equal = sum(one.tokens == tokens for one, (tokens, _) in zip(found, reference, strict=True))
    far = max(abs(one.score - score) for one, (_, score) in zip(found, reference, strict=True) if score) if (
        decoding.method == "beam"
    ) else None
    return f"{equal} of {len(found)}" + (f", scores within {far:.0e}" if far is not None else "")


def main() -> None:
    """Print the table."""
    header = ["family", "logits", "loss", "gradients*", "packed: logits", "loss", "gradients*", "round trip", "exported", "keys"]
    print(" | ".join(header))
    for name in ARCHS:
        print(" | ".join(row(name)), flush=True)
    print("\ndecoding: texts equal token for token")
    for name in ("gpt2", "t5", "t5-v1.1", "bart"):
        for title, settings in SETTINGS.items():
            print(" | ".join([name, title, equal_texts(name, replace(settings, max_new_tokens=10, stop=STOP))]), flush=True)
    print("* largest difference as a share of what is allowed: 1e-4 of the tensor's maximum + 1e-7 of the global norm")
    if data := os.environ.get("TERCET_DATA"):
        here, there = (np.array(each) for each in losses(pathlib.Path(data), pathlib.Path(data).parent / "tokenizers"))
        print(
            f"\nfine-tuning on SST-2: {len(here)} losses, the first twenty {here[:20].mean():.4f}, the last "
            f"{here[-20:].mean():.4f}, within {np.abs(here - there).max():.0e}"
        )


if __name__ == "__main__":
    main()
