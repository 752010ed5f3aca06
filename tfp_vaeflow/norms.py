"""Batch, group and instance norm, and which statistics batch norm goes by."""

import contextlib
import contextvars
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfp_vaeflow.noise import Initializer

# Added to the variance by batch, group and instance norm.
NORM_EPSILON = 1e-5

# TFP's interface of bijectors has no place for these.
_batch_statistics = contextvars.ContextVar("batch_statistics", default=False)
_statistics_move = contextvars.ContextVar("statistics_move", default=True)


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
def statistics_move(moved: bool) -> Iterator[None]:
    """Says whether batch norm that uses the batch moves its running statistics.

    It does not where the same batch comes by a second time.
    """
    token = _statistics_move.set(moved)
    try:
        yield
    finally:
        _statistics_move.reset(token)


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
            mean, variance = self._batch_moments(x, [mean, variance])
        y = tf.nn.batch_normalization(x, mean, variance, offset, scale, self.epsilon)
        return tf.cast(y, self.compute_dtype)

    def _batch_moments(self, x, running):
        """Mean and variance over all replicas; moves the running ones."""
        axes = list(range(x.shape.rank - 1))
        count = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
        sums = [tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes), count]
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        mean, count = sums[0] / sums[2], sums[2]
        variance = tf.maximum(sums[1] / count - tf.square(mean), 0)
        if _statistics_move.get():
            new = mean, variance * count / tf.maximum(count - 1, 1)
            variables = self.moving_mean, self.moving_variance
            for variable, old, value in zip(variables, running, new):
                variable.assign(self.momentum * old + (1 - self.momentum) * value)
        return mean, variance


class Norm(tf.Module):
    """An affine norm inside a coupling network, on images `[B, H, W, C]`.

    Args:
      kind: `batch`, `group` or `instance` (a group a channel).
      channels: C.
      groups: (`group`) how many.
      init: gives the dtype.
    """

    def __init__(self, kind: str, channels: int, groups: int, init: Initializer):
        super().__init__()
        dtype = init.dtype.name
        self._is_batch = kind == "batch"
        if self._is_batch:
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
        if self._is_batch:
            y = self.layer(x, training=_batch_statistics.get())
        else:
            y = self.layer(x)
        return tf.cast(y, x.dtype)
