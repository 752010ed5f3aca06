"""The networks inside the bijectors: linear maps, weight norm, coupling networks."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.convolutions import apply_kernel
from tfp_vaeflow.noise import Initializer
from tfp_vaeflow.norms import Norm

ACTIVATIONS = {
    "elu": tf.nn.elu,
    "relu": tf.nn.relu,
    "leaky_relu": functools.partial(tf.nn.leaky_relu, alpha=0.1),
}

# Guards the division by a standard deviation in data-dependent initialisation.
STD_EPSILON = 1e-6

# TFP's interface of bijectors has no place for it.
_mixed_precision = contextvars.ContextVar("mixed_precision", default=False)


@contextlib.contextmanager
def mixed_precision(used: bool) -> Iterator[None]:
    """Says whether networks compute in bfloat16; what they take and give is float32.

    Weights, norms and conditioners stay float32 too.

    Reference: Micikevicius et al., arXiv 1710.03740; Kalamkar et al., arXiv 1905.12322
    (bfloat16, which needs no scaling of the loss).
    """
    token = _mixed_precision.set(used)
    try:
        yield
    finally:
        _mixed_precision.reset(token)


def compute_dtype(dtype: tf.DType) -> tf.DType:
    """What networks compute in, whose inputs and weights are of this type."""
    return tf.bfloat16 if _mixed_precision.get() else dtype


def mean_and_std(batches: Iterable[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and unbiased standard deviation over batches and all but the last axis.

    They are those of all values together, computed in float64: sums of a million
    float32 values are wrong in the fourth digit.

    Args:
      batches: `[..., C]`, all of one type; two values a channel or more in all.

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
      init: source of initial weights.
      bias: `None` for no bias, or how it starts: `zeros` or `uniform`, like the kernel.
      limit: b, if another one.
    """

    def __init__(
        self,
        kernel_shape: tuple[int, ...],
        init: Initializer,
        bias: str | None = None,
        limit: float | None = None,
    ):
        super().__init__()
        if limit is None:
            limit = 1 / math.sqrt(math.prod(kernel_shape[:-1]))
        self.kernel = tf.Variable(init.uniform(kernel_shape, limit), name="kernel")
        self.bias = None
        if bias is not None:
            shape = kernel_shape[-1:]
            start = init.zeros(shape) if bias == "zeros" else init.uniform(shape, limit)
            self.bias = tf.Variable(start, name="bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = apply_kernel(x, self.kernel)
        return y if self.bias is None else y + tf.cast(self.bias, y.dtype)


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
            tf.reduce_sum(tf.square(direction), list(range(len(direction.shape) - 1)))
        )

    def kernel(self) -> tf.Tensor:
        return self.direction * (self.gain / self._norm(self.direction))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """x of any precision; the result has that of the weights."""
        return tf.cast(apply_kernel(x, self.kernel()), self.bias.dtype) + self.bias

    def initialize(self, x: tf.Tensor, scale: float) -> tf.Tensor:
        """Makes the output on `x` have mean 0 and std `scale` in each channel."""
        mean, std = mean_and_std([self(x)])
        factor = scale / (std + STD_EPSILON)
        self.gain.assign(self.gain * factor)
        self.bias.assign((self.bias - mean) * factor)
        return self(x)

    def initialize_to_zero(self) -> None:
        """The same with scale 0: the output is 0 then, whatever the data is."""
        for variable in (self.gain, self.bias):
            variable.assign(tf.zeros_like(variable))


class GlobalLinear(Linear):
    """`h`: a dense layer of a conditioning vector, the same at every position.

    Its weight and bias start from U(-b, b), b = 1 / sqrt(conditioning_dim). Paper,
    section 3.2.

    Args:
      conditioning_dim: D.
      hidden: width of the network that it is added to.
      init: source of initial weights.
    """

    def __init__(self, conditioning_dim: int, hidden: int, init: Initializer):
        super().__init__((conditioning_dim, hidden), init, bias="uniform")

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """x `[B, (H, W,) C]`, conditioning `[B, D]` -> `[B, (1, 1,) hidden]`."""
        h = super().__call__(conditioning)
        return tf.reshape(h, [-1, *[1] * (x.shape.rank - 2), h.shape[-1]])


class LocalLinear(Linear):
    """`h`: a 3x3 convolution of a conditioning map of the input's own height and width.

    Its weight and bias start from U(-b, b), b = 1 / sqrt(fan_in). Paper, appendix (the
    variational dequantizer).

    Args:
      conditioning_dim: channels F of the map.
      hidden: width of the network that it is added to.
      init: source of initial weights.
    """

    def __init__(self, conditioning_dim: int, hidden: int, init: Initializer):
        super().__init__((3, 3, conditioning_dim, hidden), init, bias="uniform")

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """conditioning `[B, H, W, F]` -> `[B, H, W, hidden]`; x is not looked at."""
        return super().__call__(conditioning)


