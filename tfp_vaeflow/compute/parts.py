"""A step in parts, each compiled by XLA as programs of its own.

XLA compiles one program on one core for most of the time, and on a GPU a program of a
whole step takes minutes. A part of the flow is two programs: its value, and its
gradient. All programs of a step can be compiled at the same time (`compile_programs`).
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from tensorflow.python.eager import context, record  # not public

from tfp_vaeflow.compute.compilation import compiled
from tfp_vaeflow.compute.gradients import with_gradient
from tfp_vaeflow.compute.graphs import structure_of, with_values
from tfp_vaeflow.compute.mode import mode, using
from tfp_vaeflow.compute.weights import StackedWeight, places_of, value_of


class _Kept:
    """What the gradient of a part takes from its forward pass.

    Args:
      values: those that the forward pass kept; None for the forward pass itself.
    """

    def __init__(self, values: Sequence[tf.Tensor] | None = None):
        self.is_forward = values is None
        self.values = [] if values is None else list(values)
        self._rest = iter(self.values)

    def __call__(self, make: Callable[[], tf.Tensor]) -> tf.Tensor:
        if not self.is_forward:
            return next(self._rest)
        self.values.append(make())
        return self.values[-1]


def kept(value: tf.Tensor) -> tf.Tensor:
    """The value; the gradient of a part keeps it, and does not compute it again."""
    keep = mode().kept
    if keep is None:
        return value
    found = keep(lambda: value)
    return value if keep.is_forward else _replaced(value, found, lambda dy: dy)


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise function, whose result the gradient of a part keeps.

    Attributes:
      function: the function.
      slope: its derivative, from its result.
    """

    function: Callable[[tf.Tensor], tf.Tensor]
    slope: Callable[[tf.Tensor], tf.Tensor]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        keep = mode().kept
        if keep is None or mode().recompute:
            return self.function(x)
        y = keep(lambda: self.function(x))
        return y if keep.is_forward else _replaced(x, y, lambda dy: dy * self.slope(y))


def _replaced(x, y, gradient):
    """y, as a function of x with this gradient."""

    @with_gradient
    def run(_):
        return y, gradient

    return run(x)


def apart(
    module: tf.Module, method: Callable, x: tf.Tensor, conditioning: tf.Tensor | None
):
    """`method(module, x, conditioning)`; in parts (`Mode.in_parts`), one of them.

    Between the two passes a part keeps its input, what is `kept`, and the results of
    activations; with recomputation, no activations. Its gradient computes other values
    again.

    Args:
      module: has the weights.
      method: of the module; returns tensors.
      x, conditioning: its arguments.
    """
    outer = dataclasses.replace(mode(), in_parts=False, compiled=True, graphs=None)
    if not mode().in_parts:
        return method(module, x, conditioning)
    if structure_of(module) is None:  # TensorFlow finds the weights itself
        return compiled(lambda x, conditioning: method(module, x, conditioning))(
            x, conditioning
        )
    places = {}
    for place in places_of(module):
        is_part = isinstance(place, StackedWeight) and id(place) not in outer.weights
        places.setdefault(id(place.stack if is_part else place), place)
    places = [
        place.stack if isinstance(place, StackedWeight) and key != id(place) else place
        for key, place in places.items()
    ]

    def run(x, conditioning, values):
        now = mode()
        stay = outer.statistics_stay or now.statistics_stay
        base = dataclasses.replace(outer, kept=now.kept, statistics_stay=stay)
        with with_values(places, values, base):
            return method(module, x, conditioning)

    return as_programs(run)(x, conditioning, list(map(value_of, places)))


def as_programs(function: Callable) -> Callable:
    """A function of nests of tensors as two programs: its value, and its gradient.

    Args:
      function: depends on tensors by its arguments alone.
    """

    @compiled
    def forward(*args):
        keep = _Kept()
        with using(kept=keep):
            return function(*args), keep.values

    @compiled
    def backward(args, values, upstream):
        inputs = _without_none(args)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            with using(kept=_Kept(values), statistics_stay=True):
                outputs = function(*args)
        return tape.gradient(outputs, inputs, upstream)

    def run(*args):
        if not record.could_possibly_record():  # no tape asks for a gradient
            return compiled(function)(*args)

        @tf.custom_gradient
        def with_gradient(*_):
            outputs, values = forward(*args)
            return outputs, lambda *upstream: backward(args, values, upstream)

        return with_gradient(*_without_none(args))

    return run


def _without_none(nest):
    return [leaf for leaf in tf.nest.flatten(nest) if leaf is not None]


def compile_programs(*graphs: tf.Graph) -> None:
    """Compiles all programs of functions' graphs at the same time.

    Each runs once on zeros, and on variables of zeros in the place of its own.

    Args:
      graphs: of concrete functions.
    """
    calls = [
        operation
        for graph in graphs
        for operation in graph.get_operations()
        if operation.type.endswith("PartitionedCall") and _is_program(operation)
    ]

    def run(operation):
        outside = {id(inner): outer for outer, inner in operation.graph.captures}
        name, made = operation.get_attr("f").name, []
        with tf.device(operation.device):
            for tensor in operation.inputs:
                if tensor.dtype == tf.resource:
                    (kind,) = outside[id(tensor)]._handle_data.shape_and_type
                    shape = tf.TensorShape(kind.shape)
                    made.append(tf.Variable(tf.zeros(shape, tf.as_dtype(kind.dtype))))
                else:
                    made.append(tf.zeros(tensor.shape, tensor.dtype))
            inputs = [m.handle if isinstance(m, tf.Variable) else m for m in made]
            context.context().call_function(name.encode(), inputs, len(operation.outputs))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(run, calls))


def _is_program(operation: tf.Operation) -> bool:
    function = operation.graph._get_function(operation.get_attr("f").name)
    return function.cached_definition.attr["_XlaMustCompile"].b
