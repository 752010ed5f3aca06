"""The paper's optimizer, AdamW with warm-up and decay; clipping; weight averages."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfp_vaeflow.config import OptimizerConfig

_FIRST_LEARNING_RATE = 1e-7


class WarmupThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of update t (from 0), paper, appendix.

    t < warmup:   1e-7 + (lr - 1e-7) t / warmup
    t >= warmup:  lr * decay^(t - warmup)
    """

    def __init__(self, config: OptimizerConfig):
        self._config = config

    def __call__(self, step):
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

    Keras adds eps to the uncorrected sqrt(v). Where gradients are tiny, as they are
    just after data-dependent initialisation, that makes smaller steps. Also unlike
    Keras', it takes gradients that are summed over the replicas already, so that what
    looks at the whole gradient can stand between the sum and the update.

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

    def _backend_update_step(self, gradients, variables, learning_rate):
        # What all variables share is computed once: it is a third of the graph else.
        step = tf.cast(self.iterations + 1, tf.float32)
        rates = {
            "decay": learning_rate * self.weight_decay,
            "step": learning_rate / (1 - tf.pow(self.beta_1, step)),
            "root": tf.sqrt(1 - tf.pow(self.beta_2, step)),
        }
        super()._backend_update_step(gradients, variables, rates)

    def _apply_weight_decay(self, variables):
        """`update_step` does it, in the same pass over the variables."""

    def update_step(self, gradient, variable, rates):
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (1 - self.beta_1) * (gradient - m))
        self.assign_add(v, (1 - self.beta_2) * (tf.square(gradient) - v))
        step = rates["step"] * m / (tf.sqrt(v) / rates["root"] + self.epsilon)
        self.assign_sub(variable, rates["decay"] * variable + step)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def clip_by_norm(
    gradients: list[tf.Tensor], norm: tf.Tensor, limit: float
) -> list[tf.Tensor]:
    """Scales a gradient down to a global L2 norm of `limit` where it is longer.

    Args:
      gradients: summed over all replicas.
      norm: their global norm.
      limit: the largest norm to let pass.

    Reference: Pascanu et al., arXiv 1211.5063.
    """
    scale = limit / tf.maximum(norm, limit)
    return [gradient * scale for gradient in gradients]


def moving_average_decay(decay: float, updates: tf.Tensor) -> tf.Tensor:
    """`min(decay, (1 + t) / (10 + t))` after t updates: the start is soon forgotten."""
    t = tf.cast(updates, tf.float32)
    return tf.minimum(decay, (1 + t) / (10 + t))


def update_average(
    strategy: tf.distribute.Strategy,
    averages: Sequence[tf.Variable],
    variables: Sequence[tf.Variable],
    decay: tf.Tensor,
) -> None:
    """Moves averages towards the variables; called between replicas.

        average += (1 - decay) (variable - average)

    What is not trainable, as the running statistics of batch norm, is copied.

    Args:
      strategy: whose variables they are.
      averages, variables: in the same order.
      decay: scalar in [0, 1).

    Reference: Polyak & Juditsky 1992; the exponential form of arXiv 1412.6980, 7.2.
    """

    def move(average, variable, decay):
        average.assign_add((1 - decay) * (variable - average))

    def copy(average, variable, decay):
        average.assign(variable)

    for average, variable in zip(averages, variables, strict=True):
        update = move if variable.trainable else copy
        strategy.extended.update(average, update, args=(variable, decay))
