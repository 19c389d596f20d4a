r"""The ladder: language models from counts to attention, on one tokenizer, one split and one evaluator.

Command:  TERCET_DATA=... python -m experiments.ladder [RUN ...] --out runs/ladder
          python -m research interpolate runs/ladder/ptb_kn5_cache runs/ladder/ptb_lstm_tied \
              runs/ladder/ptb_transformer --out runs/ladder/ptb_mixture
          python -m research report runs/ladder/ptb_* --rows name --out report
Source:   Penn Treebank as Mikolov et al. (2010) split it; Mikolov (2012), table 4.1; Zaremba et al. (2014), section 4.1;
          PyTorch's word language model example. Published figures are in third_party.
Cost:     n-grams less than a minute each; on two cores that were busy with other work too, ptb_nnlm, ptb_rnnlm and
          ptb_transformer half an hour each, ptb_lstm_small and ptb_lstm_tied two hours each. By their first steps on
          such cores the three others take some 6 hours each.
Result:   test perplexities ptb_kn3 148.28, ptb_kn5 141.18, ptb_kn5_cache 125.60, ptb_nnlm 142.15 over three seeds
          (published 140.2), ptb_rnnlm 119.4 (published 124.7), ptb_lstm_small 113.9 (published 114.5), ptb_lstm_tied
          86.6 (published 87.17), ptb_transformer 103.7, wikitext2_kn5 224.8; the mixture of KN5 with its cache, the
          tied LSTM and the transformer 72.2. Not run: ptb_lstm_medium, wikitext2_lstm_tied, wikitext2_transformer.
          experiments/results/ladder holds what `report` reads of them; paths of the data are written there as data/.

Trains each run of RUNS, or those that are named, and scores it on the test split: finished ones are not run again, an
interrupted one goes on. Everyone reads words, a line of text a document that ends in an end-of-line token, which is
scored too; recurrent and feed-forward models read the corpus as contiguous streams. Learning rates of SGD are for means
over tokens: those that are published for sums over the steps of a row stand here times the steps, and norms of
gradients over them.

Differs:  Mikolov's recurrent network takes a step of SGD a word, and halves its learning rate from where validation
          stops improving; ptb_rnnlm takes Zaremba's steps of 20 rows of 20 words and halves it every epoch after the
          sixth. It has dropout, which the published one has not, and is the better for it. AdamW for 10 epochs,
          with as much dropout, gave 136.6.
          PyTorch's example divides its learning rate by 4 after each epoch without a better validation loss. These are
          divided every fourth epoch from the 20th on: as often, as published logs show, but at steps known beforehand.
          Its README told of a test perplexity of 87.17 for `--tied` and its 40 epochs, first on PTB (pull request 104),
          later on WikiText-2, which the example had come to use: nobody repeated that there, and the figure was removed
          as PTB's (issue 281). On WikiText-2 the same command gave its users 100.3 and 99.9.
          The first word of a text, which nothing stands before, is scored for no model: 82,429 of the 82,430 events
          that others count in PTB's test split.
          Blank lines of WikiText-2, 0.6 % of its published tokens, are no documents here. Their ends are easy to tell:
          with them, wikitext2_kn5 has 220.1 instead of 224.8.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from experiments.local import source
from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.models.ladder import FeedForward, Recurrent
from research.models.ngram import Ngram
from research.objectives.causal import Causal
from research.types import UserError


class Corpus(NamedTuple):
    """A data set in words."""

    folder: str
    size: int  # ids, of which all words have one
    targets: int  # of the training split: what an epoch reads


PTB, WIKITEXT2 = Corpus("ptb", 10_100, 929_588), Corpus("wikitext2", 33_400, 2_075_676)


def words(corpus: Corpus, **fields) -> Data:
    """Return `corpus` as data, read as streams unless `fields` say otherwise."""
    tokenizer = Tokenizer(kind="word", size=corpus.size, sentinels=0, template="eos", min_frequency=1)
    text = source(corpus.folder, boundary="line")
    return replace(Data(sources=(text,), tokenizer=tokenizer, unknown="<unk>", order="stream"), **fields)


def counted(corpus: Corpus, arch: Ngram) -> Run:
    """Return a run that counts n-grams."""
    return Run("", arch, Causal(), data=words(corpus, order="shuffled", length=35))


def sgd(
    corpus: Corpus,
    arch: Recurrent,
    *,
    rate: float,
    clip: float,
    length: int,
    epochs: int,
    flat: int,
    stairs: int,
    factor: float,
) -> Run:
    """Return a run of 20 streams whose learning rate, the same for `flat` epochs, falls `stairs` times in the rest."""
    return Run(
        name="",
        arch=arch,
        objective=Causal(),
        data=words(corpus, length=length),
        optimizer=Optimizer("sgd", learning_rate=rate, clip=clip, weight_decay=0.0),
        schedule=Schedule("staircase", warmup=0, decay=1 - flat / epochs, stairs=stairs, factor=factor),
        epochs=epochs,
        batch_size=20,
        log_every=100,
        **every(corpus.targets // (20 * length)),
    )


def zaremba(arch: Recurrent, length: int, epochs: int, flat: int, factor: float) -> Run:
    """Return a run on PTB whose rate of 1 falls every epoch after the `flat` ones, gradients being clipped at 5."""
    falling = {"epochs": epochs, "flat": flat, "stairs": epochs - flat, "factor": factor}
    return sgd(PTB, arch, rate=1.0 * length, clip=5.0 / length, length=length, **falling)


def example(corpus: Corpus) -> Run:
    """Return PyTorch's example with `--tied`; see Differs."""
    arch = Recurrent("lstm", width=200, layers=2, init_range=0.1, tied=True)
    arch = replace(arch, dropout=0.2, input_dropout=0.2, output_dropout=0.2)
    return sgd(corpus, arch, rate=20.0, clip=0.25, length=35, epochs=40, flat=20, stairs=5, factor=0.25)


