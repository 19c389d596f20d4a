"""A run as a job of a cluster: what Slurm, Kubernetes or SkyPilot are told, written and never sent from here."""

from research.launch.kubernetes import Kubernetes
from research.launch.skypilot import SkyPilot
from research.launch.slurm import Slurm
from research.launch.work import Work

SYSTEMS = {"slurm": Slurm, "kubernetes": Kubernetes, "skypilot": SkyPilot}
"""What can be written, by its flag."""

__all__ = ["SYSTEMS", "Kubernetes", "SkyPilot", "Slurm", "Work"]
