"""The random draws of the project: stateless, a pure function of its arguments.

An example's noise depends on the seed, on the purpose of the noise (`Stream`) and on
the example's position, never on its batch: `normal(seed, s, 16, shape)` begins with
`normal(seed, s, 8, shape)`, and two replicas that hold positions 0..7 and 8..15
together draw the same noise as one replica alone.

The bits come from the counter-based generator Philox (Salmon et al., SC 2011), whose
counter starts at the example's position. Under XLA, TensorFlow converts the same bits
to other floats, so this module does the conversion.
"""

import enum
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
