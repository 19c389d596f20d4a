"""Training itself equals that of torch: the same weights and batches give the same losses, step after step."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.tokenizer import load, vocabulary
from research.interop.config_json import to_config
from research.models import preset
from research.models.arch import with_head
from research.models.paths import flatten
from research.models.rules import to_huggingface
from research.objectives.classification import Classification
from research.train.sharding import create_mesh
from research.train.step import trainer

STEPS, BATCH, LENGTH = 100, 16, 40


@pytest.mark.slow  # a minute: torch updates 30,522 embeddings
def test_a_hundred_steps_of_classification_have_the_losses_of_transformers(data_folder, tokenizer_folder):
    pytest.importorskip("torch")
    ours, theirs = losses(data_folder, tokenizer_folder)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert np.mean(ours[-20:]) < 0.6 * np.mean(ours[:20])


def losses(data_folder, tokenizer_folder):
    """Return the losses of every step of a classifier trained on SST-2 here, and with torch's AdamW."""
    import torch
    import transformers

    tokenizer = load(str(tokenizer_folder / "bert-base-uncased"))
    words = vocabulary(tokenizer)
    arch = dataclasses.replace(preset("bert-tiny"), vocab_size=words.size, max_length=LENGTH)
    arch = dataclasses.replace(arch, dropout=0.0, attention_dropout=0.0)
    run = Run(
        name="parity",
        arch=with_head(arch, "sequence", 2),
        objective=Classification(labels=("negative", "positive"), per_row=1),
        data=Data(length=LENGTH),
        optimizer=Optimizer(learning_rate=5e-4, weight_decay=0.01),
        schedule=Schedule("linear", warmup=10),
        steps=STEPS,
        batch_size=BATCH,
    )
    compiled = trainer(run, words, create_mesh(run.mesh, jax.devices()[:1]))
    state = compiled.initialize()
    start = jax.tree.map(np.array, state.trainable)

    fields = to_config(run.arch, pad=0, bos=None, eos=None)
    config = transformers.BertConfig(**{name: value for name, value in fields.items() if name != "architectures"})
    model = transformers.BertForSequenceClassification._from_config(config, attn_implementation="eager").train()
    tensors = {name: torch.tensor(np.array(tensor)) for name, tensor in to_huggingface(run.arch, start).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    decayed = lambda name: not (name.endswith("bias") or "LayerNorm" in name)  # noqa: E731
    groups = [
        {"params": [p for n, p in model.named_parameters() if decayed(n) == wanted], "weight_decay": 0.01 * wanted}
        for wanted in (True, False)
    ]
    descent = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.999), eps=1e-8)
    falling = torch.optim.lr_scheduler.LambdaLR(
        descent, lambda n: (n + 1) / 10 if n < 10 else 1 - (n - 10) / (STEPS - 10)
    )

    lines = (data_folder / "sst2" / "train.jsonl").read_text().splitlines()[: 20 * BATCH]  # five epochs of them
    examples = [json.loads(line) for line in lines]
    ours, theirs = [], []
    for step in range(STEPS):
        some = [examples[(step * BATCH + i) % len(examples)] for i in range(BATCH)]
        texts = [e["text"] for e in some]
        read = tokenizer(texts, truncation=True, max_length=LENGTH, padding="max_length", return_tensors="np")
        gold = np.array([e["label"] == "positive" for e in some], np.int32)
        record = {
            "tokens": read["input_ids"].astype(np.int32),
            "segments": read["attention_mask"].astype(np.int32),
            "select": np.zeros((BATCH, 1), np.int32),
            "labels": gold[:, None],
            "weights": np.ones((BATCH, 1), np.float32),
        }
        state, found = compiled.update(state, compiled.place(record))
        ours.append(float(found["loss"]))
        loss = model(
            input_ids=torch.tensor(read["input_ids"]),
            attention_mask=torch.tensor(read["attention_mask"]),
            labels=torch.tensor(gold, dtype=torch.long),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
        falling.step()
        descent.zero_grad()
        theirs.append(loss.item())
    return ours, theirs
