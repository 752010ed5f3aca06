"""Training: one step, what a step costs, the loop around it."""

from tfp_vaeflow.training.dry_run import dry_run
from tfp_vaeflow.training.loop import train
from tfp_vaeflow.training.results import StepResult
from tfp_vaeflow.training.run import run
from tfp_vaeflow.training.step import Trainer

__all__ = ["StepResult", "Trainer", "dry_run", "run", "train"]
