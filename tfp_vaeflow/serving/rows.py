"""Keeps the rows of a request independent of their neighbours in the batch.

A server joins requests of several callers in one batch. So a bad value never raises:
it is replaced, and the row's `is_finite` says so. Every row has its own seed.
"""

from collections.abc import Callable

import tensorflow as tf

# A row's seed has the seed of a sequence of draws below this bit, the position above.
POSITION_BIT = 31


class Checks:
    """Records for each row of a batch whether all its checked values are good.

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
    """Random draws for rows with a seed per row.

    Args:
      function: `(seed, position) -> a NamedTuple of [1, ...]` tensors or None, such as
        `noise` gives for one example at that position.
      seeds: int64 `[B]`: `seed + (position << 31)`.

    Returns:
      The same NamedTuple with `[B, ...]`. Each row equals the draw of a model in Python
      for the image at that position under that seed.
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
