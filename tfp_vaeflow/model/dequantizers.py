"""Dequantizers: the distribution q(u | x) of the noise that makes pixels continuous."""

import math

import tensorflow as tf

from tfp_vaeflow.bijectors import FlowBijector, MultiScaleFlow
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import DequantizerConfig
from tfp_vaeflow.networks import Folding, Initializer
from tfp_vaeflow.networks.encoders import LocalEncoder, build_local_encoder
from tfp_vaeflow.networks.resnets import outputs_of

_LARGEST_U = 1 - 2.0**-24  # the largest float32 below 1


class UniformDequantizer(tf.Module):
    """`u ~ U[0, 1)` for every pixel value; `log q(u | x) = 0`. It has no statistics.

    Reference: Theis et al., arXiv 1511.01844, section 3.1.
    """

    def __init__(self):
        super().__init__(name="dequantizer")

    def statistics(
        self, x: tf.Tensor, *, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """The statistics of u, known before any noise: none."""
        return {}

    def draw(self, seed, batch, event_shape, first) -> tf.Tensor:
        """The noise behind u, `[batch, *event_shape]`; see `noise.uniform`."""
        return noise.uniform(seed, Stream.DEQUANTIZATION, batch, event_shape, first)

    def sample(
        self, statistics: dict[str, tf.Tensor], drawn: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Drawn noise `[B, K, H, W, C]` -> u, and the map of `log q(u | x) = 0`."""
        return drawn, tf.zeros(tf.shape(drawn)[:4], drawn.dtype)

    def initialize(self, x: list[tf.Tensor], drawn: list[tf.Tensor]) -> None:
        """Nothing to initialise."""

    def statistics_variables(self) -> list[tf.Variable]:
        """The trainable variables that statistics depend on: none."""
        return []

    def folded(self, folding: Folding) -> "UniformDequantizer":
        """Nothing to fold."""
        return self


class FlowDequantizer(tf.Module):
    """Variational dequantization: u is a flow's image of normal noise, given x.

        u = sigmoid(y),  y = g(eps; encoder(x)),  eps ~ N(0, I)
        log q(u | x) = log N(eps) - log |det dy / d eps| - sum log sigmoid'(y)

    g is the `inverse` of a `MultiScaleFlow`, which is the decoder's direction from data
    to code; the other direction is never needed. The statistics are `local`, the
    encoder's map `[B, H, W, F]`.

    Reference: Ho et al., *Flow++*, arXiv 1902.00275, section 3.1; paper, appendix.

    Args:
      encoder: gives the map that the flow is conditioned on.
      flow: g, on images.
    """

    def __init__(self, encoder: LocalEncoder, flow: FlowBijector):
        super().__init__(name="dequantizer")
        self.encoder = encoder
        self.flow = flow

    def statistics(
        self, x: tf.Tensor, *, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """The statistics of u, before noise; they depend on the batch by batch norm.

        Args:
          x: `[B, H, W, C]` in [-1, 1), without noise.
          training: whether batch norm uses (and updates from) the batch.
        """
        return {"local": self.encoder(x, training)}

    def draw(self, seed, batch, event_shape, first) -> tf.Tensor:
        """The noise eps, `[batch, *event_shape]`; see `noise.normal`."""
        return noise.normal(seed, Stream.DEQUANTIZATION, batch, event_shape, first)

    def sample(
        self, statistics: dict[str, tf.Tensor], drawn: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """u of images, for drawn noise.

        Args:
          statistics: of the images.
          drawn: standard normal `[B, K, H, W, C]`.

        Returns:
          u in (0, 1), of `drawn`'s shape, and the map of `log q(u | x)`, the share of
          each position, `[B, K, H, W]`.
        """
        shape = tf.shape(drawn)
        eps = tf.reshape(drawn, tf.concat([[-1], shape[2:]], 0))
        # The flow takes one batch dimension; the K samples of an image are neighbours.
        local = tf.repeat(statistics["local"], shape[1], axis=0)
        y, log_det_map = self.flow.inverse_and_log_det_map(eps, local)
        log_normal = -(eps**2 + math.log(2 * math.pi)) / 2
        log_slope = tf.math.log_sigmoid(y) + tf.math.log_sigmoid(-y)
        log_density_map = tf.reduce_sum(log_normal - log_slope, -1) - log_det_map
        u = tf.minimum(tf.sigmoid(y), _LARGEST_U)
        return tf.reshape(u, shape), tf.reshape(log_density_map, shape[:4])

    def initialize(self, x: list[tf.Tensor], drawn: list[tf.Tensor]) -> None:
        """Data-dependent initialisation on batches of images, and noise for them.

        Args:
          x: `[B, H, W, C]` each.
          drawn: of the same shapes.
        """
        self.flow.initialize_on(list(drawn), outputs_of(self.encoder.resnet, x))

    def statistics_variables(self) -> list[tf.Variable]:
        """The trainable variables that statistics depend on."""
        return list(self.encoder.trainable_variables)

    def folded(self, folding: Folding) -> "FlowDequantizer":
        """The same with less to compute, for a trained model."""
        return FlowDequantizer(self.encoder.folded(), self.flow.folded(folding))


def build_dequantizer(
    config: DequantizerConfig | None,
    image_shape: tuple[int, int, int],
    init: Initializer,
) -> UniformDequantizer | FlowDequantizer:
    """The dequantizer of the settings; the uniform one where there are none."""
    if config is None:
        return UniformDequantizer()
    encoder = build_local_encoder(config.encoder, image_shape, init)
    flow = MultiScaleFlow(
        config.flow,
        image_shape[-1],
        config.encoder.out_planes,
        init,
        name="dequantizer_flow",
    )
    return FlowDequantizer(encoder, flow)
