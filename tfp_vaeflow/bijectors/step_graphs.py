"""One graph for all steps of a flow that are built alike.

A flow has dozens of steps, but only a few kinds of them. Traced one by one they make a
graph of tens of thousands of operations, which takes longer to build and to optimise
than hundreds of training steps take to run. Here a kind of step is a function of
(input, conditioning, weights), traced once and called by each step with its own
weights; and so is, within it, a kind of network. The function of a step is also the
unit that recomputation and XLA work on.
"""

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

_graphs = contextvars.ContextVar("graphs", default=None)
_within = contextvars.ContextVar("within", default=False)  # the graph of a step


@contextlib.contextmanager
def _substituted(module: tf.Module, tensors: list[tf.Tensor]) -> Iterator[None]:
    """Lets a module compute with tensors in the place of its variables."""
    places = list(_places(module))
    variables = [attributes[name] for attributes, name in places]
    try:
        for (attributes, name), tensor in zip(places, tensors, strict=True):
            attributes[name] = tensor
        yield
    finally:
        for (attributes, name), variable in zip(places, variables):
            attributes[name] = variable


def _places(module: tf.Module) -> Iterator[tuple[dict, str]]:
    """Where a module and those in it keep their variables, in a fixed order.

    Or the tensors in their places: of a graph's tensors, a module holds no others.
    """
    for part in (module, *module.submodules):
        attributes = vars(part)
        for name, value in sorted(attributes.items()):
            if isinstance(value, tf.Variable) or tf.is_symbolic_tensor(value):
                yield attributes, name
            elif isinstance(value, keras.Layer):
                for variable in value.variables:
                    yield vars(variable), "_value"


class StepGraphs:
    """The graphs of a model's steps: while `used`, each kind is traced once.

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
        self._inner_functions = {}

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Steps that are called within go by these graphs."""
        token = _graphs.set(self)
        try:
            yield
        finally:
            _graphs.reset(token)

    def run(
        self, step: tf.Module, structure: Hashable, method: Callable, x, conditioning
    ):
        """`method(step, x, conditioning)` by the graph of steps with this structure."""
        key = structure, method, conditioning is not None
        make, functions = self._make, self._functions
        if _within.get():
            make, functions = self._make_inner, self._inner_functions
        if key not in functions:
            functions[key] = make(step, method)
        weights = [tf.convert_to_tensor(at[name]) for at, name in _places(step)]
        return functions[key](x, conditioning, weights)

    def _make(self, step, method):
        compute = _computation(step, method)

        def gradient(x, conditioning, weights, upstream):
            inputs = _given(x, conditioning, weights)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = compute(x, conditioning, weights)
            return tape.gradient(outputs, inputs, upstream)

        gradient = self._function(gradient)

        def recomputed(x, conditioning, weights):
            @tf.custom_gradient
            def with_gradient(*_):
                return compute(x, conditioning, weights), (
                    lambda *upstream: gradient(x, conditioning, weights, upstream)
                )

            return with_gradient(*_given(x, conditioning, weights))

        return self._function(recomputed if self.recompute else compute)

    def _make_inner(self, part, method):
        """Of a part of a step: computing it again is up to the step."""
        return self._function(_computation(part, method), inlined=True)

    def _function(self, function, inlined=False):
        # Not inlined: the runtime, too, prepares each function once.
        attributes = None if self._jit_compile or inlined else {"_noinline": True}
        return tf.function(
            function,
            autograph=False,
            jit_compile=self._jit_compile or None,
            experimental_attributes=attributes,
        )


def _computation(part: tf.Module, method: Callable) -> Callable:
    """`method` as a function of (x, conditioning, weights)."""

    def compute(x, conditioning, weights):
        token = _within.set(True)
        try:
            with _substituted(part, weights):
                return method(part, x, conditioning)
        finally:
            _within.reset(token)

    return compute


def _given(x, conditioning, weights: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors among the arguments: there may be no conditioning."""
    return [t for t in (x, conditioning, *weights) if t is not None]


def recomputing() -> bool:
    """Whether the `StepGraphs` in use, if any, compute the insides of steps again."""
    graphs = _graphs.get()
    return graphs is not None and graphs.recompute


def run_shared(step: tf.Module, method: Callable, x, conditioning):
    """`method(step, x, conditioning)`, by the `StepGraphs` in use if any.

    Args:
      step: what may share a graph with others of its structure.
      method: of the step; gives tensors.
      x, conditioning: its arguments.
    """
    graphs = _graphs.get()
    # What runs eagerly is no graph to share, nor to put tensors of a graph into.
    if graphs is None or tf.config.functions_run_eagerly():
        return method(step, x, conditioning)
    structure = structure_of(step)
    if structure is None:
        return method(step, x, conditioning)
    return graphs.run(step, structure, method, x, conditioning)


# What every bijector of TFP has, and where it stands: names, caches.
_NOT_STRUCTURE = {*vars(tfp.bijectors.Identity()), "_name", "_name_scope"}


def structure_of(module: tf.Module) -> Hashable | None:
    """Equal for modules that differ in their names and their weights' values only.

    None if the module holds something whose equality is not known, or batch norm: in
    training that changes its statistics, and functions of tensors cannot.
    """
    try:
        return _structure(module)
    except _UnknownStructureError:
        return None


class _UnknownStructureError(Exception):
    """Raised for what no structure is known of."""


def _structure(value) -> Hashable:
    if isinstance(value, tf.Variable) or tf.is_symbolic_tensor(value):
        return "weight", value.dtype, tuple(value.shape)
    if isinstance(value, tf.Module):
        parts = [
            (name, _structure(one))
            for name, one in sorted(vars(value).items())
            if name not in _NOT_STRUCTURE and not name.startswith("_self_")
        ]
        return type(value), getattr(value, "dtype", None), *parts
    if isinstance(value, keras.Layer):
        if isinstance(value, keras.layers.BatchNormalization):
            raise _UnknownStructureError
        settings = {k: v for k, v in value.get_config().items() if k != "name"}
        weights = (_structure(variable.value) for variable in value.variables)
        return type(value), repr(settings), *weights
    if isinstance(value, (list, tuple)):
        return tuple(map(_structure, value))
    if isinstance(value, tf.Tensor) or not isinstance(value, Hashable):
        raise _UnknownStructureError
    return value
