"""Sequences of bijectors, which may include bijectors of TFP."""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.base import FlowBijector, added
from tfp_vaeflow.common.errors import UserError

tfb = tfp.bijectors


class PlainBijector(FlowBijector):
    """A bijector of TFP as a layer of a flow.

    If it maps each position on its own, the log-det map holds the log-det of each
    position; otherwise all positions have equal shares. The conditioning is ignored.

    Example:

        >>> layer = PlainBijector(tfb.SinhArcsinh(0.3))
        >>> layer.inverse_and_log_det_map(tf.zeros([2, 4, 4, 6]))[1].shape
        TensorShape([2, 4, 4])

    Args:
      bijector: a bijector that keeps the shape.
      event_ndims: 3 for images, 1 for vectors.

    Raises:
      UserError: if the bijector takes events with more dimensions.
    """

    def __init__(self, bijector: tfb.Bijector, event_ndims: int = 3):
        found = bijector.forward_min_event_ndims
        if found > event_ndims or bijector.inverse_min_event_ndims != found:
            raise UserError(
                f"{bijector.name} takes events of {found} dimensions or more; expected "
                "a bijector that keeps the shape of events of "
                f"{event_ndims} dimension(s)"
            )
        dtype = bijector.dtype or tf.float32
        super().__init__(event_ndims, bijector.name, dtype)
        self._bijector = bijector

    def forward_and_log_det_map(self, v, conditioning=None):
        log_det = self._bijector.forward_log_det_jacobian
        return self._bijector.forward(v), self._map(log_det, v)

    def inverse_and_log_det_map(self, x, conditioning=None):
        log_det = self._bijector.inverse_log_det_jacobian
        return self._bijector.inverse(x), self._map(log_det, x)

    def _map(self, log_det, value):
        if self._bijector.forward_min_event_ndims <= 1:
            return log_det(value, 1)
        ndims = self.forward_min_event_ndims
        positions = math.prod(keras.ops.shape(value)[1:-1])
        share = log_det(value, ndims) / tf.cast(positions, value.dtype)
        if share.shape.rank:  # not the same for all images
            share = tf.reshape(share, [-1] + [1] * (ndims - 1))
        return tf.broadcast_to(share, tf.shape(value)[:-1])


class Sequential(FlowBijector):
    """Bijectors one after another.

    forward: `members[0](members[1](... v))`; inverse: members in the order given,
    first to last. The conditioning goes to every member; their log-det maps add up.

    Example:

        >>> flow = Sequential([Conv1x1(6, init=0), tfb.SinhArcsinh(0.3)])
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> v = flow.inverse(x)
        >>> np.allclose(flow.forward(tf.identity(v)), x, atol=1e-4)
        True

    Args:
      members: bijectors in the order in which the data passes them (x -> v);
        bijectors of TFP may be among them, and get no conditioning.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        members: Sequence[tfb.Bijector],
        event_ndims: int = 3,
        name: str = "sequential",
        dtype: tf.DType = tf.float32,
    ):
        members = [
            member
            if isinstance(member, FlowBijector)
            else PlainBijector(member, event_ndims)
            for member in members
        ]
        ndims = max((member.conditioning_ndims for member in members), default=1)
        super().__init__(event_ndims, name, dtype, ndims)
        self.members = members

    def forward_and_log_det_map(self, v, conditioning=None):
        value, maps = v, []
        for member in reversed(self.members):
            value, log_det_map = member.forward_and_log_det_map(value, conditioning)
            maps.append(log_det_map)
        return value, added(maps, self.dtype)

    def inverse_and_log_det_map(self, x, conditioning=None):
        value, maps = x, []
        for member in self.members:
            value, log_det_map = member.inverse_and_log_det_map(value, conditioning)
            maps.append(log_det_map)
        return value, added(maps, self.dtype)

    def position_shares(self, values):
        # The last member gives v; those before it keep the positions of x.
        if not self.members:
            return super().position_shares(values)
        return self.members[-1].position_shares(values)

    def initialize_on(self, values, conditioning):
        for member in self.members:
            member.initialize_on(values, conditioning)

    def folded(self, folding):
        members = []
        for member in self.members:
            member = member.folded(folding)
            joined = members[-1].joined_with(member) if members else None
            if joined is None:
                members.append(member)
            else:
                members[-1] = joined
        ndims = self.forward_min_event_ndims
        return Sequential(members, ndims, self.name, self.dtype)


class Repeated(Sequential):
    """Bijectors that are built alike, one after another.

    Their weights are stored stacked. Where XLA compiles, the bijectors run as one loop.

    Example:

        >>> flow = Repeated(lambda number: ActNorm(6, init=number), count=3)
        >>> [variable.shape.as_list() for variable in flow.variables]
        [[3, 6], [3, 6]]

    Args:
      make: (number) -> bijector.
      count: number of bijectors.
      event_ndims, name, dtype: see `Sequential`.
    """

    def __init__(
        self,
        make: Callable[[int], FlowBijector],
        count: int,
        event_ndims: int = 3,
        name: str = "repeated",
        dtype: tf.DType = tf.float32,
    ):
        members, stacks = compute.stacked(make, count)
        super().__init__(members, event_ndims, name, dtype)
        self._stacks = stacks

    def forward_and_log_det_map(self, v, conditioning=None):
        x, maps = compute.in_turn(self.members[::-1], _forward, v, conditioning)
        return x, added(maps, self.dtype)

    def inverse_and_log_det_map(self, x, conditioning=None):
        v, maps = compute.in_turn(self.members, _inverse, x, conditioning)
        return v, added(maps, self.dtype)


def _forward(member, v, conditioning):
    return member.forward_and_log_det_map(v, conditioning)


def _inverse(member, x, conditioning):
    return member.inverse_and_log_det_map(x, conditioning)


class Layers(Sequential):
    """Bijectors one after another, each with a role.

    Attributes:
      layers: the layers by role.

    Args:
      layers: by role, in the order in which the data passes them (x -> v).
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        layers: dict[str, FlowBijector],
        event_ndims: int,
        name: str,
        dtype: tf.DType,
    ):
        super().__init__(list(layers.values()), event_ndims, name, dtype)
        self._roles = tuple(layers)

    @property
    def layers(self) -> dict[str, FlowBijector]:
        """The layers by role."""
        return dict(zip(self._roles, self.members, strict=True))
