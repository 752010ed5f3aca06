"""What a transform asks of the network that outputs its parameters."""

import abc
import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_vaeflow.networks.conditioners import Conditioner, GlobalLinear, SharedProduct


@dataclasses.dataclass(frozen=True)
class Folding:
    """How networks are folded: turned into the same function with less to compute.

    A folded network can be neither trained nor initialised.

    Attributes:
      kernel_dtype: the type of stored kernels.
      product: computes h(z) for all layers; None where each layer keeps its own.
    """

    kernel_dtype: tf.DType = tf.float32
    product: SharedProduct | None = None

    def conditioner(self, layer: Conditioner | None) -> Conditioner | None:
        """The layer, or the one that replaces it."""
        if self.product is not None and isinstance(layer, GlobalLinear):
            return self.product.take(layer)
        return layer


class Network(tf.Module, abc.ABC):
    """Outputs the parameters of a transform, given x and a conditioning.

    A subclass has to implement `__call__`. Its variables are `tf.Variable`s, Keras'
    layers or modules. Where all variables are `compute.Weight`s, networks that are
    built alike share a graph, which takes less time to build.

    Attributes:
      is_conditioned: whether it needs a conditioning; None if it works with and
        without. A network that uses a conditioning has to set it.
      conditioning_ndims: 1 where the conditioning of one example is a vector, 3 where
        it is a map.
    """

    is_conditioned: bool | None = False
    conditioning_ndims: int = 1

    @abc.abstractmethod
    def __call__(
        self, x: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tf.Tensor:
        """`[B, (H, W,) in_channels]` -> `[B, (H, W,) out_channels]`."""

    def initialize_to_zero(self) -> bool:
        """Makes the output 0 for any input; returns whether it could.

        With parameters 0, every transform is the identity: training starts from that.
        """
        return False

    def folded(self, folding: Folding) -> "Network":
        """The same function with less to compute; by default the network as it is."""
        return self


class AnyNetwork(Network):
    """A Keras layer or model, a `tf.Module` or a plain function as a network.

    Variables are found in a Keras layer or a `tf.Module`, not in what a function closes
    over. A Keras layer is called without `training=`. For a map as conditioning,
    subclass `Network`.

    Args:
      function: `[B, (H, W,) in_channels]` -> `[B, (H, W,) out_channels]`. It is called
        with x and, if there is one, the conditioning.
      input_shape: of x, to build a Keras layer that is not built yet.
    """

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        input_shape: tuple[int | None, ...],
    ):
        super().__init__()
        self.is_conditioned = None
        self._function = function
        if isinstance(function, keras.Layer):
            if not function.built:
                function.build(input_shape)
            # tf.Module does not look into Keras models for variables.
            self._keras_variables = [v.value for v in function.variables]

    def __call__(self, x, conditioning=None):
        if conditioning is None:
            return self._function(x)
        return self._function(x, conditioning)
