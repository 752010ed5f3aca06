"""Coupling layers: one part of the channels decides how the other is transformed."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.channels import ChannelSplit
from tfp_vaeflow.bijectors.elementwise import Transform, make_transform
from tfp_vaeflow.bijectors.parametrized import Parametrized
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.networks import AnyNetwork, Network, make_coupling_network
from tfp_vaeflow.noise import Initializer


class Coupling(Parametrized):
    """Transforms one part of the channels, given the other part and z.

        inverse:  v_a = x_a
                  v_b = transform(x_b; network(x_a, conditioning))
        forward:  x_a = v_a
                  x_b = transform^-1(v_b; network(v_a, conditioning))
        inverse log-det:  sum over b of the transform's log-derivative

    Data-dependent initialisation scales the network's output to zero if it can, so that
    a fresh coupling is the identity.

    Shapes: `[B, H, W, C]` (or `[B, C]`), conditioning as the network takes it.

    Example, with a network of one's own:

        def make_network(in_channels, out_channels):
            return keras.layers.Conv2D(out_channels, 3, padding="same")

        coupling = Coupling(6, ChannelSplit(), Affine(), make_network)

    Reference: Dinh et al., *Real NVP*, arXiv 1605.08803; conditioned on z as in the
    paper, section 3.2.

    Args:
      channels: C.
      split: which channels condition.
      transform: the elementwise transform.
      make_network: (in_channels, out_channels) -> a `Network`, or a function of x and,
        if there is one, the conditioning.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.

    Raises:
      UserError: if there are too few channels to split in two.
    """

    def __init__(
        self,
        channels: int,
        split: ChannelSplit,
        transform: Transform,
        make_network: Callable[[int, int], Network | Callable[..., tf.Tensor]],
        event_ndims: int = 3,
        name: str = "coupling",
        dtype: tf.DType = tf.float32,
    ):
        transformed = split.transformed(channels)
        if not 0 < transformed < channels:
            raise UserError(
                f"{name}: {channels} channels cannot be split with factor "
                f"{split.factor}; expected at least one channel on either side"
            )
        network = make_network(
            channels - transformed, transform.num_parameters * transformed
        )
        if not isinstance(network, Network):
            network = AnyNetwork(network)
        super().__init__(transform, network, event_ndims, name, dtype)
        self._channels = channels
        self._split = split

    def _run(self, transform, value, conditioning):
        """Either direction, `transform` being that of the elementwise transform."""
        self.check_conditioning(conditioning)
        condition, rest = self._split.split(value)
        params = compute.shared(
            self.network, type(self.network).__call__, condition, conditioning
        )
        rest, log_derivative = transform(rest, params)
        joined = self._split.join(condition, rest)
        return joined, tf.reduce_sum(log_derivative, axis=-1)

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._run(self.forward_by, v, conditioning)

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._run(self.inverse_by, x, conditioning)

    def folded(self, folding):
        network = self.network.folded(folding)
        return Coupling(
            self._channels,
            self._split,
            self.transform,
            lambda *_: network,
            self.forward_min_event_ndims,
            self.name,
            self.dtype,
        )


def make_coupling(
    channels: int,
    config: CouplingConfig,
    split: ChannelSplit,
    init: Initializer,
    name: str = "coupling",
) -> Coupling:
    """The coupling of a configuration, with a `CouplingNetwork`.

    Args:
      channels: C.
      config: network and transform.
      split: which channels condition.
      init: source of initial weights.
      name: names the layer.
    """
    return Coupling(
        channels,
        split,
        make_transform(config.transform, config.alpha),
        lambda inputs, outputs: make_coupling_network(config, inputs, outputs, init),
        1 if config.dense else 3,
        name,
        init.dtype,
    )
