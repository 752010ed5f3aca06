"""Batch norm by the statistics of a batch that replicas share."""

import math

import keras
import tensorflow as tf

from tfp_vaeflow.compute.updates import summed_over_replicas


def normalized_by_batch(
    x: tf.Tensor, offset: tf.Tensor, scale: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Batch norm by the moments of x over all replicas.

        y = scale (x - mean) / std + offset
        dx = scale / std (dy - mean(dy) - (x - mean) / std^2 mean(dy (x - mean)))

    The gradient is written out: it makes one new tensor of the size of x at a time,
    where TensorFlow's own makes half a dozen. The moments have no gradient.

    Args:
      x: `[..., C]`.
      offset, scale: `[C]`.
      epsilon: added to the variance.

    Returns:
      y; mean and variance, `[C]`; and the number of values per channel.
    """

    @tf.custom_gradient
    def run(x, offset, scale):
        axes = list(range(x.shape.rank - 1))
        here = tf.cast(math.prod(keras.ops.shape(x)[:-1]), x.dtype)
        sum_x, sum_squares, count = summed_over_replicas(
            [tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes), here]
        )
        mean = sum_x / count
        variance = tf.maximum(sum_squares / count - tf.square(mean), 0)

        def gradient(dy, *_):
            inverse_std = tf.math.rsqrt(variance + epsilon)
            doffset = tf.reduce_sum(dy, axes)
            dscale = (tf.reduce_sum(dy * x, axes) - mean * doffset) * inverse_std
            all_doffset, all_dscale = summed_over_replicas([doffset, dscale])
            slope = inverse_std * all_dscale / count
            common = slope * x + (all_doffset / count - slope * mean)
            return scale * inverse_std * (dy - common), doffset, dscale

        y = tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)
        return (y, mean, variance, count), gradient

    return run(x, offset, scale)
