"""An affine map of the channels: the folded form of ActNorm and 1x1 convolution."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.base import FlowBijector
from tfp_vaeflow.networks import fixed


class ChannelMap(FlowBijector):
    """An affine map of the channels with fixed weights, the same at every position.

        inverse:  v = x W + b              (x * w + b for a vector w)
        forward:  x = v W^-1 - b W^-1
        inverse log-det:  H W log |det W|

    Its weights are computed in float64 and stored in `dtype`.

    Shapes: `[B, H, W, C]` or `[B, C]`; the conditioning is ignored.

    Args:
      weight: float64 W, `[C, C]`, or its diagonal w, `[C]`.
      bias: float64 b, `[C]`.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        event_ndims: int,
        name: str,
        dtype: tf.DType,
    ):
        super().__init__(event_ndims, name, dtype)
        self._exact = weight, bias
        if weight.ndim == 1:
            inverse, back = 1 / weight, -bias / weight
            log_det = np.sum(np.log(np.abs(weight)))
        else:
            inverse = np.linalg.inv(weight)
            back = -bias @ inverse
            log_det = np.linalg.slogdet(weight)[1]
        self._log_det_per_position = float(log_det)
        self._inverse_map = fixed(weight, dtype), fixed(bias, dtype)
        self._forward_map = fixed(inverse, dtype), fixed(back, dtype)

    @staticmethod
    def _apply(value: tf.Tensor, weight: tf.Variable, bias: tf.Variable) -> tf.Tensor:
        if weight.shape.rank == 1:
            return value * weight + bias
        flat = tf.matmul(tf.reshape(value, [-1, value.shape[-1]]), weight) + bias
        return tf.reshape(flat, [-1, *compute.sizes(value), value.shape[-1]])

    def forward_and_log_det_map(self, v, conditioning=None):
        log_det = tf.constant(-self._log_det_per_position, v.dtype)
        return self._apply(v, *self._forward_map), log_det

    def inverse_and_log_det_map(self, x, conditioning=None):
        log_det = tf.constant(self._log_det_per_position, x.dtype)
        return self._apply(x, *self._inverse_map), log_det

    def joined_with(self, later):
        if not isinstance(later, ChannelMap):
            return None
        (weight, bias), (next_weight, next_bias) = self._exact, later._exact
        left, right = (np.diag(w) if w.ndim == 1 else w for w in (weight, next_weight))
        return ChannelMap(
            left @ right,
            bias @ right + next_bias,
            self.forward_min_event_ndims,
            self.name,
            self.dtype,
        )
