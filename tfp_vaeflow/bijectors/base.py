"""The contract of every invertible unit.

x is the data and v its code. `forward` maps v -> x (the direction that samples),
`inverse` x -> v (the direction that trains). Each unit returns a map with the share of
each image position in its log-det; the log-det is the sum of the map.
"""

import abc
import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.networks import Folding

tfb = tfp.bijectors


class FlowBijector(tfb.Bijector, abc.ABC):
    """A conditional bijector that gives its value and its log-det together.

    Subclasses implement `forward_and_log_det_map` and `inverse_and_log_det_map`, on
    inputs `[B, *event]`. A log-det map holds the share of each position in the
    log-det: `[B, H, W]` for images, `[B]` for vectors, or a scalar if all shares are
    equal.

    TFP's own methods (`forward`, `inverse`, `*_log_det_jacobian`) take any leading
    dimensions, and `conditioning` must broadcast to them. These methods cache the
    log-det with its value, so `tfd.TransformedDistribution.log_prob` runs each network
    once. They cache values, too: `forward(inverse(x))` is x without any computation,
    but `forward(tf.identity(inverse(x)))` is computed.

    Args:
      event_ndims: 3 for images `[H, W, C]`, 1 for vectors `[D]`.
      name: names the layer in error messages and graphs.
      dtype: of inputs and variables.
      conditioning_ndims: 1 for a conditioning vector `[D]`, 3 for a map `[H, W, F]`.
    """

    def __init__(
        self,
        event_ndims: int,
        name: str,
        dtype: tf.DType = tf.float32,
        conditioning_ndims: int = 1,
    ):
        super().__init__(forward_min_event_ndims=event_ndims, dtype=dtype, name=name)
        self.conditioning_ndims = conditioning_ndims

    @abc.abstractmethod
    def forward_and_log_det_map(
        self, v: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Code -> data: x `[B, *event]`, and the map of `log |det dx/dv|`."""

    @abc.abstractmethod
    def inverse_and_log_det_map(
        self, x: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Data -> code: v `[B, *event]`, and the map of `log |det dv/dx|`."""

    def forward_and_log_det(
        self, v: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Code -> data: `(x, log |det dx/dv|)`, shapes `[B, *event]` and `[B]`."""
        x, log_det_map = self.forward_and_log_det_map(v, conditioning)
        return x, total_log_det(log_det_map, v)

    def inverse_and_log_det(
        self, x: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Data -> code: `(v, log |det dv/dx|)`, shapes `[B, *event]` and `[B]`."""
        v, log_det_map = self.inverse_and_log_det_map(x, conditioning)
        return v, total_log_det(log_det_map, x)

    def position_shares(self, values: tf.Tensor) -> tf.Tensor:
        """The share of each position of x in a sum over the elements of v.

        Where the flow works at a lower resolution, the pixels of a block have equal
        shares in the sum over the block.

        Args:
          values: one per element of v, `[B, H, W, C]`, such as its log density.

        Returns:
          `[B, H, W]`.
        """
        return tf.reduce_sum(values, -1)

    def initialize(
        self, x: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Data-dependent initialisation on a batch; returns the new `inverse(x)`."""
        values = [tf.convert_to_tensor(x)]
        self.initialize_on(values, [conditioning])
        return values[0]

    def initialize_on(
        self, values: list[tf.Tensor], conditioning: list[tf.Tensor | None]
    ) -> None:
        """Data-dependent initialisation by the statistics of all given batches.

        Layers that have nothing to initialise inherit this.

        Args:
          values: batches of x, `[B, *event]`; each is replaced by its v, so that
            memory holds only one value per image.
          conditioning: of each batch, or None.
        """
        for number, given in enumerate(conditioning):
            values[number] = self.inverse_and_log_det_map(values[number], given)[0]

    def folded(self, folding: Folding) -> "FlowBijector":
        """The same function with fewer computations, for a model that is trained.

        A folded layer can be neither trained nor initialised. By default the layer
        stays as it is.

        Args:
          folding: how networks are folded.
        """
        return self

    def joined_with(self, later: "FlowBijector") -> "FlowBijector | None":
        """One layer that maps x as this folded layer does, and then `later`.

        None if the two cannot be joined.
        """
        return None

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}  # no parameter has a batch shape

    def _flattened(self, method, value, conditioning):
        """Calls `method` with all leading dimensions flattened to one."""
        event_ndims, ndims = self.forward_min_event_ndims, self.conditioning_ndims
        if conditioning is not None:
            conditioning = tf.convert_to_tensor(conditioning, self.dtype)
        if value.shape.rank == event_ndims + 1 and (
            conditioning is None
            or conditioning.shape.rank == 1 + ndims
            and conditioning.shape[0] == value.shape[0]
        ):
            return method(value, conditioning)
        shape = tf.shape(value)
        lead, event = shape[:-event_ndims], shape[-event_ndims:]
        if conditioning is not None:
            one = tf.shape(conditioning)[-ndims:]
            conditioning = tf.broadcast_to(conditioning, tf.concat([lead, one], 0))
            conditioning = tf.reshape(conditioning, tf.concat([[-1], one], 0))
        flat = tf.reshape(value, tf.concat([[-1], event], 0))
        flat.set_shape([None, *value.shape[-event_ndims:]])
        result, log_det = method(flat, conditioning)
        return tf.reshape(result, shape), tf.reshape(log_det, lead)

    # TFP's cache must be given exactly the keyword arguments of the call.
    def _forward(self, v, **kwargs):
        x, log_det = self._flattened(
            self.forward_and_log_det, v, kwargs.get("conditioning")
        )
        self._cache.forward_attributes(v, **kwargs)["ildj"] = -log_det
        return x

    def _inverse(self, x, **kwargs):
        v, log_det = self._flattened(
            self.inverse_and_log_det, x, kwargs.get("conditioning")
        )
        self._cache.inverse_attributes(x, **kwargs)["ildj"] = log_det
        return v

    def _forward_log_det_jacobian(self, v, conditioning=None):
        return self._flattened(self.forward_and_log_det, v, conditioning)[1]

    def _inverse_log_det_jacobian(self, x, conditioning=None):
        return self._flattened(self.inverse_and_log_det, x, conditioning)[1]


def replace(values: list[tf.Tensor], function: Callable) -> None:
    """Replaces each value by `function` of it, one after another."""
    for number in range(len(values)):
        values[number] = function(values[number])


@contextlib.contextmanager
def watched(
    layers: Sequence[object], note: Callable, method: str = "inverse_and_log_det_map"
) -> Iterator[None]:
    """Calls `note(layer, *results)` with the results of a method of each layer.

    The calls for inner layers come before that for the layer that contains them.

    Args:
      layers: bijectors, or other objects with this method.
      note: called after each call of the method; an exception in it ends the call.
      method: name of the method.
    """

    def watching(layer, run):
        def run_and_note(*args):
            results = run(*args)
            note(layer, *results)
            return results

        return run_and_note

    with contextlib.ExitStack() as stack:
        for layer in layers:
            setattr(layer, method, watching(layer, getattr(layer, method)))
            stack.callback(delattr, layer, method)
        yield


def added(log_det_maps: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """The sum of log-det maps; 0 where there are none."""
    if not log_det_maps:
        return tf.zeros([], dtype)
    return functools.reduce(operator.add, log_det_maps)


def total_log_det(log_det_map: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The log-det of each example, `[B]`: its map summed over the positions.

    Args:
      log_det_map: `[B, H, W]` (`[B]` for vectors), or a scalar.
      like: the value it belongs to, `[B, H, W, C]` or `[B, D]`.
    """
    batch, *sizes, _ = keras.ops.shape(like)
    if log_det_map.shape.rank == 0:
        positions = tf.cast(math.prod(sizes), log_det_map.dtype)
        return tf.fill([batch], positions * log_det_map)
    return tf.reduce_sum(log_det_map, list(range(1, log_det_map.shape.rank)))
