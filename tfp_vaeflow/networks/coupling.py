"""The network of a coupling layer."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks.base import Network
from tfp_vaeflow.networks.conditioners import (
    Conditioner,
    conditioning_ndims,
    make_conditioner,
)
from tfp_vaeflow.networks.initializer import Initializer
from tfp_vaeflow.networks.linear import (
    ACTIVATIONS,
    FixedLinear,
    Linear,
    WeightNormLinear,
)
from tfp_vaeflow.networks.norms import Norm


class CouplingNetwork(Network):
    """The network of a coupling layer, on images or on vectors.

    On images: conv3x3 [-> norm] -> act -> conv1x1 [-> norm] -> + h(conditioning)
    -> act -> conv3x3 with weight norm and bias. On vectors: dense -> act -> dense
    -> + h -> act -> dense with weight norm. `h` is one of `GlobalLinear`,
    `LocalLinear`, `MapLinear` and `GlobalAttention`. Paper, section 3.2.

    `make_coupling_network` makes one from a `CouplingConfig`.

    Args:
      first, second, last: the linear layers.
      act: the activation.
      norms: after the first and the second layer; None for none.
      conditioner: h; None without conditioning.
      conditioning_ndims: see `Network`.
    """

    def __init__(
        self,
        first: Linear | FixedLinear,
        second: Linear | FixedLinear,
        last: WeightNormLinear | FixedLinear,
        act: Callable[[tf.Tensor], tf.Tensor],
        norms: tuple[Norm | None, Norm | None] = (None, None),
        conditioner: Conditioner | None = None,
        conditioning_ndims: int = 1,
    ):
        super().__init__()
        self.first, self.second, self.last = first, second, last
        self.act = act
        self.norm1, self.norm2 = norms
        self.conditioner = conditioner
        self.is_conditioned = conditioner is not None
        self.conditioning_ndims = conditioning_ndims

    def __call__(self, x, conditioning=None):
        """Computes in the network's precision; the result has that of the weights."""
        dtype = compute.network_dtype(x.dtype)
        y = self.first(tf.cast(x, dtype))
        if self.norm1 is not None:
            y = self.norm1(y)
        y = self.second(self.act(y))
        if self.norm2 is not None:
            y = self.norm2(y)
        if self.conditioner is not None:
            y = y + tf.cast(self.conditioner(x, conditioning), dtype)
        return self.last(self.act(y))

    def initialize_to_zero(self):
        """Makes the output of the last layer 0; returns True."""
        self.last.initialize_to_zero()
        return True

    def folded(self, folding):
        """The same network with batch norm and weight norm folded."""
        dtype = folding.kernel_dtype
        first, norm1 = _folded_pair(self.first, self.norm1, dtype)
        second, norm2 = _folded_pair(self.second, self.norm2, dtype)
        return CouplingNetwork(
            first,
            second,
            self.last.folded(dtype),
            self.act,
            (norm1, norm2),
            folding.conditioner(self.conditioner),
            self.conditioning_ndims,
        )


def _folded_pair(
    linear: Linear, norm: Norm | None, dtype: tf.DType
) -> tuple[FixedLinear, Norm | None]:
    """Folds a convolution and a batch norm after it into one; keeps another norm."""
    if norm is None or not norm.is_batch:
        return linear.folded(dtype), norm
    scale, shift = (tf.cast(v, linear.kernel.dtype) for v in norm.scale_and_shift())
    return FixedLinear(linear.kernel * scale, shift, dtype), None


def make_coupling_network(
    config: CouplingConfig, in_channels: int, out_channels: int, init: Initializer | int
) -> CouplingNetwork:
    """The network of a configuration.

    Args:
      config: width, activation, norm, conditioning.
      in_channels, out_channels: of the network.
      init: source of initial weights, or a seed.
    """
    init = Initializer.of(init)
    hidden = config.hidden
    if config.dense:
        first = Linear((in_channels, hidden), init, bias="zeros")
        second = Linear((hidden, hidden), init, bias="zeros")
        last = WeightNormLinear((hidden, out_channels), init)
    else:
        first = Linear((3, 3, in_channels, hidden), init)
        second = Linear((1, 1, hidden, hidden), init)
        last = WeightNormLinear((3, 3, hidden, out_channels), init)
    norms = None, None
    if config.norm != "none":
        norms = tuple(
            Norm(config.norm, hidden, config.num_groups, init) for _ in range(2)
        )
    return CouplingNetwork(
        first,
        second,
        last,
        ACTIVATIONS[config.activation],
        norms,
        make_conditioner(config, in_channels, hidden, init),
        conditioning_ndims(config),
    )
