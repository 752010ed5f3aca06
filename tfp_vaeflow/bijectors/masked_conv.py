"""Masked convolutions: every pixel is transformed given those on one side of it."""

import dataclasses

import keras
import tensorflow as tf

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, Sequential, check_conditioning
from tfp_vaeflow.bijectors.elementwise import make_transform
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.convolutions import of_any_batch
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.networks import (
    ACTIVATIONS,
    Linear,
    WeightNormLinear,
    apply_kernel,
    compute_dtype,
    conditioning_ndims,
    make_conditioner,
)
from tfp_vaeflow.noise import Initializer

# How the image is turned so that the pixels that condition lie above: whether rows and
# columns are exchanged, and whether the rows are then reversed.
ORDERS = {
    "A": (False, False),
    "B": (False, True),
    "C": (True, False),
    "D": (True, True),
}


class MaskedConv(FlowBijector):
    """Transforms all channels of each pixel, given the pixels on one side of it and z.

        inverse:  v = transform(x; params),  params = network(x, conditioning)
        forward:  x = transform^-1(v; params), row by row
        inverse log-det:  sum of the transform's log-derivative

    The network: a convolution (no bias) -> + h(conditioning) -> act -> conv1x1 with
    weight norm and bias. Its convolution is shifted, so that the parameters of row i
    depend on rows i - kh .. i - 1 (order A), and for each column on the kw columns
    around it. B looks at the rows below, C and D (kernel `(kw, kh)`) at the columns to
    the left and to the right. What lies outside the image is zero.

    So `inverse` runs the network once on the whole image. `forward` runs it on one row
    (C, D: column) after another, each given the kh that it has found before: as much
    arithmetic as the inverse, in H (W) steps.

    Data-dependent initialisation scales the network's output to zero, so that a fresh
    layer is the identity: there the network need not run.

    With `global_attn`, which would have to see the whole image, there is no
    conditioning here, as in the paper's code: only the couplings have it.

    Shapes: `[B, H, W, C]`, conditioning `[B, D]` (`local_linear`: `[B, H, W, F]`).

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3.1.

    Attributes:
      shifted: the convolution, `[kh, kw, C, hidden]` in every order: its kernel is
        that of the turned image.
      transposed, reversed: how the image is turned, as in `ORDERS`.

    Args:
      channels: C.
      config: network and transform.
      order: `A`, `B`, `C` or `D`.
      kernel_size: `(kh, kw)`, kw odd.
      init: source of initial weights.
      name: names the layer.

    Raises:
      UserError: if there is no such order.
    """

    def __init__(
        self,
        channels: int,
        config: CouplingConfig,
        order: str,
        kernel_size: tuple[int, int],
        init: Initializer,
        name: str = "masked_conv",
    ):
        super().__init__(3, name, init.dtype, conditioning_ndims(config))
        if order not in ORDERS:
            raise UserError(f"{name}: order is {order!r}; expected A, B, C or D")
        self.transposed, self.reversed = ORDERS[order]
        self._height, width = kernel_size
        self._margin = (width - 1) // 2
        self._act = ACTIVATIONS[config.activation]
        self.transform = make_transform(config.transform, config.alpha)
        outputs = self.transform.num_parameters * channels
        self.shifted = Linear((*kernel_size, channels, config.hidden), init)
        self.last = WeightNormLinear((1, 1, config.hidden, outputs), init)
        self._conditioned = config.conditioning_dim > 0
        self.conditioner = None
        if config.conditioning != "global_attn":
            self.conditioner = make_conditioner(config, channels, config.hidden, init)

    def _turn(self, image):
        if self.transposed:
            image = tf.transpose(image, [0, 2, 1, 3])
        return tf.reverse(image, [1]) if self.reversed else image

    def _turn_back(self, image):
        if self.reversed:
            image = tf.reverse(image, [1])
        return tf.transpose(image, [0, 2, 1, 3]) if self.transposed else image

    def _result(self, value, log_derivative):
        """Both `[B, H, W, C]` and turned: the value, and the log-det map."""
        log_det_map = tf.reduce_sum(log_derivative, axis=-1, keepdims=True)
        return self._turn_back(value), self._turn_back(log_det_map)[..., 0]

    def _pad(self, rows, above):
        """Zeros on both sides, so that the width stays, and `above` the rows."""
        side = [self._margin, self._margin]
        return tf.pad(rows, [[0, 0], [above, 0], side, [0, 0]])

    def _rows_above(self, image):
        """What the network sees of a turned image; the last row conditions nothing."""
        return self._pad(image[:, :-1], self._height)

    def _conditioning(self, image, conditioning):
        """h for the turned image: `[B, H or 1, W or 1, hidden]`; 0 without."""
        check_conditioning(self.name, self._conditioned, conditioning)
        if self.conditioner is None:
            return tf.zeros([1, 1, 1, 1], image.dtype)
        h = self.conditioner(image, conditioning)
        return self._turn(h) if self.conditioning_ndims == 3 else h

    def _hidden(self, rows, kernel, h):
        """The network up to its last layer, on padded rows of the turned image.

        It gives kh rows less than it gets, plus one.
        """
        dtype = compute_dtype(rows.dtype)
        y = tf.nn.conv2d(tf.cast(rows, dtype), tf.cast(kernel, dtype), 1, "VALID")
        return self._act(of_any_batch(y) + tf.cast(h, dtype))

    def forward_and_log_det_map(self, v, conditioning=None):
        v = self._turn(v)
        # What all rows share is computed once, outside of the loop.
        h = self._conditioning(v, conditioning)
        shifted = tf.convert_to_tensor(self.shifted.kernel)
        last, bias = self.last.kernel(), tf.convert_to_tensor(self.last.bias)
        batch, count, width, channels = keras.ops.shape(v)
        row_shape = [v.shape[0], 1, *v.shape[2:]]

        def rows():
            return tf.TensorArray(v.dtype, count, element_shape=row_shape)

        codes = rows().unstack(tf.transpose(v, [1, 0, 2, 3])[:, :, tf.newaxis])
        map_given = self.conditioner is not None and self.conditioning_ndims == 3

        def next_row(i, known, found, log_derivatives):
            hidden = self._hidden(
                known, shifted, h[:, i, tf.newaxis] if map_given else h
            )
            params = tf.cast(apply_kernel(hidden, last), bias.dtype) + bias
            row, log_derivative = self.transform.forward_and_log_derivative(
                codes.read(i), params
            )
            known = tf.concat([known[:, 1:], self._pad(row, 0)], axis=1)
            log_derivatives = log_derivatives.write(i, log_derivative)
            return i + 1, known, found.write(i, row), log_derivatives

        # Above the first row lies only padding.
        above = [batch, self._height, width + 2 * self._margin, channels]
        _, _, *results = tf.while_loop(
            lambda i, *_: i < count,
            next_row,
            (0, tf.zeros(above, v.dtype), rows(), rows()),
            maximum_iterations=count,
        )

        def whole(stack):
            image = tf.transpose(stack.stack()[:, :, 0], [1, 0, 2, 3])
            image.set_shape(v.shape)  # a stack does not know how high it is
            return image

        return self._result(*map(whole, results))

    def inverse_and_log_det_map(self, x, conditioning=None):
        x = self._turn(x)
        h = self._conditioning(x, conditioning)
        hidden = self._hidden(self._rows_above(x), self.shifted.kernel, h)
        params = self.last(hidden)
        return self._result(*self.transform.inverse_and_log_derivative(x, params))

    def initialize_on(self, values, conditioning):
        for given in conditioning:
            check_conditioning(self.name, self._conditioned, given)
        self.last.initialize_to_zero()  # which leaves the values as they are