class GlobalAttention(tf.Module):
    """`h`: a vector from the conditioning, weighted by where x fits it.

        query = dense(conditioning),  key = conv1x1(x)
        h = query * softmax over positions of <query, key>

    The weights start Glorot-uniform, the biases at 0. Paper, section 3.2.

    Args:
      in_channels: C of x.
      conditioning_dim: D.
      hidden: width of the network that it is added to.
      init: source of initial weights.
    """

    def __init__(
        self, in_channels: int, conditioning_dim: int, hidden: int, init: Initializer
    ):
        super().__init__()

        def dense(size):
            limit = math.sqrt(6 / (size + hidden))
            return Linear((size, hidden), init, bias="zeros", limit=limit)

        self.query = dense(conditioning_dim)
        self.key = dense(in_channels)

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """x `[B, H, W, C]`, conditioning `[B, D]` -> `[B, H, W, hidden]`."""
        batch, *sizes, channels = keras.ops.shape(x)
        query = self.query(conditioning)[:, tf.newaxis, tf.newaxis]
        # A 1x1 convolution; tf.matmul would make a batch of small products of it.
        key = self.key(tf.reshape(x, [-1, channels]))
        key = tf.reshape(key, [batch, *sizes, key.shape[-1]])
        scores = tf.reduce_sum(query * key, axis=-1)
        weights = tf.nn.softmax(tf.reshape(scores, [batch, math.prod(sizes)]))
        return query * tf.reshape(weights, [batch, *sizes, 1])


def conditioning_ndims(config: CouplingConfig) -> int:
    """1 where the conditioning of one example is a vector, 3 where it is a map."""
    return 3 if config.conditioning == "local_linear" else 1


def make_conditioner(
    config: CouplingConfig, in_channels: int, hidden: int, init: Initializer
) -> GlobalLinear | LocalLinear | GlobalAttention | None:
    """What a network on `in_channels` adds to its hidden layer; None without."""
    dim = config.conditioning_dim
    if not dim:
        return None
    if config.conditioning == "global_attn":
        return GlobalAttention(in_channels, dim, hidden, init)
    kind = LocalLinear if config.conditioning == "local_linear" else GlobalLinear
    return kind(dim, hidden, init)


class CouplingNetwork(tf.Module):
    """The network of a coupling layer, on images or on vectors.

    On images: conv3x3 [-> norm] -> act -> conv1x1 [-> norm] -> + h(conditioning)
    -> act -> conv3x3 with weight norm and bias. On vectors: dense -> act -> dense
    -> + h -> act -> dense with weight norm. `h` is one of `GlobalLinear`, `LocalLinear`
    and `GlobalAttention`. Paper, section 3.2.

    Args:
      config: width, activation, norm, conditioning.
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
        self.act = ACTIVATIONS[config.activation]
        if config.dense:
            self.first = Linear((in_channels, hidden), init, bias="zeros")
            self.second = Linear((hidden, hidden), init, bias="zeros")
            self.last = WeightNormLinear((hidden, out_channels), init)
        else:
            self.first = Linear((3, 3, in_channels, hidden), init)
            self.second = Linear((1, 1, hidden, hidden), init)
            self.last = WeightNormLinear((3, 3, hidden, out_channels), init)
        self.norm1 = self.norm2 = None
        if config.norm != "none":
            self.norm1, self.norm2 = (
                Norm(config.norm, hidden, config.num_groups, init) for _ in range(2)
            )
        self.conditioner = make_conditioner(config, in_channels, hidden, init)

    def _features(self, x: tf.Tensor, conditioning: tf.Tensor | None) -> tf.Tensor:
        dtype = compute_dtype(x.dtype)
        y = self.first(tf.cast(x, dtype))
        if self.norm1 is not None:
            y = self.norm1(y)
        # A layer that is folded, as exported models have them, gives float32.
        y = self.second(self.act(tf.cast(y, dtype)))
        if self.norm2 is not None:
            y = self.norm2(y)
        y = tf.cast(y, dtype)
        if self.conditioner is not None:
            y = y + tf.cast(self.conditioner(x, conditioning), dtype)
        return self.act(y)

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor | None) -> tf.Tensor:
        """`[B, (H, W,) in_channels]`, `[B, D]` -> `[B, (H, W,) out_channels]`."""
        return self.last(self._features(x, conditioning))
