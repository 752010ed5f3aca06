"""Works at half the resolution: 2x2 neighbourhoods become channels and back."""

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector, replace


class Squeezed(FlowBijector):
    """A bijector applied at half the resolution and four times the channels.

        [B, H, W, C] -> space to depth -> [B, H/2, W/2, 4C] -> inner -> depth to space

    The channels of a 2x2 block come in `tf.nn.space_to_depth`'s order: (0, 0), (0, 1),
    (1, 0), (1, 1). Squeezing only permutes, so the log-det is the inner bijector's; in
    its map, the four pixels of a block have equal shares. A conditioning map
    `[B, H, W, F]` is squeezed too.

    Example:

        >>> layer = Squeezed(Conv1x1(24, init=0))  # mixes 2x2 pixels of 6 channels
        >>> layer.inverse(tf.random.normal([2, 4, 4, 6])).shape
        TensorShape([2, 4, 4, 6])

    Reference: Dinh et al., *Real NVP*, arXiv 1605.08803, section 3.6.

    Args:
      inner: bijector on `[B, H/2, W/2, 4C]`.
      name: names the layer.
    """

    def __init__(self, inner: FlowBijector, name: str = "squeezed"):
        super().__init__(3, name, inner.dtype, inner.conditioning_ndims)
        self.inner = inner

    def _squeezed(self, conditioning):
        if conditioning is None or self.conditioning_ndims == 1:
            return conditioning
        return tf.nn.space_to_depth(conditioning, 2)

    def _run(self, method, value, conditioning):
        """Runs either direction; `method` is the method of the inner bijector."""
        squeezed = tf.nn.space_to_depth(value, 2)
        result, log_det_map = method(squeezed, self._squeezed(conditioning))
        return tf.nn.depth_to_space(result, 2), _spread(log_det_map)

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._run(self.inner.forward_and_log_det_map, v, conditioning)

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._run(self.inner.inverse_and_log_det_map, x, conditioning)

    def position_shares(self, values):
        return _spread(self.inner.position_shares(tf.nn.space_to_depth(values, 2)))

    def initialize_on(self, values, conditioning):
        replace(values, lambda x: tf.nn.space_to_depth(x, 2))
        self.inner.initialize_on(values, list(map(self._squeezed, conditioning)))
        replace(values, lambda v: tf.nn.depth_to_space(v, 2))

    def folded(self, folding):
        return Squeezed(self.inner.folded(folding), self.name)


def _spread(log_det_map: tf.Tensor) -> tf.Tensor:
    """Spreads a map `[B, H/2, W/2]` over `[B, H, W]`; divides a scalar by four."""
    share = log_det_map / 4
    if share.shape.rank == 0:
        return share
    shares = tf.repeat(share[..., tf.newaxis], 4, axis=-1)
    return tf.nn.depth_to_space(shares, 2)[..., 0]
