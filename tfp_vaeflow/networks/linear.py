"""Linear maps, weight norm, activations."""

import functools
import math
from collections.abc import Iterable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.networks.initializer import Initializer

ACTIVATIONS = {
    "elu": lambda x: compute.elu(x),
    "relu": tf.nn.relu,
    "leaky_relu": functools.partial(tf.nn.leaky_relu, alpha=0.1),
}

# Guards the division by a standard deviation in data-dependent initialisation.
STD_EPSILON = 1e-6


def mean_and_std(batches: Iterable[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and unbiased standard deviation over batches and all but the last axis.

    They are those of all values together, computed in float64: sums of a million
    float32 values are wrong in the fourth digit.

    Args:
      batches: `[..., C]`, all of one type; in all, at least two values per channel.

    Returns:
      Each `[C]`.

    Reference: Chan, Golub & LeVeque, *Algorithms for Computing the Sample Variance*,
    The American Statistician 37 (1983).
    """
    count, mean, squares = 0.0, 0.0, 0.0
    for x in batches:
        exact = tf.cast(x, tf.float64)
        batch_mean, variance = tf.nn.moments(exact, list(range(x.shape.rank - 1)))
        number = math.prod(x.shape[:-1])
        total = count + number
        difference = batch_mean - mean
        mean += difference * (number / total)
        squares += number * variance + difference**2 * (count * number / total)
        count = total
    std = tf.sqrt(squares / (count - 1))
    return tf.cast(mean, x.dtype), tf.cast(std, x.dtype)


class Linear(tf.Module):
    """A dense layer or a convolution, told apart by the rank of the kernel.

    The kernel is drawn from U(-b, b), by default with b = 1 / sqrt(fan_in).

    Args:
      kernel_shape: `(in, out)` or `(kh, kw, in, out)`.
      init: source of initial weights, or a seed.
      bias: `None` for no bias, or how it starts: `zeros` or `uniform`, like the kernel.
      limit: b, if not the default.
    """

    kernel = compute.Weight()
    bias = compute.Weight()

    def __init__(
        self,
        kernel_shape: tuple[int, ...],
        init: Initializer | int,
        bias: str | None = None,
        limit: float | None = None,
    ):
        init = Initializer.of(init)
        super().__init__()
        if limit is None:
            limit = 1 / math.sqrt(math.prod(kernel_shape[:-1]))
        self.kernel = init.uniform(kernel_shape, limit)
        self.bias = None
        if bias is not None:
            shape = kernel_shape[-1:]
            self.bias = (
                init.zeros(shape) if bias == "zeros" else init.uniform(shape, limit)
            )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Computes in the precision of x."""
        y = compute.linear(x, self.kernel)
        return y if self.bias is None else y + tf.cast(self.bias, y.dtype)

    def folded(self, kernel_dtype: tf.DType) -> "FixedLinear":
        """The same layer with weights that stay as they are."""
        return FixedLinear(self.kernel, self.bias, kernel_dtype)


class WeightNormLinear(tf.Module):
    """A weight-normalised dense layer or convolution with bias.

    The kernel is `gain * direction / ||direction||`, the norm taken for each output
    channel; `direction ~ N(0, 0.05)`, `gain = ||direction||`, bias 0 at the start.

    Reference: Salimans & Kingma, *Weight Normalization*, arXiv 1602.07868.

    Args:
      kernel_shape: `(in, out)` or `(kh, kw, in, out)`.
      init: source of initial weights, or a seed.
    """

    direction = compute.Weight()
    gain = compute.Weight()
    bias = compute.Weight()

    def __init__(self, kernel_shape: tuple[int, ...], init: Initializer | int):
        init = Initializer.of(init)
        super().__init__()
        self._rank = len(kernel_shape)
        self.direction = init.normal(kernel_shape, 0.05)
        self.gain = self._norm(self.direction).numpy()
        self.bias = init.zeros(kernel_shape[-1:])

    def _norm(self, direction: tf.Tensor) -> tf.Tensor:
        """The norm of each output channel."""
        return tf.sqrt(
            tf.reduce_sum(tf.square(direction), list(range(-self._rank, -1)))
        )

    @functools.partial(compute.Derived, replaces=("direction", "gain"))
    def kernel(self) -> tf.Tensor:
        """The kernel, computed from the direction and the gain."""
        scale = self.gain / self._norm(self.direction)
        ones = [tf.newaxis] * (self._rank - 1)
        return self.direction * scale[..., *ones, :]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Takes x of any precision; the result has the precision of the weights."""
        return tf.cast(compute.linear(x, self.kernel), self.bias.dtype) + self.bias

    def initialize(self, x: tf.Tensor, scale: float) -> tf.Tensor:
        """Makes the output on `x` have mean 0 and std `scale` in each channel."""
        mean, std = mean_and_std([self(x)])
        factor = scale / (std + STD_EPSILON)
        self.gain.assign(self.gain * factor)
        self.bias.assign((self.bias - mean) * factor)
        return self(x)

    def initialize_to_zero(self) -> None:
        """Makes the output 0 for any data, like `initialize` with scale 0."""
        for variable in (self.gain, self.bias):
            variable.assign(tf.zeros_like(variable))

    def folded(self, kernel_dtype: tf.DType) -> "FixedLinear":
        """The same layer with a fixed kernel in place of direction and gain."""
        return FixedLinear(self.kernel, self.bias, kernel_dtype, self.bias.dtype)


def fixed(value: tf.Tensor, dtype: tf.DType) -> tf.Variable:
    """A weight that no training changes: a variable, which a SavedModel holds once."""
    return tf.Variable(tf.cast(value, dtype), trainable=False)


class FixedLinear(tf.Module):
    """A dense layer or convolution whose weights stay as they are.

    Args:
      kernel: `[in, out]` or `[kh, kw, in, out]`.
      bias: `[out]`, or None.
      kernel_dtype: of the stored kernel; a call casts it to the precision of x.
      result_dtype: the precision of the result; None for that of x.
    """

    kernel = compute.Weight()
    bias = compute.Weight()

    def __init__(
        self,
        kernel: tf.Tensor,
        bias: tf.Tensor | None,
        kernel_dtype: tf.DType,
        result_dtype: tf.DType | None = None,
    ):
        super().__init__()
        self._result_dtype = result_dtype
        self.kernel = fixed(kernel, kernel_dtype)
        self.bias = None if bias is None else fixed(bias, kernel.dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Computes in the precision of x; `result_dtype` is that of the result."""
        y = compute.linear(x, self.kernel)
        y = tf.cast(y, self._result_dtype or x.dtype)
        return y if self.bias is None else y + tf.cast(self.bias, y.dtype)
