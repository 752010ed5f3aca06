"""Works at half the resolution: 2x2 neighbourhoods become channels and back."""

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector, replace


class Squeezed(FlowBijector):
    """A bijector applied at half the resolution and four times the channels.

        [B, H, W, C] -> space to depth -> [B, H/2, W/2, 4C] -> inner -> depth to space

    The channels of a 2x2 block come in `tf.nn.space_to_depth`'s order: (0, 0), (0, 1),
    (1, 0), (1, 1). Only permutes, so the log-det is the inner bijector's. A map
    `[B, H, W, F]` as conditioning is squeezed along.

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

    def forward_and_log_det(self, x, conditioning=None):
        x = tf.nn.space_to_depth(x, 2)
        conditioning = self._squeezed(conditioning)
        y, log_det = self.inner.forward_and_log_det(x, conditioning)
        return tf.nn.depth_to_space(y, 2), log_det

    def inverse_and_log_det(self, y, conditioning=None):
        y = tf.nn.space_to_depth(y, 2)
        conditioning = self._squeezed(conditioning)
        x, log_det = self.inner.inverse_and_log_det(y, conditioning)
        return tf.nn.depth_to_space(x, 2), log_det

    def initialize_on(self, values, conditioning):
        replace(values, lambda y: tf.nn.space_to_depth(y, 2))
        self.inner.initialize_on(values, list(map(self._squeezed, conditioning)))
        replace(values, lambda x: tf.nn.depth_to_space(x, 2))
