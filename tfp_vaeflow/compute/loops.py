"""Modules that are built alike, one after another, as one loop for XLA to compile."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfp_vaeflow.compute.graphs import structure_of, with_values
from tfp_vaeflow.compute.mode import mode, using
from tfp_vaeflow.compute.weights import StackedWeight, derived_of, places_of, value_of

_NAME = "in_turn"  # of the loops in a graph


def in_turn(
    modules: Sequence[tf.Module],
    method: Callable,
    x: tf.Tensor,
    conditioning: tf.Tensor | None,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Calls `method(module, value, conditioning)` of modules one after another.

    The first value is x; each call gives the next one, of the same shape, and a log-det
    map. Where XLA compiles and the modules are alike, this is one loop over their
    stacked weights. XLA had not compiled a training step of 28 unrolled steps of a flow
    after 330 seconds.

    Args:
      modules: the modules.
      method: of each module.
      x, conditioning: arguments of the first.

    Returns:
      The last value, and log-det maps whose sum is that of all modules together.
    """
    if mode().compiled and are_alike(modules):
        x, log_det_map = _looped(modules, method, x, conditioning)
        return x, [log_det_map]
    maps = []
    with using(weights=_unstacked(modules)):
        for module in modules:
            x, log_det_map = method(module, x, conditioning)
            maps.append(log_det_map)
    return x, maps


def gradient(tape: tf.GradientTape, target: tf.Tensor, sources):
    """`tape.gradient(target, sources)`, with loops whose turns XLA can count.

    TensorFlow's gradient of a loop makes as many turns as the loop counted. XLA takes
    that number for unknown, so a GPU asks the host after every turn whether there is
    another. A loop of `in_turn` always makes its maximum of turns, which XLA knows.

    Args:
      tape, target, sources: see `tf.GradientTape.gradient`.
    """
    graph = tf.compat.v1.get_default_graph()
    before = graph.get_operations() if mode().compiled else []
    found = tape.gradient(target, sources)
    if mode().compiled:
        for operation in graph.get_operations()[len(before) :]:
            if operation.type.endswith("While"):
                # Its first inputs: a counter, the maximum of turns, the loop's turns.
                loop = operation.inputs[2].op
                if loop.name.rpartition("/")[2].startswith(_NAME):
                    operation._update_input(2, loop.inputs[1])
    return found


def are_alike(modules: Sequence[tf.Module]) -> bool:
    """Whether they are several modules of one structure."""
    structures = {structure_of(module) for module in modules}
    return len(modules) > 1 and len(structures) == 1 and None not in structures


def _unstacked(modules: Sequence[tf.Module]) -> dict[int, tf.Tensor]:
    """`Mode.weights` with the parts of all stacks of modules.

    The parts of a stack are read at once, so that their gradient is made at once, too.
    """
    tensors, parts = dict(mode().weights), {}
    for module in modules:
        for weight in places_of(module):
            if isinstance(weight, StackedWeight) and id(weight) not in tensors:
                if id(weight.stack) not in parts:
                    parts[id(weight.stack)] = tf.unstack(weight.stack)
                tensors[id(weight)] = parts[id(weight.stack)][weight.index]
    return tensors


def _looped(modules, method, x, conditioning):
    first, outer = modules[0], mode()
    # Each turn pops the last value off each list; the gradient pushes its own values.
    places, stacks = places_of(first), _stacks(modules[::-1])
    # Keras' layers have nothing `Derived`, and refuse stacked values.
    pairs = [p for p in zip(places, stacks) if not isinstance(p[0], keras.Variable)]
    replaced = []
    with with_values(*zip(*pairs), outer):
        for place, part in derived_of(first).items():
            places.append(place)
            stacks.append(getattr(part, place[1]))
            names = getattr(type(part), place[1]).replaces
            replaced += [vars(part)[name] for name in names]
    rest = [(p, s) for p, s in zip(places, stacks) if not any(p is r for r in replaced)]
    places, stacks = zip(*rest)
    lists = [
        tf.raw_ops.TensorListFromTensor(tensor=stack, element_shape=stack.shape[1:])
        for stack in stacks
    ]

    def body(value, log_det_map, lists):
        rest, values = [], []
        for handle, stack in zip(lists, stacks):
            handle, one = tf.raw_ops.TensorListPopBack(
                input_handle=handle,
                element_shape=stack.shape[1:],
                element_dtype=stack.dtype,
            )
            rest.append(handle)
            values.append(tf.ensure_shape(one, stack.shape[1:]))
        # Replaced weights are None: else they would be those of the first module.
        nothing = [None] * len(replaced)
        with with_values([*places, *replaced], [*values, *nothing], outer):
            value, more = method(first, value, conditioning)
        return tf.ensure_shape(value, x.shape), log_det_map + more, rest

    start = x, tf.zeros(keras.ops.shape(x)[:-1], x.dtype), lists
    value, log_det_map, _ = tf.while_loop(
        lambda *_: True,
        body,
        start,
        maximum_iterations=len(modules),
        parallel_iterations=1,
        name=_NAME,
    )
    return value, log_det_map


def _stacks(modules: Sequence[tf.Module]) -> list[tf.Tensor]:
    """Each weight of modules that are built alike, stacked: `[len(modules), ...]`."""
    rows = zip(*map(places_of, modules), strict=True)
    stacks = []
    for row in rows:
        stack = _whole_stack(row)
        if stack is None:
            stack = tf.stack(list(map(value_of, row)))
        stacks.append(stack)
    return stacks


def _whole_stack(weights: Sequence) -> tf.Tensor | None:
    """The stack that has these weights as its parts, in its order or reversed."""
    first, *_ = weights
    if not isinstance(first, StackedWeight) or id(first) in mode().weights:
        return None
    indices = [weight.index for weight in weights if weight.stack is first.stack]
    order = list(range(first.stack.shape[0]))
    if indices == order:
        return tf.convert_to_tensor(first.stack)
    if indices == order[::-1]:
        return tf.reverse(first.stack, [0])
    return None
