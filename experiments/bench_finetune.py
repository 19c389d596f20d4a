"""Sentences a second of fine-tuning on SST-2: packed rows, padded rows, and transformers' Trainer, in alternation.

Command:  TERCET_DATA=... python -m experiments.bench_finetune [--peer torch] [--rounds 3] [--steps 20] [--dtype bfloat16]
Result:   on two cores of an AMD EPYC, packed 232 to 254, padded 108 to 114, the peer 101 sentences a second: 2.3 and 2.5
          times the peer in two runs; in bfloat16 on both sides 325, 146, 187: 1.7 times
          (experiments/results/bench_finetune.jsonl). On two of an Intel Xeon before, 144, 66 and 88: 1.63 times.
Source:   a BERT of 4 blocks x 256 with random weights, dropout 0.1, AdamW, float32, about 32 sentences an update; the peer is
          transformers' BertForSequenceClassification in its Trainer with DataCollatorWithPadding (each batch as long as its
          longest sentence).
Limit:    a batch padded to its longest sentence (the peer's) computes that length for all of them, one padded to rows of 64
          still more; a packed one what all need together. Of our step two thirds are matrix products at the speed the
          machine has for them, a fourth is AdamW's pass over the table of 30,522 pieces.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from experiments import sst2, turns

SENTENCES = 32
ROWS = 12  # of 64 tokens: 2.5 sentences each


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", choices=("none", "torch"), default="none", help="torch: transformers' own Trainer")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each, in alternation; the median counts")
    parser.add_argument("--steps", type=int, default=20, help="updates of a run")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products, on both sides")
    options = parser.parse_args()
    makers = {"packed": ours(ROWS, 16, options.dtype), "padded": ours(SENTENCES, 1, options.dtype)}
    if options.peer == "torch":
        makers["trainer"] = theirs(options.dtype)
    for make in makers.values():
        make(3)  # compiles
    timed = {who: functools.partial(a_sentence, make, options.steps) for who, make in makers.items()}
    found = turns.alternate(timed, options.rounds)
    row = {"dtype": options.dtype}
    row |= {f"{who}_sentences_per_s": round(1 / statistics.median(each), 1) for who, each in found.items()}
    row |= {"spread": {who: turns.spread(each) for who, each in found.items()}}
    row |= {
        f"packed_over_{who}": round(turns.ratio(found["packed"], each), 2)
        for who, each in found.items()
        if who != "packed"
    }
    print(json.dumps(row))


def a_sentence(make: Callable[[int], tuple[float, float]], steps: int) -> float:
    """Return the seconds that a sentence takes."""
    sentences, seconds = make(steps)
    return seconds / sentences


def ours(rows: int, per_row: int, dtype: str) -> Callable[[int], tuple[float, float]]:
    """Return a function of a number of updates that returns the sentences read and the seconds taken."""
    import jax

    from research.config import Compute, Optimizer
    from research.train.session import open_session

    run = sst2.config()
    run = replace(run, objective=replace(run.objective, per_row=per_row), batch_size=rows, epochs=0.0, steps=1000)
    run = replace(run, optimizer=Optimizer(learning_rate=3e-4), compute=Compute(dtype))  # AdamW, as the Trainer's
    session = open_session(run)
    state = session.trainer.initialize()
    done = 0

    def make(steps: int) -> tuple[float, float]:
        nonlocal state, done
        sentences, started = 0.0, time.perf_counter()
        for _ in range(steps):
            record = session.training.batch(done)
            sentences += float(record["weights"].sum())
            state, found = session.trainer.update(state, session.trainer.place(record))
            done += 1
        jax.block_until_ready(found)
        return sentences, time.perf_counter() - started

    return make


def theirs(dtype: str) -> Callable[[int], tuple[float, float]]:
    """Return the same function of transformers' Trainer."""
    import tempfile

    import datasets
    import jax
    import transformers

    from experiments import local

    name = str(local.tokenizer("bert-base-uncased").path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    lines = (local.FOLDER / "sst2" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    read = tokenizer([each["text"] for each in examples], truncation=True, max_length=64)
    data = datasets.Dataset.from_dict({**read, "label": [int(each["label"] == "positive") for each in examples]})
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=128,
        )
    )
    collator = transformers.DataCollatorWithPadding(tokenizer)

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.started = time.perf_counter()

        def on_train_end(self, *_, **__):
            self.seconds = time.perf_counter() - self.started

    def make(steps: int) -> tuple[float, float]:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                per_device_train_batch_size=SENTENCES,
                max_steps=steps,
                learning_rate=3e-4,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=jax.default_backend() == "cpu",
                dataloader_pin_memory=False,
                bf16=dtype == "bfloat16",
            )
            transformers.Trainer(
                model, arguments, train_dataset=data, data_collator=collator, callbacks=[clock]
            ).train()
        return steps * SENTENCES, clock.seconds

    return make


if __name__ == "__main__":
    main()
