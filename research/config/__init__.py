"""A run as one frozen value, JSON both ways, checked before data is read.

Importing this room imports neither jax nor transformers: `train EXPERIMENT --help` must answer at once.
"""

from research.config.as_json import differences, flatten, from_json, to_json
from research.config.checks import check, check_data, unfused
from research.config.experiment import load_experiment
from research.config.run import (
    Adapter,
    Compute,
    Init,
    Loss,
    Mesh,
    Optimizer,
    Run,
    Schedule,
    averages,
    is_task,
    problem_of,
)

__all__ = [
    "Adapter",
    "Compute",
    "Init",
    "Loss",
    "Mesh",
    "Optimizer",
    "Run",
    "Schedule",
    "averages",
    "check",
    "check_data",
    "differences",
    "flatten",
    "from_json",
    "is_task",
    "load_experiment",
    "problem_of",
    "to_json",
    "unfused",
]
