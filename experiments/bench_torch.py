"""The other side of `experiments.bench`: the same work by transformers' own models in PyTorch, in a process of its own.

Command:  what `python -m experiments.bench --peer torch` runs; `torch-compile` is the same through torch.compile.
Protocol: one argument, the work as JSON; a line of JSON on standard output once it is ready; then for every line on
          standard input, a number of updates, a line with the seconds of each. It ends with its input.
Source:   the models' own classes and losses with random weights, AdamW fused as transformers' Trainer has it, the same
          batch in every step: what it reads costs it nothing. bfloat16 is autocast's.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers

from experiments.work import Work

WARM_UP = 3


def model_of(work: Work) -> transformers.PreTrainedModel:
    """Return the model of `work`, whose activation and number of parameters are those of the family as published."""
    if work.objective == "mlm":
        config = transformers.BertConfig(
            vocab_size=work.vocabulary,
            hidden_size=work.width,
            num_hidden_layers=work.layers,
            num_attention_heads=work.heads,
            intermediate_size=4 * work.width,
            max_position_embeddings=work.positions,
            hidden_dropout_prob=work.dropout,
            attention_probs_dropout_prob=work.dropout,
        )
        return transformers.BertForMaskedLM(config)
    if work.objective == "clm":
        config = transformers.GPT2Config(
            vocab_size=work.vocabulary,
            n_embd=work.width,
            n_layer=work.layers,
            n_head=work.heads,
            n_positions=work.positions,
            resid_pdrop=work.dropout,
            embd_pdrop=work.dropout,
            attn_pdrop=work.dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.T5Config(
        vocab_size=work.vocabulary,
        d_model=work.width,
        d_kv=work.width // work.heads,
        d_ff=4 * work.width,
        num_layers=work.layers,
        num_heads=work.heads,
        dropout_rate=work.dropout,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def batch_of(work: Work) -> dict[str, torch.Tensor]:
    """Return random tokens and their labels, -100 where nothing is scored."""
    draw = np.random.default_rng(0)
    ids = torch.from_numpy(draw.integers(5, work.vocabulary, (work.batch, work.length)))
    if work.objective == "clm":
        return {"input_ids": ids, "labels": ids}
    if work.objective == "seq2seq":
        targets = draw.integers(5, work.vocabulary, (work.batch, work.scored))
        return {"input_ids": ids, "labels": torch.from_numpy(targets)}
    order = torch.from_numpy(draw.random((work.batch, work.length))).argsort(dim=1)
    return {"input_ids": ids, "labels": ids.masked_fill(order >= work.scored, -100)}


def targets_of(work: Work, batch: dict[str, torch.Tensor]) -> int:
    """Return how many positions of the batch are scored; a decoder that shifts its labels itself loses the first."""
    labels = batch["labels"][:, 1:] if work.objective == "clm" else batch["labels"]
    return int((labels != -100).sum())


def update_of(work: Work, model: torch.nn.Module, device: str, compiled: bool) -> Callable[[], None]:
    """Return one update of `model`, which ends when the device has done it."""
    model = model.to(device).train()
    if work.remat:
        model.gradient_checkpointing_enable()
    batch = {name: value.to(device) for name, value in batch_of(work).items()}
    rule = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = torch.compile(model) if compiled else model

    def update() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=work.dtype == "bfloat16"):
            loss = run(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rule.step()
        rule.zero_grad(set_to_none=True)
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()

    return update


def serve(work: Work, device: str, compiled: bool) -> None:
    """Do updates as standard input asks for them."""
    transformers.utils.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as JAX multiplies there
    model = model_of(work)
    update = update_of(work, model, device, compiled)
    for _ in range(WARM_UP):
        update()
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "targets": targets_of(work, batch_of(work)),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - started)
        peak = {"memory": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
        print(json.dumps({"seconds": seconds, **peak}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes: the other one ends this one's input
    asked = json.loads(sys.argv[1])
    serve(Work(**asked["work"]), asked["device"], asked["stack"] == "torch-compile")
