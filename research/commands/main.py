"""Finds the command, runs it, and turns its end into one line and an exit status.

Statuses: 0 done; 1 something failed on the way; 2 a mistake of the user's; 75 interrupted, and the same command
continues; 130 interrupted with nothing to continue.
"""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "train": "train one experiment; the same command again resumes it",
    "plan": "say what an experiment takes, before anything is allocated, and what a budget buys",
    "sweep": "train an experiment once for every combination of the given values",
    "launch": "write a run as a job of Slurm, Kubernetes or SkyPilot",
    "evaluate": "score a checkpoint of a run on any text",
    "interpolate": "mix causal models, with weights fitted on validation, into one for reports",
    "export": "write a run as a folder that Hugging Face's transformers loads, with a model card",
    "generate": "continue or answer prompts with a run, an exported folder or a hub id",
    "predict": "labels, entities or texts for every record of a file, by a fine-tuned model",
    "fill-mask": "fill in masked words with one of these",
    "report": "tables, figures, statistics and citations of a paper, from runs",
    "data": "build or inspect the data of an experiment",
    "doctor": "check the installation, the devices and the data folders",
    "demo": "pre-train a small BERT, GPT-2 and T5 on text found on this machine",
}

USAGE = "usage: python -m research COMMAND [arguments]"


def main(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return its exit status."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]

    from research.types import UserError, did_you_mean  # numpy comes with them; `--help` does not wait for that

    if name not in COMMANDS:
        return _fail(f"no command {name}{did_you_mean(name, COMMANDS) or ': commands are ' + ', '.join(COMMANDS)}")
    try:
        return importlib.import_module(f"research.commands.{name.replace('-', '_')}").main(rest)
    except UserError as error:
        return _fail(" ".join(str(error).split("\n")), error.status)


def _fail(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join([USAGE, "", *rows, "", "python -m research COMMAND --help says more of each."])
