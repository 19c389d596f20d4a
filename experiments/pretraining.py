"""Does pre-training pay? SST-2, SMS spam, topics and CoNLL-2003 from scratch and from the encoders that we pre-trained.

Command:  TERCET_DATA=... python -m experiments.pretraining --uncased runs/mlm_encoder --cased runs/mlm_encoder_cased
Cost:     forty minutes on two cores that were busy with other work too, the encoders' 88 and 119 minutes apart.
Result:   of an encoder that saw 8.2 million tokens, hardly (results/pretraining.jsonl); on the test splits, with 95 % intervals:
                                        from scratch            pre-trained             difference
          SST-2             accuracy    0.798 [0.779, 0.816]    0.811 [0.793, 0.829]     0.013 [-0.005, 0.030]
          SMS spam          F1 of spam  0.973 [0.952, 0.989]    0.969 [0.949, 0.986]    -0.004 [-0.026, 0.018]
          topics of pydocs  accuracy    0.666 [0.631, 0.700]    0.684 [0.651, 0.717]     0.018 [-0.010, 0.044]
          CoNLL-2003        entity F1   0.705 [0.691, 0.719]    0.693 [0.679, 0.707]    -0.013 [-0.022, -0.002]
          GUIDE.md says why, and where it does pay.
Source:   the question of Devlin et al. (2019), section 5, at the size of BERT-mini.

Each way has the settings of SETTINGS, the best of those tried on the validation split (results/*_rates.csv); topics were not
searched, and of CoNLL-2003 from scratch no other rate than this was kept.
Eight runs of sst2.py, sms_spam.py, topic_pydocs.py (at the encoder's size) and conll2003.py, a folder each under
--out: finished ones are not run again, an interrupted one goes on. Prints the scores on the test splits, and how far the
pre-trained model is ahead with a 95 % interval: both are resampled together over the test examples (Koehn, 2004). Writes
the same as results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Callable
from dataclasses import replace

from experiments import conll2003, sms_spam, sst2, topic_pydocs
from research.config import Init, Run
from research.types import UserError

SCRATCH, PRETRAINED = "scratch", "pretrained"


def topic() -> Run:
    """Return topic_pydocs.py's run at the size and in the pieces of the encoder, which read the same kind of text."""
    run, like = topic_pydocs.config(), sst2.config()
    data = replace(run.data, tokenizer=like.data.tokenizer)
    return replace(run, arch=like.arch, data=data, optimizer=like.optimizer, steps=300, evaluate_every=100, save_every=100)


TASKS: dict[str, tuple[Callable[[], Run], str, str]] = {  # the experiment, its score, and which encoder it starts from
    "SST-2": (sst2.config, "accuracy", "uncased"),
    "SMS spam": (sms_spam.config, "F1 of spam", "uncased"),
    "topics of pydocs": (topic, "accuracy", "uncased"),
    "CoNLL-2003": (conll2003.config, "entity F1", "cased"),
}

SETTINGS = {  # muon's learning rate, and whether the embeddings begin as large as fresh ones
    ("SST-2", SCRATCH): (2e-3, False),  # 0.797 on validation; 1e-3 0.795
    ("SST-2", PRETRAINED): (1e-3, False),  # 0.797; 5e-4 0.778, 2e-3 0.790, 2e-3 rescaled 0.776
    ("SMS spam", SCRATCH): (2e-3, False),  # macro F1 0.979 on validation; 1e-3 0.971
    ("SMS spam", PRETRAINED): (1e-3, False),  # 0.971; 2e-3 0.966
    ("topics of pydocs", SCRATCH): (2e-3, False),  # these two were not searched
    ("topics of pydocs", PRETRAINED): (1e-3, False),
    ("CoNLL-2003", SCRATCH): (2e-3, False),  # F1 0.771
    ("CoNLL-2003", PRETRAINED): (2e-3, True),  # 0.748; without 1e-3 0.709, 4e-3 0.724
}


