"""The network of a masked convolution."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks.base import Folding
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


class RowNetwork(tf.Module):
    """Outputs the parameters of a row of pixels, given the rows above it.

    A convolution (no bias) -> + h(conditioning) -> act -> conv1x1 with weight norm and
    bias. The convolution has no padding: its output has kh - 1 rows and kw - 1 columns
    less than its input. `make_row_network` makes one from a `CouplingConfig`.

    Args:
      shifted: the convolution, `[kh, kw, C, hidden]`.
      last: the 1x1 convolution.
      act: the activation.
      conditioner: h; None where the network does not use the conditioning.
      is_conditioned: whether there is a conditioning.
      conditioning_ndims: 1 where it is a vector, 3 where it is a map.
    """

    def __init__(
        self,
        shifted: Linear,
        last: WeightNormLinear | FixedLinear,
        act: Callable[[tf.Tensor], tf.Tensor],
        conditioner: Conditioner | None,
        is_conditioned: bool,
        conditioning_ndims: int,
    ):
        super().__init__()
        self.shifted, self.last = shifted, last
        self.act = act
        self.conditioner = conditioner
        self.is_conditioned = is_conditioned
        self.conditioning_ndims = conditioning_ndims

    @property
    def kernel_size(self) -> tuple[int, int]:
        """`(kh, kw)`."""
        return tuple(self.shifted.kernel.shape[:2])

    def prepared(self) -> Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]:
        """A function of rows and h, whose kernels are computed once.

        It takes rows `[B, R + kh - 1, W + kw - 1, C]` and h, `[B, R or 1, W or 1,
        hidden]` or None, and gives `[B, R, W, out_channels]`.
        """
        shifted = tf.convert_to_tensor(self.shifted.kernel)
        last, bias = map(tf.convert_to_tensor, (self.last.kernel, self.last.bias))

        def run(rows, h):
            dtype = compute.network_dtype(rows.dtype)
            y = compute.conv2d_valid(tf.cast(rows, dtype), shifted)
            if h is not None:
                y = y + tf.cast(h, dtype)
            return tf.cast(compute.linear(self.act(y), last), bias.dtype) + bias

        return run

    def initialize_to_zero(self) -> bool:
        """Makes the output 0 for any input; returns whether it could."""
        self.last.initialize_to_zero()
        return True

    def folded(self, folding: Folding) -> "RowNetwork":
        """The same function with less to compute; see `Folding`."""
        # Its kernels are small: in bfloat16 they gain nothing.
        return RowNetwork(
            self.shifted,
            self.last.folded(self.last.bias.dtype),
            self.act,
            folding.conditioner(self.conditioner),
            self.is_conditioned,
            self.conditioning_ndims,
        )


def make_row_network(
    channels: int,
    out_channels: int,
    config: CouplingConfig,
    kernel_size: tuple[int, int],
    init: Initializer | int,
) -> RowNetwork:
    """The network of a configuration.

    Args:
      channels, out_channels: of the network.
      config: width, activation, conditioning. With `global_attn` the network has no
        conditioner, as in the paper's code: attention needs the whole image.
      kernel_size: `(kh, kw)`.
      init: source of initial weights, or a seed.
    """
    init = Initializer.of(init)
    shifted = Linear((*kernel_size, channels, config.hidden), init)
    last = WeightNormLinear((1, 1, config.hidden, out_channels), init)
    conditioner = None
    if config.conditioning != "global_attn":
        conditioner = make_conditioner(config, channels, config.hidden, init)
    return RowNetwork(
        shifted,
        last,
        ACTIVATIONS[config.activation],
        conditioner,
        config.conditioning_dim > 0,
        conditioning_ndims(config),
    )
