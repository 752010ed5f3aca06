"""Works at half the resolution: 2x2 neighbourhoods become channels and back."""

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector


class Squeezed(FlowBijector):
    """A bijector applied at half the resolution and four times the channels.

        [B, H, W, C] -> space to depth -> [B, H/2, W/2, 4C] -> inner -> depth to space

    The channels of a 2x2 block come in `tf.nn.space_to_depth`'s order: (0, 0), (0, 1),
    (1, 0), (1, 1). Only permutes, so the log-det is the inner bijector's.

    Reference: Dinh et al., *Real NVP*, arXiv 1605.08803, section 3.6.

    Args:
      inner: bijector on `[B, H/2, W/2, 4C]`.
      name: names the layer.
    """

    def __init__(self, inner: FlowBijector, name: str = "squeezed"):
        super().__init__(3, name, inner.dtype)
        self.inner = inner

    def forward_and_log_det(self, x, conditioning=None):
        x = tf.nn.space_to_depth(x, 2)
        y, log_det = self.inner.forward_and_log_det(x, conditioning)
        return tf.nn.depth_to_space(y, 2), log_det

    def inverse_and_log_det(self, y, conditioning=None):
        y = tf.nn.space_to_depth(y, 2)
        x, log_det = self.inner.inverse_and_log_det(y, conditioning)
        return tf.nn.depth_to_space(x, 2), log_det

    def initialize(self, y, conditioning=None):
        x = self.inner.initialize(tf.nn.space_to_depth(y, 2), conditioning)
        return tf.nn.depth_to_space(x, 2)
