"""The random draws of the project: stateless, a pure function of its arguments.

An example's noise depends on the seed, on the purpose of the noise (`Stream`) and on
the example's position, never on its batch: `normal(seed, s, 16, shape)` begins with
`normal(seed, s, 8, shape)`, and two replicas that hold positions 0..7 and 8..15 draw
together the same noise as one replica alone.

The bits come from the counter-based generator Philox (Salmon et al., SC 2011), whose
counter starts at the example's position. Under XLA, TensorFlow converts the same bits
to other floats, so this module does the conversion.
"""

import enum
import functools
import math

import numpy as np
import tensorflow as tf

_PHILOX = 1  # the value of `alg` in TensorFlow's raw operations
_WORDS_A_COUNT = 4  # 32-bit words for each increment of Philox' counter
_VECTOR = 16  # 32-bit words in the widest vector register


class Stream(enum.IntEnum):
    """The purpose of a draw; two streams of one seed are independent."""

    DEQUANTIZATION = 0
    POSTERIOR = 1
    PRIOR = 2
    LOCAL_CODE = 3
    AUGMENTATION = 4
    ORDER = 5
    WEIGHTS = 6
    SHUFFLED = 7
    TRAINING = 8
    VALIDATION = 9
    LABELS = 10


def as_seed(seed: int | tf.Tensor) -> tf.Tensor:
    """A Python integer, or a seed already of shape [2], as an int32 tensor [2]."""
    if isinstance(seed, (int, np.integer)):
        seed = np.array([seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF], np.int32)
    return tf.convert_to_tensor(seed, tf.int32)


def fold_in(seed: int | tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """A new seed [2] that is a function of a seed and an integer, such as the step."""
    fold = _folded if tf.executing_eagerly() else _fold
    return fold(as_seed(seed), tf.cast(data, tf.int32))


def _fold(seed, data):
    return tf.random.experimental.stateless_fold_in(seed, data, alg="philox")


# Without a graph it takes a hundred times as long as any draw of weights.
_folded = tf.function(
    _fold,
    input_signature=[tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int32)],
    autograph=False,
)


def step_seed(seed: int | tf.Tensor, step: int | tf.Tensor) -> tf.Tensor:
    """The seed [2] of everything that is drawn for one training step."""
    return fold_in(fold_in(seed, int(Stream.TRAINING)), step)


def _rows(convert, seed, stream, batch, size, first=0):
    """Words for positions first, first + 1, ..., converted: `[batch, size]`.

    Words are drawn and converted in rows of whole vectors: TensorFlow's vectorised and
    scalar code differ in the last bit, so an example's place in a vector must not
    depend on the batch.
    """
    row = -(-size // _VECTOR) * _VECTOR
    key = tf.bitcast(fold_in(seed, int(stream)), tf.uint64)[tf.newaxis]
    start = tf.cast(first, tf.uint64) * tf.cast(row // _WORDS_A_COUNT, tf.uint64)
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([batch, row]),
        key=key,
        counter=tf.stack([start, tf.zeros_like(start)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    return convert(words)[:, :size]


def _examples(convert, seed, stream, batch, event_shape, first):
    rows = _rows(convert, seed, stream, batch, math.prod(event_shape), first)
    return tf.reshape(rows, tf.stack([batch, *event_shape]))


def _to_uniform(words: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(words, np.uint32(8)), tf.float32) * 2.0**-24


def _to_normal(words: tf.Tensor) -> tf.Tensor:
    # erfinv gets odd multiples of 2**-23 in (-1, 1), which are exact in float32 and
    # never +-1. So |noise| < 5.3.
    odd = tf.cast(tf.bitwise.right_shift(words, np.uint32(9)), tf.float32) * 2 + 1
    return math.sqrt(2.0) * tf.math.erfinv(odd * 2.0**-23 - 1)


def uniform(
    seed: int | tf.Tensor,
    stream: Stream,
    batch: int | tf.Tensor,
    event_shape: tuple[int, ...],
    first: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Uniform noise in [0, 1).

    Args:
      seed: an integer or an int32 tensor [2].
      stream: what the noise is for.
      batch: number of examples.
      event_shape: static shape of one example's noise.
      first: position of the first example; the others follow it.

    Returns:
      float32 `[batch, *event_shape]`, multiples of 2**-24.
    """
    return _examples(_to_uniform, seed, stream, batch, event_shape, first)


def normal(
    seed: int | tf.Tensor,
    stream: Stream,
    batch: int | tf.Tensor,
    event_shape: tuple[int, ...],
    first: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Standard normal noise, float32 `[batch, *event_shape]`; see `uniform`."""
    return _examples(_to_normal, seed, stream, batch, event_shape, first)


@functools.cache
def _drawer(convert):
    """A function of seed, number and size: the weights `[size]` of one draw.

    A model has hundreds of variables. One graph for all their sizes draws them in a
    fraction of the time that single operations take.
    """

    def draw(seed, number, size):
        return _rows(convert, _fold(seed, number), Stream.WEIGHTS, 1, size)[0]

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
            self._seed = fold_in(seed, int(Stream.WEIGHTS))
        self._draws = 0

    @classmethod
    def of(cls, source: "Initializer | int") -> "Initializer":
        """Returns an initializer as it is, and for a seed a new one."""
        return source if isinstance(source, cls) else cls(source)

    def next_seed(self) -> int:
        """A fresh integer seed, for libraries that draw by themselves."""
        self._draws += 1
        with _on_cpu():
            seed = fold_in(fold_in(self._seed, self._draws), 0)
        return int(seed.numpy()[0]) & 0x7FFFFFFF

    def _draw(self, convert, shape):
        self._draws += 1
        with _on_cpu():
            number, size = tf.constant(self._draws), tf.constant(math.prod(shape))
            draw = _drawer(convert)(self._seed, number, size)
        return draw.numpy().reshape(shape)

    def normal(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        return (stddev * self._draw(_to_normal, shape)).astype(self._type)

    def uniform(self, shape: tuple[int, ...], limit: float) -> np.ndarray:
        draw = self._draw(_to_uniform, shape)
        return (limit * (2 * draw - 1)).astype(self._type)

    def orthogonal(self, size: int) -> np.ndarray:
        """A random orthogonal matrix, uniform over the orthogonal group."""
        with _on_cpu():
            q, r = tf.linalg.qr(np.float64(self.normal((size, size), 1.0)))
        return (q.numpy() * np.sign(np.diagonal(r))).astype(self._type)

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, self._type)
