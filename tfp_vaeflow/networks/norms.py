"""Batch, group and instance norm."""

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.networks.initializer import Initializer

# Added to the variance by batch, group and instance norm.
NORM_EPSILON = 1e-5


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm over all replicas that keeps the unbiased running variance.

    It normalises with the biased batch variance, like every batch norm. Keras keeps a
    running mean of that variance. The reference averages `n / (n - 1)` times it,
    where n is the number of values per channel over all replicas.
    """

    def __init__(self, name: str | None = None, dtype: str = "float32"):
        super().__init__(
            momentum=0.9,
            epsilon=NORM_EPSILON,
            synchronized=True,
            name=name,
            dtype=dtype,
        )

    def call(self, inputs, training=None, mask=None):
        """Normalises by the moments of the batch in training, else by moving ones."""
        # Keras' own takes 70 operations, and a tensor of ones as large as the input.
        x = tf.cast(inputs, self.variable_dtype)
        mean, variance, offset, scale = (
            tf.convert_to_tensor(variable)
            for variable in (
                self.moving_mean,
                self.moving_variance,
                self.beta,
                self.gamma,
            )
        )
        if training:
            y, *moments = compute.normalized_by_batch(x, offset, scale, NORM_EPSILON)
            if not compute.mode().statistics_stay:
                self._move([mean, variance], *moments)
        else:
            y = tf.nn.batch_normalization(
                x, mean, variance, offset, scale, NORM_EPSILON
            )
        return tf.cast(y, self.compute_dtype)

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """The norm by running statistics is `x * scale + shift`: float64 `[C]`."""
        gamma, beta, mean, variance = (
            np.float64(value)
            for value in (
                self.gamma,
                self.beta,
                self.moving_mean,
                self.moving_variance,
            )
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def _move(self, running, mean, variance, count):
        new = mean, variance * count / tf.maximum(count - 1, 1)
        variables = self.moving_mean, self.moving_variance
        for variable, old, value in zip(variables, running, new):
            variable.assign(self.momentum * old + (1 - self.momentum) * value)


class Norm(tf.Module):
    """An affine norm inside a coupling network, on images `[B, H, W, C]`.

    Args:
      norm: `batch`, `group` or `instance` (one group per channel).
      channels: C.
      groups: (`group`) how many.
      init: gives the dtype.

    Attributes:
      is_batch: whether it is batch norm.
    """

    def __init__(self, norm: str, channels: int, groups: int, init: Initializer):
        super().__init__()
        dtype = init.dtype.name
        self.is_batch = norm == "batch"
        if self.is_batch:
            self.layer = BatchNormalization(dtype=dtype)
        else:
            groups = channels if norm == "instance" else groups
            self.layer = keras.layers.GroupNormalization(
                groups, epsilon=NORM_EPSILON, dtype=dtype
            )
        self.layer.build([None, None, None, channels])
        # tf.Module does not look into Keras layers for variables.
        self._keras_variables = [variable.value for variable in self.layer.variables]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Normalises x; batch norm by the batch if `compute.mode().training`."""
        if self.is_batch:
            y = self.layer(x, training=compute.mode().training)
        else:
            y = self.layer(x)
        return tf.cast(y, x.dtype)

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of batch norm; see `BatchNormalization.scale_and_shift`."""
        return self.layer.scale_and_shift()