def settled(task: str, way: str, path: str) -> Run:
    """Return the run of `task` from scratch, or from the encoder at `path`, as SETTINGS has it."""
    run = TASKS[task][0]()
    rate, rescale = SETTINGS[task, way]
    init = Init(path, rescale=rescale) if way == PRETRAINED else Init()
    return replace(run, init=init, optimizer=replace(run.optimizer, learning_rate=rate))


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--uncased", default="runs/mlm_encoder", help="pre-trained encoder for sentences: a run or folder")
    parser.add_argument("--cased", default="runs/mlm_encoder_cased", help="pre-trained encoder for names")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/pretraining"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    rows = []
    for task in options.tasks:
        _, measure, encoder = TASKS[task]
        told = {}
        for way in (SCRATCH, PRETRAINED):
            run = settled(task, way, getattr(options, encoder))
            told[way] = answers(run, options.out / f"{run.name}_{way}")
        rows.append({"task": task, "score": measure, **compared(told[SCRATCH], told[PRETRAINED], measure)})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(rows)


def answers(run: Run, folder: pathlib.Path) -> list[dict]:
    """Return what a run's best checkpoint says of the test examples, training it where that is not done."""
    from research.train.loop import train

    kept = folder / "test.jsonl"
    try:
        if train(run, folder) == "interrupted":  # returns at once where it is done, and refuses another run's folder
            raise SystemExit(75)
        if not kept.exists():
            kept.write_text("".join(json.dumps(each) + "\n" for each in predictions(folder)), encoding="utf-8")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]


def predictions(folder: pathlib.Path) -> list[dict]:
    """Return the test examples of the run in `folder`, each with what its best checkpoint predicts."""
    from research.train.judged import judged
    from research.train.restore import evaluated

    return judged(evaluated(folder, "best", "test")).told


def counted(told: list[dict], measure: str) -> list[tuple[int, int, int]]:
    """Return for each example what is right, predicted and gold: of labels, spam messages or entities."""
    from research.tasks.entities import spans

    if measure == "accuracy":
        return [(int(each["predicted"] == each["label"]), 1, 1) for each in told]
    if measure == "F1 of spam":
        found = [({each["predicted"]} & {"spam"}, {each["label"]} & {"spam"}) for each in told]
    else:
        found = [(set(spans(each["predicted"])), set(spans(each["tags"]))) for each in told]
    return [(len(predicted & gold), len(predicted), len(gold)) for predicted, gold in found]


def compared(scratch: list[dict], pretrained: list[dict], measure: str) -> dict:
    """Return both scores, and their difference with its 95 % interval over the test examples."""
    import numpy as np

    from research.report.intervals import interval, resampled_sums
    from research.tasks.counts import Counts

    both = np.array([[*a, *b] for a, b in zip(counted(scratch, measure), counted(pretrained, measure), strict=True)])

    def scores(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(Counts.split(part).f1[..., 0] for part in np.split(sums, 2, axis=-1))

    a, b = scores(both.sum(axis=0))
    drawn_a, drawn_b = scores(resampled_sums(both))
    return {
        "examples": len(both),
        "scratch": float(a),
        "scratch_interval": interval(drawn_a),
        "pretrained": float(b),
        "pretrained_interval": interval(drawn_b),
        "difference": float(b - a),
        "difference_interval": interval(drawn_b - drawn_a),
    }


def report(rows: list[dict]) -> None:
    """Print a line for each task."""
    from research.commands.table import show

    columns = ("scratch", "pretrained", "difference")
    cells = [
        (
            row["task"],
            row["score"],
            *("{:.3f} [{:.3f}, {:.3f}]".format(row[name], *row[f"{name}_interval"]) for name in columns),
        )
        for row in rows
    ]
    show("On the test splits", ("", "score", "from scratch", "pre-trained", "difference"), cells)


if __name__ == "__main__":
    main()
