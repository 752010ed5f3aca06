"""Conditioners: how z, or a map, enters a network; each gives `h(conditioning)`.

`has_positions` says whether h differs from position to position.
"""

import math

import keras
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks.initializer import Initializer
from tfp_vaeflow.networks.linear import FixedLinear, Linear


class GlobalLinear(Linear):
    """`h = z W + b`: a dense layer of a vector, the same at every position.

    Its weight and bias start from U(-b, b), b = 1 / sqrt(conditioning_dim). Paper,
    section 3.2.

    Args:
      conditioning_dim: D.
      hidden: width of the network that it is added to.
      init: source of initial weights, or a seed.
    """

    has_positions = False

    def __init__(self, conditioning_dim: int, hidden: int, init: Initializer | int):
        init = Initializer.of(init)
        super().__init__((conditioning_dim, hidden), init, bias="uniform")

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """conditioning `[B, D]` -> `[B, (1, 1,) hidden]`; x is not looked at."""
        h = super().__call__(conditioning)
        return tf.reshape(h, [-1, *[1] * (x.shape.rank - 2), h.shape[-1]])


class MapLinear(Linear):
    """`h`: a 1x1 convolution of a small map, brought to the input's height and width.

    At a finer resolution, each cell of the map is repeated. At a coarser one, cells are
    averaged. The weight and bias start from U(-b, b), b = 1 / sqrt(channels of the
    map).

    Args:
      size: side of the map in cells.
      conditioning_dim: size * size * channels of the map.
      hidden: width of the network that it is added to.
      init: source of initial weights, or a seed.
    """

    has_positions = True

    def __init__(
        self, size: int, conditioning_dim: int, hidden: int, init: Initializer | int
    ):
        init = Initializer.of(init)
        super().__init__((conditioning_dim // size**2, hidden), init, bias="uniform")
        self._size = size

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """conditioning `[B, conditioning_dim]` -> `[B, H, W, hidden]`.

        The conditioning holds the map's cells row by row. Only the height and width of
        x `[B, H, W, C]` are looked at.
        """
        # Static sizes wherever they are known: XLA needs them in gradients of loops.
        _, height, width, _ = keras.ops.shape(x)
        batch = keras.ops.shape(conditioning)[0]
        channels, size = self.kernel.shape[0], self._size
        rows, columns = min(height, size), min(width, size)
        cells = tf.reshape(conditioning, [batch, size, size, channels])
        cells = _averaged(cells, rows, columns)
        h = super().__call__(tf.reshape(cells, [batch * rows * columns, channels]))
        h = tf.reshape(h, [batch, rows, columns, h.shape[-1]])
        return compute.repeated(h, height // rows, width // columns)


def _averaged(cells: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """Means over blocks of cells, `[B, rows, columns, F]`."""
    batch, height, width, channels = keras.ops.shape(cells)
    if (height, width) == (rows, columns):
        return cells
    blocks = [batch, rows, height // rows, columns, width // columns, channels]
    return tf.reduce_mean(tf.reshape(cells, blocks), [2, 4])


class LocalLinear(Linear):
    """`h`: a 3x3 convolution of a conditioning map of the input's own height and width.

    Its weight and bias start from U(-b, b), b = 1 / sqrt(fan_in). Paper, appendix (the
    variational dequantizer).

    Args:
      conditioning_dim: channels F of the map.
      hidden: width of the network that it is added to.
      init: source of initial weights, or a seed.
    """

    has_positions = True

    def __init__(self, conditioning_dim: int, hidden: int, init: Initializer | int):
        init = Initializer.of(init)
        super().__init__((3, 3, conditioning_dim, hidden), init, bias="uniform")

    def __call__(self, x: tf.Tensor, conditioning: tf.Tensor) -> tf.Tensor:
        """conditioning `[B, H, W, F]` -> `[B, H, W, hidden]`; x is not looked at."""
        return super().__call__(conditioning)


class GlobalAttention(tf.Module):
    """`h`: a vector from the conditioning, weighted by how well each position fits it.

        query = dense(conditioning),  key = conv1x1(x)
        h = query * softmax over positions of <query, key>

    The weights start Glorot-uniform, the biases at 0. Paper, section 3.2.

    Args:
      in_channels: C of x.
      conditioning_dim: D.
      hidden: width of the network that it is added to.
      init: source of initial weights, or a seed.
    """

    has_positions = True

    def __init__(
        self,
        in_channels: int,
        conditioning_dim: int,
        hidden: int,
        init: Initializer | int,
    ):
        init = Initializer.of(init)
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


class SharedProduct(tf.Module):
    """One product of z instead of one per layer, for the `GlobalLinear`s of a flow.

    First `take` collects the layers, then `build` joins their weights. A call returns
    the values of all layers, and z itself at the end.
    """

    def __init__(self):
        super().__init__()
        self._layers = []

    def take(self, layer: GlobalLinear) -> "PartOfProduct":
        """Takes a layer; returns the one that replaces it."""
        self._layers.append(layer)
        return PartOfProduct(len(self._layers) - 1)

    def build(self) -> None:
        """Joins the weights of the layers that were taken."""
        layers, self._layers = self._layers, []
        kernel = tf.concat([layer.kernel for layer in layers], axis=1)
        bias = tf.concat([layer.bias for layer in layers], axis=0)
        self._sizes = [layer.kernel.shape[1] for layer in layers]
        self._product = FixedLinear(kernel, bias, kernel.dtype)

    def __call__(self, z: tf.Tensor) -> list[tf.Tensor]:
        """`[B, D]` -> for each layer `[B, 1, 1, hidden]`; then z."""
        h = self._product(z)[:, tf.newaxis, tf.newaxis]
        return [*tf.split(h, self._sizes, axis=-1), z]


class PartOfProduct(tf.Module):
    """Replaces a `GlobalLinear`: returns its part of a `SharedProduct`'s values.

    Args:
      number: which part.
    """

    has_positions = False

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def __call__(self, x: tf.Tensor, parts: list[tf.Tensor]) -> tf.Tensor:
        """The part of `parts`, a folded flow's conditioning: see `serving.folding`."""
        return parts[self._number]


Conditioner = GlobalLinear | MapLinear | LocalLinear | GlobalAttention | PartOfProduct


def conditioning_ndims(config: CouplingConfig) -> int:
    """1 where the conditioning of one example is a vector, 3 where it is a map."""
    return 3 if config.conditioning == "local_linear" else 1


def make_conditioner(
    config: CouplingConfig, in_channels: int, hidden: int, init: Initializer | int
) -> Conditioner | None:
    """The conditioner of a network on `in_channels`; None without conditioning."""
    init = Initializer.of(init)
    dim = config.conditioning_dim
    if not dim:
        return None
    if config.conditioning == "global_attn":
        return GlobalAttention(in_channels, dim, hidden, init)
    if config.conditioning == "code_map":
        return MapLinear(config.map_size, dim, hidden, init)
    make = LocalLinear if config.conditioning == "local_linear" else GlobalLinear
    return make(dim, hidden, init)
