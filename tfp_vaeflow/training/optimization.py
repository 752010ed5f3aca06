"""The paper's optimizer, AdamW with warm-up and decay; clipping; weight averages."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import OptimizerConfig

_FIRST_LEARNING_RATE = 1e-7


class WarmupThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of update t (from 0), as in the paper's appendix.

    t < warmup:   1e-7 + (lr - 1e-7) t / warmup
    t >= warmup:  lr * decay^(t - warmup)
    """

    def __init__(self, config: OptimizerConfig):
        self._config = config

    def __call__(self, step):
        """The learning rate of update `step`."""
        config = self._config
        step = tf.cast(step, tf.float32)
        warmup = tf.cast(config.warmup_steps, tf.float32)
        span = config.learning_rate - _FIRST_LEARNING_RATE
        rising = _FIRST_LEARNING_RATE + span * step / tf.maximum(warmup, 1.0)
        # By its logarithm: in float32, 0.999997^t is 2 % off after a million steps.
        log_decay = math.log(config.decay)
        falling = config.learning_rate * tf.exp(log_decay * (step - warmup))
        return tf.where(step < warmup, rising, falling)


class AdamW(keras.optimizers.AdamW):
    """AdamW with epsilon outside of the bias correction, as Adam's paper states it.

        p -= lr wd p
        p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Keras adds eps to the uncorrected sqrt(v). If gradients are tiny, as they are just
    after data-dependent initialisation, that makes the steps smaller. Also unlike
    Keras' AdamW, this one takes gradients that are already summed over the replicas, so
    that code between the sum and the update can look at the whole gradient.

    Reference: Loshchilov & Hutter, arXiv 1711.05101; Kingma & Ba, arXiv 1412.6980,
    algorithm 1.
    """

    def __init__(self, config: OptimizerConfig):
        super().__init__(
            learning_rate=WarmupThenDecay(config),
            weight_decay=config.weight_decay,
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            epsilon=config.epsilon,
        )

    def apply_if(
        self,
        made: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        variables: Sequence[tf.Variable],
        scale: float | tf.Tensor = 1.0,
    ) -> None:
        """Makes the update, or changes nothing; called on each replica.

        Args:
          made: bool scalar, whether to make it.
          gradients: the same on every replica; finite if `made`.
          variables: those that the optimizer was built for, in the same order.
          scale: factor of the gradients, such as that of `clipping_scale`.
        """
        # A few operations per variable, not two dozen, and no branches. Each replica
        # updates its own copies.
        step = tf.cast(self.iterations + 1, tf.float32)
        beta_1, beta_2 = tf.constant(self.beta_1), tf.constant(self.beta_2)
        learning_rate = tf.where(made, self.learning_rate, 0.0)
        hyperparameters = {
            # With both at 1 the slots do not change.
            "beta1": tf.where(made, beta_1, 1.0),
            "beta2": tf.where(made, beta_2, 1.0),
            "beta1_power": beta_1**step,
            "beta2_power": beta_2**step,
            "lr": learning_rate,
            # The operation adds epsilon to sqrt(v) and corrects the quotient.
            "epsilon": self.epsilon * tf.sqrt(1 - beta_2**step),
        }
        scale = tf.where(made, scale, 0.0)
        decay = learning_rate * self.weight_decay
        momentums, velocities = (
            compute.handles([slot.value for slot in slots])
            for slots in (self._momentums, self._velocities)
        )
        lists = gradients, compute.handles(variables), momentums, velocities
        compute.in_groups(_update, lists, scale, decay, hyperparameters)
        self.iterations.assign_add(tf.cast(made, self.iterations.dtype))


def _update(gradients, variables, momentums, velocities, scale, decay, hyperparameters):
    """AdamW on variables and slots, given by their handles."""
    for gradient, variable, m, v in zip(gradients, variables, momentums, velocities):
        # Not `ResourceApplyGradientDescent` with the variable as its gradient: that
        # copies the variable first, because it is being read.
        tf.raw_ops.AssignSubVariableOp(
            resource=variable, value=decay * compute.read_handle(variable)
        )
        # 0 if the scale is 0, whatever the gradient.
        scaled = tf.raw_ops.MulNoNan(x=gradient, y=scale)
        tf.raw_ops.ResourceApplyAdam(
            var=variable, m=m, v=v, grad=scaled, **hyperparameters
        )


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """The L2 norm of all values of all tensors: `tf.linalg.global_norm`, by groups."""

    def half_square(tensors):
        return tf.add_n([tf.nn.l2_loss(tensor) for tensor in tensors])

    return tf.sqrt(2 * tf.add_n(compute.in_groups(half_square, [gradients])))


def clipping_scale(norm: tf.Tensor, limit: float) -> tf.Tensor:
    """The factor that brings a gradient down to a global L2 norm of at most `limit`.

    Args:
      norm: of the gradient, summed over all replicas.
      limit: the largest norm to let pass.

    Reference: Pascanu et al., arXiv 1211.5063.
    """
    return limit / tf.maximum(norm, limit)


def moving_average_decay(decay: float, updates: tf.Tensor) -> tf.Tensor:
    """`min(decay, (1 + t) / (10 + t))` after t updates: the start is soon forgotten."""
    t = tf.cast(updates, tf.float32)
    return tf.minimum(decay, (1 + t) / (10 + t))


def update_average(
    averages: Sequence[tf.Variable],
    variables: Sequence[tf.Variable],
    rate: tf.Tensor,
) -> None:
    """Moves averages towards the variables; called on each replica.

        average += rate (variable - average)

    Variables that are not trainable, such as batch norm's statistics, are copied.

    Args:
      averages, variables: in the same order.
      rate: scalar in [0, 1]: one minus the decay; 0 to leave them.

    Reference: Polyak & Juditsky 1992; the exponential form of arXiv 1412.6980, 7.2.
    """
    moving = []
    for average, variable in zip(averages, variables, strict=True):
        if variable.trainable:
            moving.append((average, variable))
        else:
            compute.assign_on_replica(average, variable)
    compute.in_groups(_move, [compute.handles(part) for part in zip(*moving)], rate)


def _move(averages, variables, rate):
    """Moves averages towards variables, given by their handles."""
    for average, variable in zip(averages, variables):
        step = rate * (compute.read_handle(variable) - compute.read_handle(average))
        tf.raw_ops.AssignAddVariableOp(resource=average, value=step)
