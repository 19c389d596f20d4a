"""Write old Flax checkpoints and what their models compute: run by the last `transformers` with Flax, in its own venv.

    python write_old_flax.py FOLDER

Every folder in FOLDER has a config.json, and gets flax_model.msgpack, the same in parts under `parts`, and logits.npz:
tokens and segments (and source and source_segments for encoder-decoders), int32[B, T], and logits, float32[B, T, V].
"""

import pathlib
import sys

import jax
import numpy as np
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict

LENGTHS = {"tokens": (9, 5, 12), "source": (7, 12, 4)}  # of each row; the rest of 12 is padding


def redrawn(params, draw):
    """Return parameters from N(0, 0.1), the scales of norms from N(1, 0.1): nothing is left as it was initialised."""
    leaves = {}
    for path, leaf in flatten_dict(params).items():
        is_scale = path[-1] in ("scale", "weight")  # FlaxT5LayerNorm's is called weight
        leaves[path] = draw.normal(float(is_scale), 0.1, leaf.shape).astype(np.float32)
    return unflatten_dict(leaves)


def padded(lengths, vocabulary, pad, draw):
    """Return tokens and segments, int32[B, 12]."""
    segments = (np.arange(12) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = draw.integers(3, vocabulary, segments.shape)
    return np.where(segments, tokens, pad).astype(np.int32), segments


def main(folder):
    draw = np.random.default_rng(0)
    for one in sorted(path.parent for path in folder.glob("*/config.json")):
        config = transformers.AutoConfig.from_pretrained(one)
        make = getattr(transformers, f"Flax{config.architectures[0]}")
        model = make(config, seed=0)
        params = redrawn(model.params, draw)
        tokens, segments = padded(LENGTHS["tokens"], config.vocab_size, config.pad_token_id, draw)
        arrays = {"tokens": tokens, "segments": segments}
        inputs = {"input_ids": tokens, "attention_mask": segments}
        if config.is_encoder_decoder:
            source, source_segments = padded(LENGTHS["source"], config.vocab_size, config.pad_token_id, draw)
            arrays |= {"source": source, "source_segments": source_segments}
            decoder = {f"decoder_{name}": value for name, value in inputs.items()}
            inputs = {"input_ids": source, "attention_mask": source_segments, **decoder}
        with jax.default_matmul_precision("float32"):
            arrays["logits"] = np.asarray(model(**inputs, params=params, train=False).logits, np.float32)
        model.save_pretrained(one, params=params)
        model.save_pretrained(one / "parts", params=params, max_shard_size="20KB")
        np.savez(one / "logits.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
