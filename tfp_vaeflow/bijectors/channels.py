"""Which channels a layer works on."""

import dataclasses

import keras
import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector


@dataclasses.dataclass(frozen=True)
class ChannelSplit:
    """Divides channels into those that condition and those that are transformed.

    Example:

        >>> of_others, transformed = ChannelSplit("skip").split(tf.range(6))
        >>> transformed.numpy().tolist()
        [1, 3, 5]

    Attributes:
      pattern: `continuous` (first part / second part) or `skip` (even / odd channels;
        falls back to `continuous` for an odd number of channels).
      order: `up` (the first part conditions) or `down` (the second one does).
      factor: the transformed part has `channels // factor` channels; 2 for `skip`.
    """

    pattern: str = "continuous"
    order: str = "up"
    factor: int = 2

    def transformed(self, channels: int) -> int:
        """Number of transformed channels."""
        return channels // self.factor

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[..., C]` -> (conditioning part, transformed part)."""
        channels = x.shape[-1]
        if self._interleaved(channels):
            pairs = tf.reshape(x, [*keras.ops.shape(x)[:-1], channels // 2, 2])
            first, second = tf.unstack(pairs, axis=-1)
        else:
            first, second = tf.split(x, self._sizes(channels), axis=-1)
        return (first, second) if self.order == "up" else (second, first)

    def join(self, condition: tf.Tensor, transformed: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`."""
        up = self.order == "up"
        parts = (condition, transformed) if up else (transformed, condition)
        channels = condition.shape[-1] + transformed.shape[-1]
        if not self._interleaved(channels):
            return tf.concat(parts, axis=-1)
        shape = [*keras.ops.shape(condition)[:-1], channels]
        return tf.reshape(tf.stack(parts, axis=-1), shape)

    def _interleaved(self, channels: int) -> bool:
        return self.pattern == "skip" and channels % 2 == 0

    def _sizes(self, channels: int) -> list[int]:
        transformed = self.transformed(channels)
        sizes = [channels - transformed, transformed]
        return sizes if self.order == "up" else sizes[::-1]


class OnChannels(FlowBijector):
    """A bijector applied to some channels; the others stay as they are.

        v[begin:begin + count] = inner^-1(x[begin:begin + count])

    Shapes: `[B, H, W, C]`.

    Example:

        >>> layer = OnChannels(ActNorm(2, init=0), begin=1, count=2)
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> bool(tf.reduce_all(layer.inverse(x)[..., 3:] == x[..., 3:]))
        True

    Args:
      inner: bijector on `count` channels.
      begin: index of the first of them.
      count: number of channels.
      name: names the layer.
    """

    def __init__(
        self, inner: FlowBijector, begin: int, count: int, name: str = "on_channels"
    ):
        super().__init__(3, name, inner.dtype, inner.conditioning_ndims)
        self.inner = inner
        self._begin, self._count = begin, count

    def _split(self, value):
        after = value.shape[-1] - self._begin - self._count
        return tf.split(value, [self._begin, self._count, after], axis=-1)

    def _run(self, method, value, conditioning):
        """Runs either direction; `method` is the method of the inner bijector."""
        before, part, after = self._split(value)
        part, log_det_map = method(part, conditioning)
        return tf.concat([before, part, after], axis=-1), log_det_map

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._run(self.inner.forward_and_log_det_map, v, conditioning)

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._run(self.inner.inverse_and_log_det_map, x, conditioning)

    def position_shares(self, values):
        before, part, after = self._split(values)
        others = tf.reduce_sum(before, -1) + tf.reduce_sum(after, -1)
        return self.inner.position_shares(part) + others

    def initialize_on(self, values, conditioning):
        parts = []
        for number, value in enumerate(values):
            before, part, after = self._split(value)
            values[number] = before, after
            parts.append(part)
        self.inner.initialize_on(parts, conditioning)
        for number, (before, after) in enumerate(values):
            values[number] = tf.concat([before, parts[number], after], axis=-1)

    def folded(self, folding):
        inner = self.inner.folded(folding)
        return OnChannels(inner, self._begin, self._count, self.name)
