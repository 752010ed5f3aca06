"""What a transform asks of the network that outputs its parameters."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_vaeflow.common.errors import UserError
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

    A subclass has to implement `__call__`. Its attributes may be `tf.Variable`s,
    modules and Keras layers that are built. Where all variables are `compute.Weight`s,
    networks that are built alike share a graph, which takes less time to build.

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

    The variables of a Keras layer and of a `tf.Module` are trained, also those of Keras
    layers that the module holds; the variables that a function closes over are not. A
    Keras layer is called without `training=`. If the conditioning is a map, subclass
    `Network`.

    Args:
      function: `[B, (H, W,) in_channels]` -> `[B, (H, W,) out_channels]`. It is called
        as `function(x)`, or as `function(x, conditioning)` where there is one. A
        functional Keras model with two inputs gets them as a list.
      input_shape: of x. A Keras layer that is not built is built for it.

    Raises:
      UserError: if variables of a Keras layer do not exist yet.
    """

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        input_shape: tuple[int | None, ...],
    ):
        super().__init__()
        self.is_conditioned = None
        self._function = function
        if isinstance(function, keras.Layer) and not function.built:
            with contextlib.suppress(TypeError):  # it takes the shape of z, too
                function.build(input_shape)
        self._takes_list = len(getattr(function, "inputs", None) or ()) == 2

    def __call__(self, x, conditioning=None):
        """Calls the function; a conditioning that is None is left out."""
        if conditioning is None:
            return self._function(x)
        if self._takes_list:
            return self._function([x, conditioning])
        return self._function(x, conditioning)


def unseen_keras_variables(network: Network) -> list[tf.Variable]:
    """The variables of a network's Keras layers, which `tf.Module` does not find.

    Raises:
      UserError: if a layer is not built, so that its variables do not exist yet.
    """
    layers = network._flatten(predicate=lambda value: isinstance(value, keras.Layer))
    seen = {variable.ref() for variable in network.variables}
    found = []
    for layer in layers:
        missing = [part for part in layer._flatten_layers() if not part.built]
        if missing:
            raise UserError(
                f"the Keras layer {missing[0].name!r} of a network is not built, so "
                "its weights would not be trained; call the network once, on zeros of "
                "the shapes of x and the conditioning, before make_network returns it"
            )
        found += [v.value for v in layer.variables if v.value.ref() not in seen]
    return found