def adam(arch: FeedForward, rate: float, epochs: float) -> Run:
    """Return a run on PTB of AdamW, where the published one takes a step of SGD a word."""
    return Run(
        name="",
        arch=arch,
        objective=Causal(),
        data=words(PTB, length=32),
        optimizer=Optimizer(learning_rate=rate, weight_decay=0.01),
        schedule=Schedule("linear", warmup=200),
        epochs=epochs,
        batch_size=32,
        log_every=50,
        **every(PTB.targets // (32 * 32)),
    )


def attention(corpus: Corpus, width: int, layers: int, mlp_width: int, dropout: float, epochs: float) -> Run:
    """Return a run of a GPT-2 of that shape."""
    arch = replace(preset("gpt2-nano"), width=width, layers=layers, heads=4, mlp_width=mlp_width, max_length=128)
    return Run(
        name="",
        arch=replace(arch, vocab_size=0, dropout=dropout, attention_dropout=dropout),
        objective=Causal(),
        data=words(corpus, order="shuffled", length=128),
        optimizer=Optimizer("muon", learning_rate=3e-3, weight_decay=0.1),
        schedule=Schedule("linear", warmup=100),
        epochs=epochs,
        batch_size=16,
        **every(corpus.targets // (16 * 128)),
    )


def every(steps: int) -> dict[str, int]:
    """Return the fields of a run that is evaluated and saved every so many steps."""
    return {"evaluate_every": steps, "save_every": steps, "keep": 1}


ELMAN = Recurrent("elman", width=200, layers=1, init_range=0.1, input_dropout=0.1, output_dropout=0.3)
SMALL = Recurrent("lstm", width=200, layers=2, init_range=0.1)
MEDIUM = Recurrent("lstm", width=650, layers=2, init_range=0.05, dropout=0.5, input_dropout=0.5, output_dropout=0.5)

RUNS: dict[str, Callable[[], Run]] = {
    "ptb_kn3": lambda: counted(PTB, Ngram(3)),
    "ptb_kn5": lambda: counted(PTB, Ngram(5)),
    "ptb_kn5_cache": lambda: counted(PTB, Ngram(5, cache=0.12)),  # the weight that is best on validation
    "ptb_nnlm": lambda: adam(FeedForward(context=4, width=100, hidden_width=200, direct=False, dropout=0.2), 1e-3, 10),
    "ptb_rnnlm": lambda: zaremba(ELMAN, length=20, epochs=12, flat=6, factor=1 / 2),
    "ptb_lstm_small": lambda: zaremba(SMALL, length=20, epochs=13, flat=4, factor=1 / 2),
    "ptb_lstm_medium": lambda: zaremba(MEDIUM, length=35, epochs=39, flat=6, factor=1 / 1.2),
    "ptb_lstm_tied": lambda: example(PTB),
    "ptb_transformer": lambda: attention(PTB, 256, 3, 832, dropout=0.3, epochs=15),
    "wikitext2_kn5": lambda: counted(WIKITEXT2, Ngram(5)),
    "wikitext2_lstm_tied": lambda: example(WIKITEXT2),
    "wikitext2_transformer": lambda: attention(WIKITEXT2, 200, 2, 512, dropout=0.2, epochs=40),
}


def run_of(name: str, seed: int) -> Run:
    """Return a run of RUNS."""
    return replace(RUNS[name](), name=name, seed=seed)


def main() -> None:
    """Run and score what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; none: all")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/ladder"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a run each; n-gram models have none: one")
    options = parser.parse_args()
    if unknown := set(options.runs) - RUNS.keys():
        raise SystemExit(f"error: no run called {sorted(unknown)[0]}: there are {', '.join(RUNS)}")
    for name in options.runs or RUNS:
        for seed in [0] if isinstance(run_of(name, 0).arch, Ngram) else options.seeds:
            try:
                scored(run_of(name, seed), options.out / (f"{name}_{seed}" if seed else name))
            except UserError as error:
                raise SystemExit(f"error: {error}") from None


def scored(run: Run, folder: pathlib.Path) -> None:
    """Train `run` in `folder` and score its best checkpoint on the test split, where that is not done."""
    from research.commands import evaluate
    from research.train.loop import train

    if train(run, folder) == "interrupted":
        raise SystemExit(75)
    if not (folder / "scores" / "test.json").exists():
        evaluate.main([str(folder), "--split", "test"])


if __name__ == "__main__":
    main()
