"""A bijector that sees its conditioning through a network."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector


class ConditionedThrough(FlowBijector):
    """A bijector whose conditioning is what a network makes of it.

        forward, inverse:  those of the inner bijector, given network(conditioning)

    The network runs once, however many layers the inner bijector has.

    Example:

        >>> network = tf.Variable(tf.random.normal([8, 4]))
        >>> inner = make_coupling(
        ...     6, CouplingConfig(hidden=16, conditioning_dim=4), ChannelSplit(), init=0
        ... )
        >>> layer = ConditionedThrough(inner, lambda z: z @ network)
        >>> x, z = tf.random.normal([2, 4, 4, 6]), tf.random.normal([2, 8])
        >>> v = layer.inverse(x, conditioning=z)
        >>> again = layer.forward(tf.identity(v), conditioning=z)
        >>> np.allclose(again, x, atol=1e-4)
        True

    Args:
      inner: the bijector.
      network: conditioning -> the conditioning of the inner bijector.
    """

    def __init__(self, inner: FlowBijector, network: Callable[[tf.Tensor], tf.Tensor]):
        super().__init__(inner.forward_min_event_ndims, inner.name, inner.dtype)
        self._inner = inner
        self._network = network

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._inner.forward_and_log_det_map(v, self._network(conditioning))

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._inner.inverse_and_log_det_map(x, self._network(conditioning))

    def position_shares(self, values):
        return self._inner.position_shares(values)

    def initialize_on(self, values, conditioning):
        self._inner.initialize_on(values, list(map(self._network, conditioning)))

    def folded(self, folding):
        return ConditionedThrough(self._inner.folded(folding), self._network)
