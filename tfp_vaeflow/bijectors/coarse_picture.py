"""The coarse picture: what z alone says of an image."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.base import FlowBijector
from tfp_vaeflow.bijectors.conditioned import ConditionedThrough
from tfp_vaeflow.networks import Initializer, PrincipalComponents


class CoarsePicture(FlowBijector):
    """Adds a coarse picture of z.

        forward:  x = v + picture(z)
        inverse:  v = x - picture(z)
        picture(z) = upsampled(mean + bias + U_P (scale * z_P))
        log-det:  0

    U_P and the mean are principal components of coarse pictures, and z_P is the first P
    entries of z. Upsampling is bilinear. Data-dependent initialisation sets the scale
    to that of probabilistic PCA (see `networks.PrincipalComponents`), so that the rest
    of a flow starts with what the coarse picture leaves open.

    Shapes: `[B, H, W, C]`; the conditioning is z, `[B, D]`.

    Example:

        >>> from tfp_vaeflow.networks import PrincipalComponents
        >>> components = PrincipalComponents((8, 8, 3), block=2, count=4, init=0)
        >>> layer = CoarsePicture(components, init=0)
        >>> x, z = tf.random.normal([100, 8, 8, 3]), tf.random.normal([100, 6])
        >>> components.initialize([x])
        >>> v = layer.initialize(x, z)
        >>> np.allclose(layer.forward(tf.identity(v), conditioning=z), x, atol=1e-5)
        True

    Args:
      components: of coarse pictures; fitted before this is initialised.
      init: gives the dtype.
      name: names the layer.
    """

    scale = compute.Weight()
    bias = compute.Weight()

    def __init__(
        self,
        components: PrincipalComponents,
        init: Initializer | int,
        name: str = "coarse_picture",
    ):
        init = Initializer.of(init)
        super().__init__(3, name, init.dtype)
        self.components = components
        self.scale = init.zeros((components.count,))
        self.bias = init.zeros(components.mean.shape)
        self._rows, self._columns = (
            tf.constant(_bilinear(side, components.block), init.dtype)
            for side in components.shape[:2]
        )

    def picture(self, z: tf.Tensor) -> tf.Tensor:
        """z `[B, D]` -> its picture `[B, H, W, C]`."""
        if z is None:
            raise ValueError(f"{self.name}: expected a conditioning, z `[B, D]`")
        known = self.components
        entries = z[:, : known.count] * self.scale
        coarse = tf.matmul(entries, known.basis, transpose_b=True)
        coarse = tf.reshape(coarse + known.mean + self.bias, [-1, *known.shape])
        return tf.einsum("hi,bijc,wj->bhwc", self._rows, coarse, self._columns)

    def forward_and_log_det_map(self, v, conditioning=None):
        return v + self.picture(conditioning), tf.zeros([], self.dtype)

    def inverse_and_log_det_map(self, x, conditioning=None):
        return x - self.picture(conditioning), tf.zeros([], self.dtype)

    def initialize_on(self, values, conditioning):
        self.scale.assign(self.components.deviations())
        super().initialize_on(values, conditioning)

    def folded(self, folding):
        if folding.product is None:
            return self
        return ConditionedThrough(self, lambda parts: parts[-1])


def _bilinear(cells: int, block: int) -> np.ndarray:
    """The matrix of bilinear upsampling, `[cells * block, cells]`."""
    places = (np.arange(cells * block) + 0.5) / block - 0.5
    places = np.clip(places, 0, cells - 1)[:, np.newaxis]
    return np.maximum(0.0, 1.0 - np.abs(places - np.arange(cells)))
