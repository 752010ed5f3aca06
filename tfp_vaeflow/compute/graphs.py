"""One graph for all modules that are built alike.

A flow has dozens of steps, but only a few kinds of them. Traced one by one they make a
graph of tens of thousands of operations, which takes longer to build and to optimise
than hundreds of training steps take to run. Here all steps of one structure are one
function of (input, conditioning, weights), traced once and called by each step with its
own weights. Within it, the same is done for networks of one structure. The function of
a step is also the unit of recomputation.
"""

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

# Not public, though `tf.recompute_grad` uses it.
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_optimization_barrier

from tfp_vaeflow.compute.mode import Mode, mode, using
from tfp_vaeflow.compute.weights import Place, is_weight, key_of, places_of, value_of


class SharedGraphs:
    """Graphs, each traced once for all modules of its structure.

    They are used within `using(graphs=...)`.
    """

    def __init__(self):
        self._functions = {}

    def function(
        self,
        module: tf.Module,
        structure: Hashable,
        method: Callable,
        is_conditioned: bool,
    ) -> Callable:
        """A function of (x, conditioning, weights), for modules of this structure."""
        now = mode()
        key = (
            structure,
            method,
            is_conditioned,
            now.mixed_precision,
            now.training,
            now.recompute,
            now.is_within_graph,
        )
        if key not in self._functions:
            function = _computation(module, method)
            if now.is_within_graph:  # of a step, which does the recomputation
                function = _graph(function, inlined=True)
            elif now.recompute:
                function = _graph(_with_recomputation(function, _graph))
            else:
                function = _graph(function)
            self._functions[key] = function
        return self._functions[key]


def _graph(function, inlined=False):
    # Kept as a call, so that the runtime prepares its kernels once for all callers.
    attributes = None if inlined else {"_noinline": True}
    return tf.function(function, autograph=False, experimental_attributes=attributes)


def _with_recomputation(computation: Callable, graph: Callable) -> Callable:
    """The same function of (x, conditioning, weights), computed again for its gradient.

    Args:
      computation: the function.
      graph: makes a graph of its gradient.
    """

    def gradient(x, conditioning, weights, upstream):
        inputs = _without_none(x, conditioning, *weights)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = computation(x, conditioning, weights)
        return tape.gradient(outputs, inputs, upstream)

    gradient = graph(gradient)

    def run(x, conditioning, weights):
        @tf.custom_gradient
        def with_gradient(*_):
            return computation(x, conditioning, weights), (
                lambda *upstream: gradient(x, conditioning, weights, upstream)
            )

        return with_gradient(*_without_none(x, conditioning, *weights))

    return run


def shared(module: tf.Module, method: Callable, x, conditioning):
    """`method(module, x, conditioning)`, by a graph of `Mode.graphs` if there are any.

    Args:
      module: may share a graph with other modules of its structure.
      method: of the module; returns tensors.
      x, conditioning: its arguments.
    """
    now = mode()
    again = now.compiled and now.recompute and not now.is_within_graph
    # In eager mode there is no graph to share, and no graph's tensors may get out.
    if not again and (now.graphs is None or tf.config.functions_run_eagerly()):
        return method(module, x, conditioning)
    structure = structure_of(module)
    if structure is None:
        return method(module, x, conditioning)
    if again:
        function = _with_recomputation(_computation(module, method), _compiled_apart)
    else:
        function = now.graphs.function(
            module, structure, method, conditioning is not None
        )
    values = [value_of(place) for place in places_of(module)]
    return function(x, conditioning, values)


def _compiled_apart(function):
    """A function that XLA does not merge with the computations before it."""

    def run(*args):
        leaves = tf.nest.flatten(args)
        apart = iter(xla_optimization_barrier(input=_without_none(*leaves)))
        leaves = [leaf if leaf is None else next(apart) for leaf in leaves]
        return function(*tf.nest.pack_sequence_as(args, leaves))

    return run


def recomputed(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    """A function of one tensor that is computed again for its gradient."""
    outer, runs = mode(), itertools.count()

    @tf.recompute_grad
    def run(x):
        stay = outer.statistics_stay or next(runs) > 0
        with using(outer, statistics_stay=stay):
            return function(x)

    return run


def _computation(module: tf.Module, method: Callable) -> Callable:
    """`method` as a function of (x, conditioning, values of `places_of(module)`)."""
    outer, places = mode(), places_of(module)

    def computation(x, conditioning, values):
        with with_values(places, values, outer), using(is_within_graph=True):
            return method(module, x, conditioning)

    return computation


@contextlib.contextmanager
def with_values(
    places: Sequence[Place], values: Sequence[tf.Tensor], outer: Mode
) -> Iterator[None]:
    """Within this context, tensors take the places of weights.

    Args:
      places: of the weights.
      values: the tensors.
      outer: the mode to add the tensors to.
    """
    pairs = list(zip(places, values, strict=True))
    states = [pair for pair in pairs if isinstance(pair[0], keras.Variable)]
    others = {
        key_of(place): value
        for place, value in pairs
        if not isinstance(place, keras.Variable)
    }
    # Keras' layers compute with tensors in the place of their variables.
    scope = keras.StatelessScope(states) if states else contextlib.nullcontext()
    with using(outer, weights={**outer.weights, **others}), scope:
        yield


def _without_none(*tensors: tf.Tensor | None) -> list[tf.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


# Names, caches, and the attribute that shows a module's Keras variables to TensorFlow.
_NOT_STRUCTURE = {
    *vars(tfp.bijectors.Identity()),
    "_name",
    "_name_scope",
    "_keras_variables",
}


class _UnknownStructureError(Exception):
    """Raised for an object whose structure is not known."""


def structure_of(module: tf.Module) -> Hashable | None:
    """A key, equal for modules that differ only in names and values of weights.

    None where the structure is not known, because the module holds

    - a Keras layer other than group norm: its configuration may be incomplete, and
      batch norm changes its statistics, which a function of tensors cannot;
    - variables that are not `Weight`s;
    - a function that closes over something, or an object without a hash.
    """
    try:
        return _structure(module)
    except _UnknownStructureError:
        return None


def _structure(value) -> Hashable:
    if isinstance(value, tf.Module):
        parts = [
            (name, (one.dtype, tuple(one.shape)))
            if is_weight(value, name)
            else (name, _structure(one))
            for name, one in sorted(vars(value).items())
            if name not in _NOT_STRUCTURE and not name.startswith("_self_")
        ]
        return type(value), getattr(value, "dtype", None), *parts
    if type(value) is keras.layers.GroupNormalization:
        settings = {k: v for k, v in value.get_config().items() if k != "name"}
        shapes = (tuple(variable.shape) for variable in value.variables)
        return type(value), repr(settings), *shapes
    if isinstance(value, (list, tuple)):
        return tuple(map(_structure, value))
    unknown = keras.Layer, tf.Tensor, tf.Variable
    if (
        isinstance(value, unknown)
        or not isinstance(value, Hashable)
        or getattr(value, "__closure__", None)
    ):
        raise _UnknownStructureError
    return value
