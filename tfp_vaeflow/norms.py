"""Batch, group and instance norm, and which statistics batch norm goes by."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow.noise import Initializer

# Added to the variance by batch, group and instance norm.
NORM_EPSILON = 1e-5

# TFP's interface of bijectors has no place for these.
_batch_statistics = contextvars.ContextVar("batch_statistics", default=False)
_statistics_stay = contextvars.ContextVar("statistics_stay", default=False)


@contextlib.contextmanager
def batch_statistics(used: bool) -> Iterator[None]:
    """Says whether batch norm in coupling networks uses (and updates from) the batch.

    Without it, batch norm uses its running statistics.
    """
    token = _batch_statistics.set(used)
    try:
        yield
    finally:
        _batch_statistics.reset(token)


@contextlib.contextmanager
def statistics_stay_if(again: bool) -> Iterator[None]:
    """Says whether the same batch comes by again: running statistics then stay.

    Else they do as they did outside of this context.
    """
    token = _statistics_stay.set(again or _statistics_stay.get())
    try:
        yield
    finally:
        _statistics_stay.reset(token)


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm over all replicas that keeps the unbiased running variance.

    It normalises with the biased batch variance, like every batch norm; Keras keeps a
    running mean of that one, while the reference keeps `n / (n - 1)` times it, n being
    the number of values a channel has over all replicas.
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
            y, *moments = _normalized_by_batch(x, offset, scale)
            if not _statistics_stay.get():
                self._move([mean, variance], *moments)
        else:
            y = _normalized(x, mean, variance, offset, scale)
        return tf.cast(y, self.compute_dtype)

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the norm by running statistics, `x * scale + shift`: float64 `[C]`."""
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


def _normalized(x, mean, variance, offset, scale):
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, NORM_EPSILON)


@tf.custom_gradient
def _normalized_by_batch(x, offset, scale):
    """x by its moments over all replicas; these, and how many values they are of.

        y = scale (x - mean) / std + offset
        dx = scale / std (dy - mean(dy) - (x - mean) / std^2 mean(dy (x - mean)))

    Written out, with one new tensor of the size of x at a time, where TensorFlow makes
    half a dozen. The moments have no gradient.
    """
    axes = list(range(x.shape.rank - 1))
    here = tf.cast(math.prod(keras.ops.shape(x)[:-1]), x.dtype)
    sum_x, sum_squares, count = _over_replicas(
        [tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes), here]
    )
    mean = sum_x / count
    variance = tf.maximum(sum_squares / count - tf.square(mean), 0)

    def gradient(dy, *_):
        inverse_std = tf.math.rsqrt(variance + NORM_EPSILON)
        doffset = tf.reduce_sum(dy, axes)
        dscale = (tf.reduce_sum(dy * x, axes) - mean * doffset) * inverse_std
        all_doffset, all_dscale = _over_replicas([doffset, dscale])
        slope = inverse_std * all_dscale / count
        common = slope * x + (all_doffset / count - slope * mean)
        return scale * inverse_std * (dy - common), doffset, dscale

    y = _normalized(x, mean, variance, offset, scale)
    return (y, mean, variance, count), gradient


def _over_replicas(sums: list[tf.Tensor]) -> list[tf.Tensor]:
    """The sums of all replicas' values."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return sums
    return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)


class Norm(tf.Module):
    """An affine norm inside a coupling network, on images `[B, H, W, C]`.

    Args:
      kind: `batch`, `group` or `instance` (a group a channel).
      channels: C.
      groups: (`group`) how many.
      init: gives the dtype.

    Attributes:
      is_batch: whether it is batch norm.
    """

    def __init__(self, kind: str, channels: int, groups: int, init: Initializer):
        super().__init__()
        dtype = init.dtype.name
        self.is_batch = kind == "batch"
        if self.is_batch:
            self.layer = BatchNormalization(dtype=dtype)
        else:
            groups = channels if kind == "instance" else groups
            self.layer = keras.layers.GroupNormalization(
                groups, epsilon=NORM_EPSILON, dtype=dtype
            )
        self.layer.build([None, None, None, channels])
        # tf.Module does not look into Keras layers for variables.
        self._layer_variables = [variable.value for variable in self.layer.variables]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if self.is_batch:
            y = self.layer(x, training=_batch_statistics.get())
        else:
            y = self.layer(x)
        return tf.cast(y, x.dtype)

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Of batch norm; see `BatchNormalization.scale_and_shift`."""
        return self.layer.scale_and_shift()
