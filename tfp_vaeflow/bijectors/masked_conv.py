"""Masked convolutions: every pixel is transformed given those on one side of it."""

import dataclasses

import keras
import tensorflow as tf

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.elementwise import Transform, make_transform
from tfp_vaeflow.bijectors.parametrized import Parametrized
from tfp_vaeflow.bijectors.sequences import Layers
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks import Initializer, RowNetwork, make_row_network

# How the image is turned so that the conditioning pixels lie above: (whether rows and
# columns are exchanged, whether the rows are then reversed).
ORDERS = {
    "A": (False, False),
    "B": (False, True),
    "C": (True, False),
    "D": (True, True),
}


class MaskedConv(Parametrized):
    """Transforms all channels of each pixel, given the pixels on one side of it and z.

        inverse:  v = transform(x; params),  params = network(x, conditioning)
        forward:  x = transform^-1(v; params), row by row
        inverse log-det:  sum of the transform's log-derivative

    In order A, the parameters of a pixel in row i depend on rows i - kh .. i - 1 and on
    the kw columns around the pixel. B looks at the rows below. C and D (kernel
    `(kw, kh)`) look at the columns to the left and to the right. Pixels outside the
    image are zero.

    So `inverse` runs the network once on the whole image. `forward` runs it row by row
    (C, D: column by column), each time on the kh rows that it found last. It takes as
    much arithmetic as the inverse, in H (W) steps.

    Data-dependent initialisation scales the network's output to zero, so that a fresh
    layer is the identity.

    Shapes: `[B, H, W, C]`, conditioning `[B, D]` (`local_linear`: `[B, H, W, F]`).

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3.1.

    Attributes:
      network: sees rows of the turned image; its kernel is `[kh, kw, ...]` in every
        order.
      transposed, reversed: how the image is turned, as in `ORDERS`.

    Args:
      transform: the elementwise transform.
      network: outputs its parameters.
      order: `A`, `B`, `C` or `D`.
      name: names the layer.
      dtype: of inputs.

    Raises:
      UserError: if there is no such order.
    """

    def __init__(
        self,
        transform: Transform,
        network: RowNetwork,
        order: str,
        name: str = "masked_conv",
        dtype: tf.DType = tf.float32,
    ):
        super().__init__(transform, network, 3, name, dtype)
        if order not in ORDERS:
            raise UserError(f"{name}: order is {order!r}; expected A, B, C or D")
        self._order = order
        self.transposed, self.reversed = ORDERS[order]
        self._height, width = network.kernel_size
        self._margin = (width - 1) // 2

    def _turn(self, image):
        if self.transposed:
            image = tf.transpose(image, [0, 2, 1, 3])
        return tf.reverse(image, [1]) if self.reversed else image

    def _turn_back(self, image):
        if self.reversed:
            image = tf.reverse(image, [1])
        return tf.transpose(image, [0, 2, 1, 3]) if self.transposed else image

    def _result(self, value, log_derivative):
        """Turns both `[B, H, W, C]` back, the log-derivative as a log-det map."""
        log_det_map = tf.reduce_sum(log_derivative, axis=-1, keepdims=True)
        return self._turn_back(value), self._turn_back(log_det_map)[..., 0]

    def _pad(self, rows, above):
        """Adds zeros on both sides, to keep the width, and `above` rows of zeros."""
        side = [self._margin, self._margin]
        return tf.pad(rows, [[0, 0], [above, 0], side, [0, 0]])

    def _h(self, image, conditioning):
        """h of an image, turned: `[B, H or 1, W or 1, hidden]`, or None."""
        self.check_conditioning(conditioning)
        if self.network.conditioner is None:
            return None
        return self._turn(self.network.conditioner(image, conditioning))

    def forward_and_log_det_map(self, v, conditioning=None):
        # h and the kernels are the same for all rows: they are computed once.
        h = self._h(v, conditioning)
        has_rows = h is not None and self.network.conditioner.has_positions
        v = self._turn(v)
        network = self.network.prepared()
        batch, count, width, channels = keras.ops.shape(v)
        row_shape = [v.shape[0], 1, *v.shape[2:]]

        def rows():
            return tf.TensorArray(v.dtype, count, element_shape=row_shape)

        codes = rows().unstack(tf.transpose(v, [1, 0, 2, 3])[:, :, tf.newaxis])

        def next_row(i, known, found, log_derivatives):
            params = network(known, h[:, i, tf.newaxis] if has_rows else h)
            row, log_derivative = self.forward_by(codes.read(i), params)
            known = tf.concat([known[:, 1:], self._pad(row, 0)], axis=1)
            log_derivatives = log_derivatives.write(i, log_derivative)
            return i + 1, known, found.write(i, row), log_derivatives

        # Only padding lies above the first row.
        above = [batch, self._height, width + 2 * self._margin, channels]
        _, _, *results = tf.while_loop(
            lambda i, *_: i < count,
            next_row,
            (0, tf.zeros(above, v.dtype), rows(), rows()),
            maximum_iterations=count,
        )

        def whole(stack):
            image = tf.transpose(stack.stack()[:, :, 0], [1, 0, 2, 3])
            image.set_shape(v.shape)  # a stack has no static height
            return image

        return self._result(*map(whole, results))

    def inverse_and_log_det_map(self, x, conditioning=None):
        h = self._h(x, conditioning)
        x = self._turn(x)
        rows_above = self._pad(x[:, :-1], self._height)  # the last conditions nothing
        params = self.network.prepared()(rows_above, h)
        return self._result(*self.inverse_by(x, params))

    def folded(self, folding):
        network = self.network.folded(folding)
        return MaskedConv(self.transform, network, self._order, self.name, self.dtype)


