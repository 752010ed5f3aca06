"""ActNorm: a learned scale and shift of each channel."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.base import FlowBijector, replace
from tfp_vaeflow.bijectors.channel_map import ChannelMap
from tfp_vaeflow.networks import STD_EPSILON, Initializer, mean_and_std


class ActNorm(FlowBijector):
    """Scales and shifts each channel.

        inverse:  v = x * exp(log_scale) + bias
        forward:  x = (v - bias) * exp(-log_scale)
        inverse log-det:  H W sum(log_scale)

    Starts with `log_scale ~ N(0, 0.05)` and `bias = 0`. Data-dependent initialisation
    gives every channel mean 0 and std 1 on the batch it sees.

    Shapes: `[B, H, W, C]` or `[B, C]`; the conditioning is ignored.

    Example:

        >>> norm = ActNorm(3, init=0)
        >>> x = 5 + 2 * tf.random.normal([100, 4, 4, 3])
        >>> v = norm.initialize(x)  # what norm.inverse(x) is from now on
        >>> bool(tf.abs(tf.reduce_mean(v)) < 1e-3)
        True

    Reference: Kingma & Dhariwal, *Glow*, arXiv 1807.03039, section 3.1.

    Args:
      channels: C.
      init: source of initial weights, or a seed.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
    """

    log_scale = compute.Weight()
    bias = compute.Weight()

    def __init__(
        self,
        channels: int,
        init: Initializer | int,
        event_ndims: int = 3,
        name: str = "actnorm",
    ):
        init = Initializer.of(init)
        super().__init__(event_ndims, name, init.dtype)
        self.log_scale = init.normal((channels,), 0.05)
        self.bias = init.zeros((channels,))

    def forward_and_log_det_map(self, v, conditioning=None):
        x = (v - self.bias) * tf.exp(-self.log_scale)
        return x, -tf.reduce_sum(self.log_scale)

    def inverse_and_log_det_map(self, x, conditioning=None):
        v = x * tf.exp(self.log_scale) + self.bias
        return v, tf.reduce_sum(self.log_scale)

    def initialize_on(self, values, conditioning):
        def inverse(x):
            return self.inverse_and_log_det_map(x)[0]

        mean, std = mean_and_std(map(inverse, values))
        self.log_scale.assign_sub(tf.math.log(std + STD_EPSILON))
        self.bias.assign((self.bias - mean) / (std + STD_EPSILON))
        replace(values, inverse)

    def folded(self, folding):
        return ChannelMap(
            np.exp(np.float64(self.log_scale)),
            np.float64(self.bias),
            self.forward_min_event_ndims,
            self.name,
            self.dtype,
        )
