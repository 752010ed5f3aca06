"""Training: one step, what a step costs, the loop around it."""

from tfp_vaeflow.trainer.dry_run import dry_run
from tfp_vaeflow.trainer.loop import train
from tfp_vaeflow.trainer.results import StepResult
from tfp_vaeflow.trainer.step import Trainer

__all__ = ["StepResult", "Trainer", "dry_run", "train"]
