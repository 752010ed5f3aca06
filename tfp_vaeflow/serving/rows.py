"""Rows of a request: each by itself, whatever its neighbours in the batch are.

A server joins requests of several callers in one batch. So a bad value never raises:
it is replaced, and the row's `is_finite` says so. And every row has its own seed.
"""

from collections.abc import Callable

import tensorflow as tf

# A row's seed: below this bit the seed of a sequence of draws, above it the position.
POSITION_BIT = 31


class Checks:
    """Keeps, for each row of a batch, whether all that was seen of it is good.

    Attributes:
      is_finite: bool `[B]`.

    Args:
      inputs: tensors `[B, ...]` by name. Unequal B is an error of the whole batch.
    """

    def __init__(self, inputs: dict[str, tf.Tensor]):
        counts = {name: tf.shape(value)[0] for name, value in inputs.items()}
        (first, count), *others = counts.items()
        equal = [
            tf.debugging.assert_equal(
                other, count, f"{name} and {first} have unequal numbers of rows"
            )
            for name, other in others
        ]
        with tf.control_dependencies(equal):
            self.is_finite = tf.fill([count], True)

    def within(self, value: tf.Tensor, low: float, high: float) -> tf.Tensor:
        """Values clamped to `[low, high]`; NaN is taken as 0, then clamped."""
        self._note((value >= low) & (value <= high))
        if value.dtype.is_floating:
            value = tf.where(tf.math.is_nan(value), tf.zeros([], value.dtype), value)
        return tf.clip_by_value(value, low, high)

    def finite(self, value: tf.Tensor) -> tf.Tensor:
        """Values with 0 in place of NaN and infinity."""
        good = tf.math.is_finite(value)
        self._note(good)
        return tf.where(good, value, tf.zeros([], value.dtype))

    def _note(self, good: tf.Tensor) -> None:
        self.is_finite &= tf.reduce_all(good, list(range(1, good.shape.rank)))


def draw(function: Callable, seeds: tf.Tensor) -> tuple:
    """Random draws for rows that have a seed each.

    Args:
      function: `(seed, position) -> a NamedTuple of [1, ...]` tensors or None, such as
        `noise` gives for one example at that position.
      seeds: int64 `[B]`: `seed + (position << 31)`.

    Returns:
      The same NamedTuple with `[B, ...]`: row by row what a model draws in Python for
      the image at that position under that seed.
    """

    def one(value):
        low = tf.bitwise.bitwise_and(value, (1 << POSITION_BIT) - 1)
        position = tf.bitwise.right_shift(value, POSITION_BIT)
        position = tf.bitwise.bitwise_and(position, (1 << 32) - 1)
        # As `noise.as_seed` does with integers below 2**31.
        seed = tf.stack([tf.cast(low, tf.int32), 0])
        return tf.nest.map_structure(
            lambda part: None if part is None else part[0], function(seed, position)
        )

    traced = tf.function(one, [tf.TensorSpec([], seeds.dtype)], autograph=False)
    specs = traced.get_concrete_function().structured_outputs
    parts = {name: part for name, part in specs._asdict().items() if part is not None}

    def present(value):
        drawn = one(value)._asdict()
        return {name: drawn[name] for name in parts}

    signature = {
        name: tf.TensorSpec(part.shape, part.dtype) for name, part in parts.items()
    }
    found = tf.map_fn(present, seeds, fn_output_signature=signature)
    return specs._replace(**found)
