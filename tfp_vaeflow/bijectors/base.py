"""The contract of every invertible unit, and the container that chains them.

`forward` maps the code to the data (v -> x, the direction that samples), `inverse`
the data to the code (x -> v, the direction that trains). A unit implements
`forward_and_log_det` and `inverse_and_log_det`; TFP's methods derive from these.
"""

import abc
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


class FlowBijector(tfb.Bijector, abc.ABC):
    """A conditional bijector that gives its value and its log-det together.

    Subclasses work on inputs `[B, *event]` and return log-dets `[B]`. TFP's own
    methods (`forward`, `inverse`, `*_log_det_jacobian`) take any leading dimensions,
    which `conditioning` must broadcast to, and keep the log-det with the value it was
    computed with, so `tfd.TransformedDistribution.log_prob` runs each network once.

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
    def forward_and_log_det(
        self, x: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Code -> data: `(y, log |det dy/dx|)`, shapes `[B, *event]` and `[B]`."""

    @abc.abstractmethod
    def inverse_and_log_det(
        self, y: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Data -> code: `(x, log |det dx/dy|)`, shapes `[B, *event]` and `[B]`."""

    def initialize(
        self, y: tf.Tensor, conditioning: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Data-dependent initialisation on a batch; returns the new `inverse(y)`."""
        values = [tf.convert_to_tensor(y)]
        self.initialize_on(values, [conditioning])
        return values[0]

    def initialize_on(
        self, values: list[tf.Tensor], conditioning: list[tf.Tensor | None]
    ) -> None:
        """Data-dependent initialisation on batches, the statistics being those of all.

        Layers that have nothing to initialise inherit this.

        Args:
          values: batches `[B, *event]`; each is replaced by the new `inverse` of it, so
            that no more is held than one value an image.
          conditioning: theirs, or None for each.
        """
        for number, given in enumerate(conditioning):
            values[number] = self.inverse_and_log_det(values[number], given)[0]

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}  # no parameter has a batch shape

    def _flattened(self, method, value, conditioning):
        """Calls `method` with all leading dimensions flattened to one."""
        event_ndims, ndims = self.forward_min_event_ndims, self.conditioning_ndims
        plain = conditioning is None or len(conditioning.shape) == 1 + ndims
        if plain and value.shape.rank == event_ndims + 1:
            return method(value, conditioning)
        shape = tf.shape(value)
        lead, event = shape[:-event_ndims], shape[-event_ndims:]
        if conditioning is not None:
            conditioning = tf.convert_to_tensor(conditioning, self.dtype)
            one = tf.shape(conditioning)[-ndims:]
            conditioning = tf.broadcast_to(conditioning, tf.concat([lead, one], 0))
            conditioning = tf.reshape(conditioning, tf.concat([[-1], one], 0))
        flat = tf.reshape(value, tf.concat([[-1], event], 0))
        flat.set_shape([None, *value.shape[-event_ndims:]])
        result, log_det = method(flat, conditioning)
        return tf.reshape(result, shape), tf.reshape(log_det, lead)

    # TFP looks up attributes under the very keyword arguments that it was called with.
    def _forward(self, x, **kwargs):
        y, log_det = self._flattened(
            self.forward_and_log_det, x, kwargs.get("conditioning")
        )
        self._cache.forward_attributes(x, **kwargs)["ildj"] = -log_det
        return y

    def _inverse(self, y, **kwargs):
        x, log_det = self._flattened(
            self.inverse_and_log_det, y, kwargs.get("conditioning")
        )
        self._cache.inverse_attributes(y, **kwargs)["ildj"] = log_det
        return x

    def _forward_log_det_jacobian(self, x, conditioning=None):
        return self._flattened(self.forward_and_log_det, x, conditioning)[1]

    def _inverse_log_det_jacobian(self, y, conditioning=None):
        return self._flattened(self.inverse_and_log_det, y, conditioning)[1]


class Sequential(FlowBijector):
    """Bijectors one after another; the only place that orders and sums log-dets.

    forward: `members[0](members[1](... x))`; inverse: members in the order given,
    first to last. The conditioning goes to every member.

    Args:
      members: bijectors in the order in which the data passes them (x -> v).
      event_ndims: 3 for images, 1 for vectors; needed where members may be empty.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        members: Sequence[FlowBijector],
        event_ndims: int = 3,
        name: str = "sequential",
        dtype: tf.DType = tf.float32,
    ):
        ndims = max((member.conditioning_ndims for member in members), default=1)
        super().__init__(event_ndims, name, dtype, ndims)
        self.members = list(members)

    def forward_and_log_det(self, x, conditioning=None):
        log_dets = []
        for member in reversed(self.members):
            x, log_det = member.forward_and_log_det(x, conditioning)
            log_dets.append(log_det)
        return x, sum_log_dets(log_dets, x)

    def inverse_and_log_det(self, y, conditioning=None):
        log_dets = []
        for member in self.members:
            y, log_det = member.inverse_and_log_det(y, conditioning)
            log_dets.append(log_det)
        return y, sum_log_dets(log_dets, y)

    def initialize_on(self, values, conditioning):
        for member in self.members:
            member.initialize_on(values, conditioning)


def replace(values: list[tf.Tensor], function: Callable) -> None:
    """Puts `function` of each value in its place, one after another."""
    for number in range(len(values)):
        values[number] = function(values[number])


@contextmanager
def watched(layers: Sequence[object], note: Callable) -> Iterator[None]:
    """Lets `note(layer, x, log_det)` see what the inverse of each layer gives.

    A layer that runs others is seen after them.

    Args:
      layers: bijectors, or elementwise transforms: whatever has `inverse_and_log_det`.
      note: called after each run of one; what it raises ends the run.
    """

    def watch(layer):
        run = layer.inverse_and_log_det

        def watching(*args):
            x, log_det = run(*args)
            note(layer, x, log_det)
            return x, log_det

        layer.inverse_and_log_det = watching

    for layer in layers:
        watch(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.inverse_and_log_det


def sum_log_dets(log_dets: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """The sum of log-dets `[B]`, or zeros where there are none, one an example."""
    if not log_dets:
        return tf.zeros(keras.ops.shape(like)[:1], like.dtype)
    return functools.reduce(operator.add, log_dets)


def per_example(log_det_per_position: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """A log-det that is the same at every position, summed over them: `[B]`.

    Args:
      log_det_per_position: scalar.
      like: `[B, H, W, C]` (H x W positions) or `[B, D]` (one position).
    """
    batch, *sizes, _ = keras.ops.shape(like)
    positions = tf.cast(math.prod(sizes), like.dtype)
    return tf.fill([batch], positions * log_det_per_position)


def check_conditioning(
    name: str, expected: bool, conditioning: tf.Tensor | None
) -> None:
    """Checks that a layer gets a conditioning if, and only if, it was built for one.

    Raises:
      ValueError: naming the layer.
    """
    if expected and conditioning is None:
        raise ValueError(
            f"{name}: conditioning is missing; this layer was built to be conditioned, "
            "pass conditioning="
        )
    if not expected and conditioning is not None:
        raise ValueError(
            f"{name}: got conditioning of shape {tuple(conditioning.shape)}, but this "
            "layer was built without; leave conditioning= out"
        )
