"""The initial values of weights."""

import functools
import math

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise


@functools.cache
def _drawer(kind):
    """A function of seed, number and size: the weights `[size]` of one draw.

    A model has hundreds of variables. One graph for all their sizes draws them in a
    fraction of the time that single operations take.
    """

    def draw(seed, number, size):
        return kind(noise.fold_in(seed, number), noise.Stream.WEIGHTS, 1, (size,))[0]

    scalar = tf.TensorSpec([], tf.int32)
    signature = tf.TensorSpec([2], tf.int32), scalar, scalar
    return tf.function(draw, autograph=False).get_concrete_function(*signature)


def _on_cpu():
    """The device for many small draws: a GPU takes longer to start each of them."""
    return tf.device("CPU:0")


class Initializer:
    """Initial weights: each call draws anew, in an order that the caller fixes.

    Args:
      seed: an integer; the same seed and order of calls give the same weights.
      dtype: of the weights (float64 in tests that compare Jacobians).
    """

    def __init__(self, seed: int = 0, dtype: tf.DType = tf.float32):
        self.dtype = tf.as_dtype(dtype)
        self._type = self.dtype.as_numpy_dtype
        with _on_cpu():
            self._seed = noise.fold_in(seed, int(noise.Stream.WEIGHTS))
        self._draws = 0

    @classmethod
    def of(cls, source: "Initializer | int") -> "Initializer":
        """Returns an initializer as it is, and for a seed a new one."""
        return source if isinstance(source, cls) else cls(source)

    def next_seed(self) -> int:
        """A fresh integer seed, for libraries that draw by themselves."""
        self._draws += 1
        with _on_cpu():
            seed = noise.fold_in(noise.fold_in(self._seed, self._draws), 0)
        return int(seed.numpy()[0]) & 0x7FFFFFFF

    def _draw(self, kind, shape):
        self._draws += 1
        with _on_cpu():
            number, size = tf.constant(self._draws), tf.constant(math.prod(shape))
            draw = _drawer(kind)(self._seed, number, size)
        return draw.numpy().reshape(shape)

    def normal(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        """Draws from N(0, stddev^2)."""
        return (stddev * self._draw(noise.normal, shape)).astype(self._type)

    def uniform(self, shape: tuple[int, ...], limit: float) -> np.ndarray:
        """Draws from U(-limit, limit)."""
        draw = self._draw(noise.uniform, shape)
        return (limit * (2 * draw - 1)).astype(self._type)

    def orthogonal(self, size: int) -> np.ndarray:
        """A random orthogonal matrix, uniform over the orthogonal group."""
        with _on_cpu():
            q, r = tf.linalg.qr(np.float64(self.normal((size, size), 1.0)))
        return (q.numpy() * np.sign(np.diagonal(r))).astype(self._type)

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Zeros of the type of the weights; nothing is drawn."""
        return np.zeros(shape, self._type)