class MaCowUnit(Sequential):
    """Four masked convolutions, so that every pixel is seen from all sides.

        x -> masked A -> masked B -> ActNorm -> masked C -> masked D -> ActNorm -> v

    Their networks' width follows from the number of channels: 4C, or for more than 96
    channels min(2C, 512).

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3.2; the width
    as in the paper's code.

    Args:
      channels: C.
      config: transform, activation and conditioning of the masked convolutions.
      kernel_size: `(kh, kw)`.
      init: source of initial weights.
      name: begins the names of the layers.
    """

    def __init__(
        self,
        channels: int,
        config: CouplingConfig,
        kernel_size: tuple[int, int],
        init: Initializer,
        name: str = "macow_unit",
    ):
        hidden = 4 * channels if channels <= 96 else min(2 * channels, 512)
        config = dataclasses.replace(config, hidden=hidden)

        def masked(order):
            label = f"{name}_masked_{order}"
            return MaskedConv(channels, config, order, kernel_size, init, label)

        def actnorm(number):
            return ActNorm(channels, init, name=f"{name}_actnorm{number}")

        super().__init__(
            [
                masked("A"),
                masked("B"),
                actnorm(1),
                masked("C"),
                masked("D"),
                actnorm(2),
            ],
            3,
            name,
            init.dtype,
        )
