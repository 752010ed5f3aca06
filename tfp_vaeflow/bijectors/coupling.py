"""Coupling layers: one part of the channels decides how the other is transformed."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.channels import ChannelSplit
from tfp_vaeflow.bijectors.elementwise import Transform, make_transform
from tfp_vaeflow.bijectors.parametrized import Parametrized
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks import (
    AnyNetwork,
    Initializer,
    Network,
    make_coupling_network,
    unseen_keras_variables,
)


class Coupling(Parametrized):
    """Transforms one part of the channels, given the other part and z.

        inverse:  v_a = x_a
                  v_b = transform(x_b; network(x_a, conditioning))
        forward:  x_a = v_a
                  x_b = transform^-1(v_b; network(v_a, conditioning))
        inverse log-det:  sum over b of the transform's log-derivative

    Data-dependent initialisation makes the network's output 0 if it can, so that
    training starts from the identity. A `Network` can, if it implements
    `initialize_to_zero`. Other networks keep their initial weights: give them a last
    layer of zeros (in Keras, `kernel_initializer="zeros"`), because with large random
    parameters `forward` may overflow.

    Shapes: `[B, H, W, C]` (or `[B, C]`); the conditioning is a vector `[B, D]`, or what
    a `Network` declares.

    Example, with a custom network:

        >>> class Conditioned(tf.Module):
        ...     def __init__(self, in_channels, out_channels):
        ...         super().__init__()
        ...         shape = [in_channels, out_channels]
        ...         self.of_x = tf.Variable(tf.random.normal(shape))
        ...         self.of_z = tf.Variable(tf.random.normal([8, out_channels]))
        ...
        ...     def __call__(self, x, z):
        ...         return tf.tanh(x @ self.of_x + (z @ self.of_z)[:, None, None])
        >>> coupling = Coupling(6, ChannelSplit(), Affine(), Conditioned)
        >>> x, z = tf.random.normal([2, 4, 4, 6]), tf.random.normal([2, 8])
        >>> v = coupling.inverse(x, conditioning=z)
        >>> again = coupling.forward(tf.identity(v), conditioning=z)
        >>> np.allclose(again, x, atol=1e-4)
        True

    Reference: Dinh et al., *Real NVP*, arXiv 1605.08803; conditioned on z as in the
    paper, section 3.2.

    Args:
      channels: C.
      split: chooses the channels that condition.
      transform: the elementwise transform.
      make_network: a function of (in_channels, out_channels), called once; a class
        will do. It returns a `tfp_vaeflow.networks.Network`, or else a Keras layer, a
        `tf.Module` or a function, which are called with x and, where there is one, the
        conditioning (see `tfp_vaeflow.networks.AnyNetwork`). `in_channels` is the
        number of channels that condition. `out_channels` is the number of transformed
        channels times the parameters of the transform, which come one block of channels
        after another: for `Affine`, first all shifts, then all s.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.

    Raises:
      UserError: if there are too few channels to split in two, or a Keras layer of the
        network is not built.
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
        inputs = channels - transformed
        network = make_network(inputs, transform.num_parameters * transformed)
        if not isinstance(network, Network):
            network = AnyNetwork(network, (*[None] * event_ndims, inputs))
        super().__init__(transform, network, event_ndims, name, dtype)
        self._keras_variables = unseen_keras_variables(network)
        self._channels = channels
        self._split = split

    def _run(self, apply, value, conditioning):
        """Either direction: `apply` is `forward_by` or `inverse_by`."""
        self.check_conditioning(conditioning)
        self._check_channels("x", value, self._channels)
        part_a, part_b = self._split.split(value)
        call = type(self.network).__call__  # unbound: shared by the whole class
        params = compute.shared(self.network, call, part_a, conditioning)
        expected = self.transform.num_parameters * part_b.shape[-1]
        self._check_channels("the output of the network", params, expected)
        part_b, log_derivative = apply(part_b, params)
        log_det_map = tf.reduce_sum(log_derivative, axis=-1)
        return self._split.join(part_a, part_b), log_det_map

    def _check_channels(self, what, value, expected):
        if value.shape[-1] != expected:
            raise ValueError(
                f"{self.name}: {what} has {value.shape[-1]} channels; expected "
                f"{expected}"
            )

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
    init: Initializer | int,
    name: str = "coupling",
) -> Coupling:
    """The coupling of a configuration, with a `CouplingNetwork`.

    Example:

        >>> config = CouplingConfig(hidden=16, conditioning_dim=8)
        >>> coupling = make_coupling(6, config, ChannelSplit(), init=0)
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> z = tf.random.normal([2, 8])
        >>> v = coupling.inverse(x, conditioning=z)
        >>> again = coupling.forward(tf.identity(v), conditioning=z)
        >>> np.allclose(again, x, atol=1e-4)
        True

    Args:
      channels: C.
      config: network and transform.
      split: chooses the channels that condition.
      init: source of initial weights, or a seed.
      name: names the layer.
    """
    init = Initializer.of(init)
    return Coupling(
        channels,
        split,
        make_transform(config.transform, config.alpha),
        lambda inputs, outputs: make_coupling_network(config, inputs, outputs, init),
        1 if config.dense else 3,
        name,
        init.dtype,
    )
