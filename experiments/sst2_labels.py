"""What pre-training buys on SST-2, by how it is adapted and how many labels there are: 4 ways x 3 shares x 3 seeds.

Command:  TERCET_DATA=... python -m experiments.sst2_labels --init runs/mlm_encoder
Cost:     40 minutes on two cores that were busy with other work too.
Result:   no way of adapting mlm_encoder.py's encoder is ahead of training from scratch; accuracy on the test split, mean and 95 %
          interval over seeds (results/sst2_labels.jsonl and .png):
                                   1 % of the labels     10 %                  100 %
          from scratch             0.575 [0.550, 0.601]  0.672 [0.647, 0.698]  0.814 [0.811, 0.817]
          pre-trained, frozen      0.543 [0.463, 0.623]  0.603 [0.571, 0.634]  0.634 [0.630, 0.637]
          pre-trained, LoRA        0.566 [0.487, 0.645]  0.625 [0.620, 0.629]  0.684 [0.671, 0.696]
          pre-trained, full        0.571 [0.487, 0.656]  0.660 [0.628, 0.693]  0.811 [0.803, 0.818]
Source:   the question of Howard and Ruder (2018), section 5.1, and Hu et al. (2022).

Every run is a folder under --out: a finished one is not run again, an interrupted one goes on. A seed names the weights
that are fresh, the order of the rows, the dropout, and which labels there are. Prints the table of test accuracies with
intervals over seeds, and writes it as results.jsonl and labels.png.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from dataclasses import replace

from experiments import sst2
from experiments.pretraining import PRETRAINED, SCRATCH, settled
from research.config import Adapter, Init, Optimizer, Run, Schedule
from research.types import UserError

HEAD = r"^(?!classifier/|pooler/)"  # everything but the head
FRESH, FULL = (settled("SST-2", way, "").optimizer for way in (SCRATCH, PRETRAINED))
ADAMW = Optimizer(learning_rate=3e-3)  # muon is for whole matrices
WAYS: dict[str, tuple[bool, Adapter, Optimizer]] = {  # whether pre-trained, what is trained, and how
    "from scratch": (False, Adapter(), FRESH),
    "pre-trained, frozen": (True, Adapter("freeze", frozen=HEAD), ADAMW),
    "pre-trained, LoRA": (True, Adapter("lora", targets=r"block_\d+/.*/kernel$"), ADAMW),
    "pre-trained, full": (True, Adapter(), FULL),
}
STEPS = {0.01: 60, 0.1: 160, 1.0: 400}  # 26, 7 and 1.8 epochs
SEEDS = (0, 1, 2)


def cell(way: str, share: float, seed: int, init: str) -> Run:
    """Return one run of the table."""
    run = sst2.config()
    pretrained, adapter, optimizer = WAYS[way]
    source = replace(run.data.sources[0], share=share, holdout_seed=seed)
    return replace(
        run,
        name=f"sst2_{way.split()[-1]}_{share:g}_{seed}",
        init=Init(init if pretrained else ""),
        adapter=adapter,
        data=replace(run.data, sources=(source,)),
        optimizer=optimizer,
        schedule=Schedule("linear", warmup=STEPS[share] // 10),
        epochs=0.0,
        steps=STEPS[share],
        seed=seed,
        evaluate_every=0,
        save_every=0,
        best_by="accuracy",
    )


def main() -> None:
    """Run what is missing of the table, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--init", default="runs/mlm_encoder", help="the pre-trained encoder: a run or a folder")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/sst2_labels"))
    options = parser.parse_args()

    from research.train.loop import train

    results = []
    for share in STEPS:
        for seed in SEEDS:
            for way in WAYS:
                run = cell(way, share, seed, options.init)
                folder = options.out / run.name
                try:
                    if train(run, folder) == "interrupted":
                        raise SystemExit(75)
                except UserError as error:
                    raise SystemExit(f"error: {error}") from None
                results.append(measured(folder, way, share, seed))
    (options.out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    report(results, options.out)


def measured(folder: pathlib.Path, way: str, share: float, seed: int) -> dict:
    """Return the row of a finished run: its accuracy on the test split, and what was trained."""
    from research.report import logs
    from research.train.restore import evaluate_run

    kept = folder / "test.json"
    if not kept.exists():
        scores = evaluate_run(folder, "latest", "test")
        kept.write_text(json.dumps({name: scores[name] for name in ("accuracy", "accuracy_interval", "loss", "ece")}))
    record, seconds = logs.read_run(folder), logs.read(folder)[-1]["elapsed"]
    counts = {"parameters": record["parameters"], "trainable": record["trainable"], "seconds": seconds}
    return {"way": way, "share": share, "seed": seed, **counts, **json.loads(kept.read_text())}


def report(results: list[dict], folder: pathlib.Path) -> None:
    """Print the mean accuracy of each cell with its 95 % interval over seeds, and draw the learning curves.

    Beside them is the median time of the runs with all labels.
    """
    from research.commands.table import show
    from research.report.figures import intervals_plot
    from research.report.intervals import over_seeds

    cells = {
        (way, share): over_seeds([row["accuracy"] for row in results if (row["way"], row["share"]) == (way, share)])
        for way in WAYS
        for share in STEPS
    }
    trained = {row["way"]: row["trainable"] for row in results}
    seconds = {
        way: statistics.median(row["seconds"] for row in results if (row["way"], row["share"]) == (way, 1.0)) for way in WAYS
    }
    shown = {key: "{:.3f} [{:.3f}, {:.3f}]".format(*each) for key, each in cells.items()}
    rows = [
        (way, f"{trained[way]:,}", f"{seconds[way]:.0f}", *(shown[way, share] for share in STEPS)) for way in WAYS
    ]
    show("SST-2 test accuracy", ("", "trained", "seconds", *(f"{share:.0%} of the labels" for share in STEPS)), rows)
    curves = {way: [(share, *cells[way, share]) for share in STEPS] for way in WAYS}
    intervals_plot(curves, folder / "labels.png", xlabel="share of the labels", ylabel="test accuracy")


if __name__ == "__main__":
    main()
