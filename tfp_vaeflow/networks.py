"""The networks inside the bijectors: linear maps, weight norm, coupling networks."""

import functools
import math

import tensorflow as tf

from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.noise import Initializer

ACTIVATIONS = {
    "elu": tf.nn.elu,
    "relu": tf.nn.relu,
    "leaky_relu": functools.partial(tf.nn.leaky_relu, alpha=0.1),
}

# Guards the division by a standard deviation in data-dependent initialisation.
STD_EPSILON = 1e-6


def mean_and_std(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and unbiased standard deviation over all but the last axis, each `[C]`.

    There must be two values or more.
    """
    axes = list(range(x.shape.rank - 1))
    count = tf.cast(tf.size(x) / tf.shape(x)[-1], x.dtype)
    mean, variance = tf.nn.moments(x, axes)
    return mean, tf.sqrt(variance * count / (count - 1))


def apply_kernel(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`x @ kernel` for a kernel `[in, out]`; a convolution for `[kh, kw, in, out]`.

    Convolutions have stride 1 and zero padding, so the resolution stays.
    """
    if kernel.shape.rank == 2:
        return tf.matmul(x, kernel)
    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME")


class Linear(tf.Module):
    """A dense layer or a convolution, told apart by the rank of the kernel.

    The kernel is drawn from U(-b, b) with b = 1 / sqrt(fan_in).

    Args:
      kernel_shape: `(in, out)` or `(kh, kw, in, out)`.
      init: source of initial weights.
      bias: `None` for no bias, or how it starts: `zeros` or `uniform`, like the kernel.
    """

    def __init__(
        self, kernel_shape: tuple[int, ...], init: Initializer, bias: str | None = None
    ):
        super().__init__()
        limit = 1 / math.sqrt(math.prod(kernel_shape[:-1]))
        self.kernel = tf.Variable(init.uniform(kernel_shape, limit), name="kernel")
        self.bias = None
        if bias is not None:
            shape = kernel_shape[-1:]
            start = init.zeros(shape) if bias == "zeros" else init.uniform(shape, limit)
            self.bias = tf.Variable(start, name="bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = apply_kernel(x, self.kernel)
        return y if self.bias is None else y + self.bias


class WeightNormLinear(tf.Module):
    """A weight-normalised dense layer or convolution with bias.

    The kernel is `gain * direction / ||direction||`, the norm taken for each output
    channel; `direction ~ N(0, 0.05)`, `gain = ||direction||`, bias 0 at the start.

    Reference: Salimans & Kingma, *Weight Normalization*, arXiv 1602.07868.

    Args:
      kernel_shape: `(in, out)` or `(kh, kw, in, out)`.
      init: source of initial weights.
    """

    def __init__(self, kernel_shape: tuple[int, ...], init: Initializer):
        super().__init__()
        direction = init.normal(kernel_shape, 0.05)
        self.direction = tf.Variable(direction, name="direction")
        self.gain = tf.Variable(self._norm(direction), name="gain")
        self.bias = tf.Variable(init.zeros(kernel_shape[-1:]), name="bias")

    @staticmethod
    def _norm(direction: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(
            tf.reduce_sum(direction**2, list(range(len(direction.shape) - 1)))
        )

    def kernel(self) -> tf.Tensor:
        return self.direction * (self.gain / self._norm(self.direction))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return apply_kernel(x, self.kernel()) + self.bias

    def initialize(self, x: tf.Tensor, scale: float) -> tf.Tensor:
        """Makes the output on `x` have mean 0 and std `scale` in each channel."""
        mean, std = mean_and_std(self(x))
        factor = scale / (std + STD_EPSILON)
        self.gain.assign(self.gain * factor)
        self.bias.assign((self.bias - mean) * factor)
        return self(x)


class CouplingNetwork(tf.Module):
    """The network of a coupling layer, on images or on vectors.

    On images: conv3x3 -> act -> conv1x1 -> + h(conditioning) -> act -> conv3x3 with
    weight norm and bias. On vectors: dense -> act -> dense -> + h -> act -> dense with
    weight norm. `h` is a dense layer of the conditioning vector, the same at every
    position (`global_linear`; paper, section 3.2).

    Args:
      config: width, activation, length of the conditioning.
      in_channels, out_channels: of the network.
      init: source of initial weights.
    """

    def __init__(
        self,
        config: CouplingConfig,
        in_channels: int,
        out_channels: int,
        init: Initializer,
    ):
        super().__init__()
        hidden = config.hidden
        self._act = ACTIVATIONS[config.activation]
        if config.dense:
            self.first = Linear((in_channels, hidden), init, bias="zeros")
            self.second = Linear((hidden, hidden), init, bias="zeros")
            self.last = WeightNormLinear((hidden, out_channels), init)
        else:
            self.first = Linear((3, 3, in_channels, hidden), init)
            self.second = Linear((1, 1, hidden, hidden), init)
            self.last = WeightNormLinear((3, 3, hidden, out_channels), init)
        self.conditioner = None
        if config.conditioning_dim:
            shape = (config.conditioning_dim, hidden)
            self.conditioner = Linear(shape, init, bias="uniform")

    def _features(self, x: tf.Tensor, conditioning: tf.Tensor | None) -> tf.Tensor:
        y = self.second(self._act(self.first(x)))
        if self.conditioner is not None:
            h = self.conditioner(conditioning)
            for _ in range(y.shape.rank - 2):
                h = h[:, tf.newaxis]
            y = y + h
        return self._act(y)

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor | None) -> tf.Tensor:
        """`[B, (H, W,) in_channels]`, `[B, D]` -> `[B, (H, W,) out_channels]`."""
        return self.last(self._features(x, conditioning))

    def initialize(self, x: tf.Tensor, conditioning: tf.Tensor | None) -> tf.Tensor:
        """Data-dependent initialisation: scales the output to zero, returns it."""
        return self.last.initialize(self._features(x, conditioning), 0.0)
