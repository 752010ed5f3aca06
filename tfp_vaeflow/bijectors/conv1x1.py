"""Invertible 1x1 convolution: a learned rotation of the channels."""

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.base import FlowBijector, replace
from tfp_vaeflow.bijectors.channel_map import ChannelMap
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.networks import Initializer


class Conv1x1(FlowBijector):
    """Multiplies the channel vector of every position by a square matrix W.

        inverse:  v = x W
        forward:  x = v W^-1
        inverse log-det:  H W log |det W|     (times `heads` for `split`)

    W starts as a random orthogonal matrix. It is parametrized as:

    - `dense`: W itself is learned.
    - `lu`: `W = P L U` with P fixed, L unit lower triangular and U upper triangular,
      whose diagonal is `sign * exp(log_diagonal)`, so the log-det is a sum. One matrix
      holds L below the diagonal, log_diagonal on it and U above, so there are as many
      parameters as in `dense`.
    - `split`: the channels form `heads` groups that share one small matrix.

    Shapes: `[B, H, W, C]` or `[B, C]`; the conditioning is ignored. The inverse of W is
    computed from W whenever it is used, in float64.

    Example:

        >>> mix = Conv1x1(6, init=0)
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> v = mix.inverse(x)
        >>> np.allclose(mix.forward(tf.identity(v)), x, atol=1e-4)
        True

    Reference: Kingma & Dhariwal, *Glow*, arXiv 1807.03039, section 3.2.

    Args:
      channels: C.
      init: source of initial weights, or a seed.
      parametrization: of W: `dense`, `lu` or `split`.
      heads: (`split`) number of groups; must divide C.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.

    Raises:
      UserError: if `heads` does not divide `channels`.
    """

    weight = compute.Weight()
    _permutation = compute.Weight(trainable=False)
    _sign = compute.Weight(trainable=False)

    def __init__(
        self,
        channels: int,
        init: Initializer | int,
        parametrization: str = "dense",
        heads: int = 1,
        event_ndims: int = 3,
        name: str = "conv1x1",
    ):
        init = Initializer.of(init)
        super().__init__(event_ndims, name, init.dtype)
        if channels % heads:
            raise UserError(
                f"{name}: {heads} heads cannot share {channels} channels; expected a "
                "divisor of the number of channels (FlowConfig.heads)"
            )
        self._parametrization = parametrization
        self._heads = heads
        self._size = channels // heads
        weight = init.orthogonal(self._size)
        if parametrization == "lu":
            lu, permutation = (result.numpy() for result in tf.linalg.lu(weight))
            diagonal = np.diagonal(lu)
            # Rows of L U in the order of `permutation` are the rows of W.
            self._permutation = np.argsort(permutation).astype(permutation.dtype)
            self._sign = np.sign(diagonal)
            weight = np.tril(lu, -1) + np.triu(lu, 1) + np.diag(np.log(abs(diagonal)))
        self.weight = weight

    def matrix(self) -> tf.Tensor:
        """W, `[C / heads, C / heads]`."""
        if self._parametrization != "lu":
            return tf.convert_to_tensor(self.weight)
        log_diagonal = tf.linalg.diag_part(self.weight)
        lower = tf.linalg.band_part(self.weight, -1, 0)
        lower = tf.linalg.set_diag(lower, tf.ones_like(log_diagonal))
        upper = tf.linalg.band_part(self.weight, 0, -1)
        upper = tf.linalg.set_diag(upper, self._sign * tf.exp(log_diagonal))
        rows = tf.convert_to_tensor(self._permutation)
        return tf.gather(tf.matmul(lower, upper), rows, batch_dims=rows.shape.rank - 1)

    def channel_matrix(self) -> tf.Tensor:
        """The matrix that `inverse` multiplies all channels by, `[C, C]`."""
        heads = tf.linalg.LinearOperatorIdentity(self._heads, dtype=self.weight.dtype)
        matrix = tf.linalg.LinearOperatorFullMatrix(self.matrix())
        return tf.linalg.LinearOperatorKronecker([heads, matrix]).to_dense()

    @compute.Derived
    def _log_det_per_position(self) -> tf.Tensor:
        if self._parametrization == "lu":
            return tf.reduce_sum(tf.linalg.diag_part(self.weight), -1)
        return self._heads * compute.log_abs_det(tf.convert_to_tensor(self.weight))

    @compute.Derived
    def _inverse_matrix(self) -> tf.Tensor:
        return compute.inverse(self.matrix())

    def _multiply(self, x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        flat = tf.matmul(tf.reshape(x, [-1, self._size]), matrix)
        return tf.reshape(flat, keras.ops.shape(x))

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._multiply(v, self._inverse_matrix), -self._log_det_per_position

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._multiply(x, self.matrix()), self._log_det_per_position

    def initialize_on(self, values, conditioning):
        matrix = self.matrix()  # the log-det would take longer
        replace(values, lambda x: self._multiply(x, matrix))

    def folded(self, folding):
        matrix = np.float64(self.channel_matrix())
        return ChannelMap(
            matrix,
            np.zeros(len(matrix)),
            self.forward_min_event_ndims,
            self.name,
            self.dtype,
        )
