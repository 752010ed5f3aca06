"""What a run writes while it trains: TensorBoard events, images and metrics.jsonl."""

from tfp_vaeflow.training.summaries.profile import StepProfile
from tfp_vaeflow.training.summaries.writer import RunWriter, write_text

__all__ = ["RunWriter", "StepProfile", "write_text"]
