"""Pixels <-> levels <-> the continuous x that the flow models.

A pixel p in 0..255 belongs to level `k = floor(p n_bins / 256)`; the flow sees
`x = 2 (k + u) / n_bins - 1` in [-1, 1) with noise u in [0, 1). The way back is
`k = clip(floor((x + 1) / 2 n_bins), 0, n_bins - 1)` and `p = ceil(256 k / n_bins)`,
the smallest pixel of the level, so pixels -> levels -> pixels -> levels is stable.
"""

import tensorflow as tf


def to_levels(pixels: tf.Tensor, n_bins: int) -> tf.Tensor:
    """uint8 pixels -> int32 levels in `[0, n_bins)`, of the same shape."""
    return tf.cast(pixels, tf.int32) * n_bins // 256


def to_pixels(levels: tf.Tensor, n_bins: int) -> tf.Tensor:
    """Levels in `[0, n_bins)` -> uint8 pixels, of the same shape."""
    return tf.cast((tf.cast(levels, tf.int32) * 256 + n_bins - 1) // n_bins, tf.uint8)


def at_levels(pixels: tf.Tensor, n_bins: int) -> tf.Tensor:
    """uint8 pixels as a model gives them back: each the smallest one of its level."""
    return to_pixels(to_levels(pixels, n_bins), n_bins)


def dequantize(
    levels: tf.Tensor, u: tf.Tensor | float, n_bins: int, dtype=tf.float32
) -> tf.Tensor:
    """Levels and noise `u` in [0, 1) (broadcast) -> x in [-1, 1)."""
    return 2 * (tf.cast(levels, dtype) + u) / n_bins - 1


def quantize(x: tf.Tensor, n_bins: int) -> tf.Tensor:
    """x -> int32 levels in `[0, n_bins)`; values outside [-1, 1) are clipped."""
    # Clipping comes first: casting a float outside int32's range is undefined.
    levels = tf.clip_by_value(tf.floor((x + 1) / 2 * n_bins), 0, n_bins - 1)
    return tf.cast(levels, tf.int32)