def make_masked_conv(
    channels: int,
    config: CouplingConfig,
    order: str,
    kernel_size: tuple[int, int],
    init: Initializer | int,
    name: str = "masked_conv",
) -> MaskedConv:
    """The masked convolution of a configuration.

    Example:

        >>> config = CouplingConfig(hidden=16)
        >>> layer = make_masked_conv(6, config, "A", (2, 3), init=0)
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> v = layer.inverse(x)
        >>> np.allclose(layer.forward(tf.identity(v)), x, atol=1e-4)
        True

    Args:
      channels: C.
      config: network and transform.
      order: `A`, `B`, `C` or `D`.
      kernel_size: `(kh, kw)`, kw odd.
      init: source of initial weights, or a seed.
      name: names the layer.
    """
    init = Initializer.of(init)
    transform = make_transform(config.transform, config.alpha)
    outputs = transform.num_parameters * channels
    network = make_row_network(channels, outputs, config, kernel_size, init)
    return MaskedConv(transform, network, order, name, init.dtype)


class MaCowUnit(Layers):
    """Four masked convolutions, so that every pixel is seen from all sides.

        x -> masked A -> masked B -> ActNorm -> masked C -> masked D -> ActNorm -> v

    Their networks' width follows from the number of channels: 4C, or for more than 96
    channels min(2C, 512).

    Example:

        >>> unit = MaCowUnit(6, CouplingConfig(hidden=16), (2, 3), init=0)
        >>> list(unit.layers)[:3]
        ['masked_A', 'masked_B', 'actnorm1']

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3.2; the width
    as in the paper's code.

    Args:
      channels: C.
      config: transform, activation and conditioning of the masked convolutions.
      kernel_size: `(kh, kw)`.
      init: source of initial weights, or a seed.
      name: prefix of the layers' names.
    """

    def __init__(
        self,
        channels: int,
        config: CouplingConfig,
        kernel_size: tuple[int, int],
        init: Initializer | int,
        name: str = "macow_unit",
    ):
        init = Initializer.of(init)
        hidden = 4 * channels if channels <= 96 else min(2 * channels, 512)
        config = dataclasses.replace(config, hidden=hidden)

        def masked(order):
            label = f"{name}_masked_{order}"
            return make_masked_conv(channels, config, order, kernel_size, init, label)

        def actnorm(number):
            return ActNorm(channels, init, name=f"{name}_actnorm{number}")

        layers = {
            "masked_A": masked("A"),
            "masked_B": masked("B"),
            "actnorm1": actnorm(1),
            "masked_C": masked("C"),
            "masked_D": masked("D"),
            "actnorm2": actnorm(2),
        }
        super().__init__(layers, 3, name, init.dtype)
