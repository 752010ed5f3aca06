"""The results of a training step."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow.model.objective import Losses

REMEDY = (
    "a lower OptimizerConfig.learning_rate, a longer warm-up or "
    "OptimizerConfig.clip_norm may help. The last checkpoint is from before that"
)


class StepResult(NamedTuple):
    """The results of one step.

    Attributes:
      losses: the batch means of the loss terms, before the update.
      gradient_norm: global L2 norm of the gradient, before clipping.
      skipped_in_a_row: how many steps up to this one made no update; 0 if this one
        made one.
      skipped: how many steps of the run made no update.
      stop_requests: on how many replicas the run was asked to stop.
    """

    losses: Losses
    gradient_norm: tf.Tensor
    skipped_in_a_row: tf.Tensor
    skipped: tf.Tensor
    stop_requests: tf.Tensor

    def what_is_not_finite(self) -> str | None:
        """Names the first term that is not finite, with its value."""
        for name, value in self.losses._asdict().items():
            if not np.isfinite(value):
                return f"the {name} loss is {float(value)}"
        if not np.isfinite(self.gradient_norm):
            return f"the norm of the gradient is {float(self.gradient_norm)}"
        return None
