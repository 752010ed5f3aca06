"""One graph for all modules that are built alike.

A flow has dozens of steps, but only a few kinds of them. Traced one by one they make a
graph of tens of thousands of operations, which takes longer to build and to optimise
than hundreds of training steps take to run. Here all steps of one structure are one
function of (input, conditioning, weights), traced once and called by each step with its
own weights; and so are, within it, networks of one structure. The function of a step is
also the unit that recomputation and XLA work on.
"""

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.compute.mode import Weight, mode, using


class SharedGraphs:
    """Graphs, each traced once for all modules of its structure.

    They are used within `using(graphs=...)`.

    Args:
      recompute: whether the gradient computes the inside of each network of a step
        again from its input, so that between the passes only the inputs are kept.
      jit_compile: whether XLA compiles them.

    Reference: Chen et al., *Training Deep Nets with Sublinear Memory Cost*,
    arXiv 1604.06174 (recomputation).
    """

    def __init__(self, recompute: bool = False, jit_compile: bool = False):
        self.recompute = recompute
        self._jit_compile = jit_compile
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
            now.is_within_graph,
        )
        if key not in self._functions:
            computation = _computation(module, method)
            if now.is_within_graph:  # of a step, which does the recomputation
                function = self._function(computation, inlined=True)
            elif self.recompute:
                function = self._function(self._with_recomputation(computation))
            else:
                function = self._function(computation)
            self._functions[key] = function
        return self._functions[key]

    def _with_recomputation(self, computation):
        def gradient(x, conditioning, weights, upstream):
            inputs = _without_none(x, conditioning, *weights)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = computation(x, conditioning, weights)
            return tape.gradient(outputs, inputs, upstream)

        gradient = self._function(gradient)

        def run(x, conditioning, weights):
            @tf.custom_gradient
            def with_gradient(*_):
                return computation(x, conditioning, weights), (
                    lambda *upstream: gradient(x, conditioning, weights, upstream)
                )

            return with_gradient(*_without_none(x, conditioning, *weights))

        return run

    def _function(self, function, inlined=False):
        # Kept as a call, so that the runtime prepares its kernels once for all callers.
        attributes = None if self._jit_compile or inlined else {"_noinline": True}
        return tf.function(
            function,
            autograph=False,
            jit_compile=self._jit_compile or None,
            experimental_attributes=attributes,
        )


def shared(module: tf.Module, method: Callable, x, conditioning):
    """`method(module, x, conditioning)`, by a graph of `Mode.graphs` if there are any.

    Args:
      module: what may share a graph with others of its structure.
      method: of the module; gives tensors.
      x, conditioning: its arguments.
    """
    graphs = mode().graphs
    # In eager mode there is no graph to share, and none's tensors may get out.
    if graphs is None or tf.config.functions_run_eagerly():
        return method(module, x, conditioning)
    structure = structure_of(module)
    if structure is None:
        return method(module, x, conditioning)
    function = graphs.function(module, structure, method, conditioning is not None)
    weights = [tf.convert_to_tensor(weight) for weight in _values_of(module)]
    return function(x, conditioning, weights)


def is_recomputing() -> bool:
    """Whether the insides of steps are computed again for their gradient."""
    graphs = mode().graphs
    return graphs is not None and graphs.recompute


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
    """`method` as a function of (x, conditioning, weights)."""
    outer, places = mode(), list(_weights_of(module))

    def computation(x, conditioning, weights):
        values, states = {}, []
        for weight, tensor in zip(places, weights, strict=True):
            if isinstance(weight, keras.Variable):
                states.append((weight, tensor))
            else:
                values[id(weight)] = tensor
        with using(outer, is_within_graph=True, weights=values), _keras_with(states):
            return method(module, x, conditioning)

    return computation


def _keras_with(states: list[tuple[keras.Variable, tf.Tensor]]):
    """Lets Keras' layers compute with tensors in the place of their variables."""
    if not states:
        return contextlib.nullcontext()
    return keras.StatelessScope(state_mapping=states)


def _weights_of(module: tf.Module) -> Iterator[tf.Variable | keras.Variable]:
    """The weights that a module can take as tensors, in a fixed order."""
    for part in (module, *module.submodules):
        for name, value in sorted(vars(part).items()):
            if isinstance(value, keras.Layer):
                yield from value.variables
            elif isinstance(value, tf.Variable) and _is_weight(part, name):
                yield value


def _is_weight(module: tf.Module, name: str) -> bool:
    return isinstance(getattr(type(module), name, None), Weight)


def _values_of(module: tf.Module) -> Iterator[tf.Tensor | tf.Variable]:
    """The weights of a module as they are now: variables, or tensors in their place."""
    weights = mode().weights
    for weight in _weights_of(module):
        if isinstance(weight, keras.Variable):
            yield weight.value
        else:
            yield weights.get(id(weight), weight)


def _without_none(*tensors: tf.Tensor | None) -> list[tf.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


# Names and caches, and where a module shows Keras' variables to TensorFlow.
_NOT_STRUCTURE = {
    *vars(tfp.bijectors.Identity()),
    "_name",
    "_name_scope",
    "_keras_variables",
}


class _UnknownStructureError(Exception):
    """Raised for what no structure is known of."""


def structure_of(module: tf.Module) -> Hashable | None:
    """Equal for modules that differ in their names and their weights' values only.

    None where that is not known, because the module holds

    - a Keras layer other than group norm: its configuration need not say all; and batch
      norm changes its statistics, which a function of tensors cannot;
    - variables that are no `Weight`s;
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
            if isinstance(one, tf.Variable) and _is_weight(value, name)
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
