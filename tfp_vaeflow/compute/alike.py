"""Modules that are built alike, one after another."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfp_vaeflow.compute.graphs import structure_of, with_values
from tfp_vaeflow.compute.mode import mode, using
from tfp_vaeflow.compute.weights import (
    StackedWeight,
    derived_of,
    places_of,
    stack_of,
    value_of,
)


def in_turn(
    modules: Sequence[tf.Module],
    method: Callable,
    x: tf.Tensor,
    conditioning: tf.Tensor | None,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Calls `method(module, value, conditioning)` of modules one after another.

    The first value is x; each call gives the next one, of the same shape, and a log-det
    map. Where XLA compiles, `Derived` values are computed for all modules at once.

    Args:
      modules: the modules.
      method: of each module.
      x, conditioning: arguments of the first.

    Returns:
      The last value, and the log-det maps.
    """
    maps = []
    with using(weights=_unstacked(modules)), _derived(modules, conditioning):
        for module in modules:
            x, log_det_map = method(module, x, conditioning)
            maps.append(log_det_map)
    return x, maps


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
                    parts[id(weight.stack)] = tf.unstack(stack_of(weight))
                tensors[id(weight)] = parts[id(weight.stack)][weight.index]
    return tensors


def _derived(
    modules: Sequence[tf.Module], conditioning: tf.Tensor | None
) -> contextlib.AbstractContextManager:
    """A context that has the `Derived` values of all modules, where XLA compiles.

    Each is computed once, from stacked weights.
    """
    if not mode().compiled or not are_alike(modules):
        return contextlib.nullcontext()
    if conditioning is not None and conditioning.shape.rank != 2:
        conditioning = None
    # Keras' layers have nothing `Derived`, and refuse stacked values.
    rows = [
        row
        for row in zip(*map(places_of, modules), strict=True)
        if not isinstance(row[0], keras.Variable)
    ]
    places, stacks = [row[0] for row in rows], list(map(_stacked, rows))
    parts = [derived_of(module) for module in modules]
    tensors = dict(mode().weights)
    with with_values(places, stacks, mode()):
        for keys in zip(*parts):
            value = getattr(parts[0][keys[0]], keys[0][1])
            if callable(value):  # `DerivedWithConditioning`
                value = None if conditioning is None else value(conditioning)
            if value is not None:
                tensors.update(zip(keys, tf.unstack(value)))
    return using(weights=tensors, conditioning=conditioning)


def _stacked(row: Sequence) -> tf.Tensor:
    """The weights in a row of places, stacked."""
    first, *_ = row
    if isinstance(first, StackedWeight):
        indices = [weight.index for weight in row if weight.stack is first.stack]
        order = list(range(first.stack.shape[0]))
        if indices == order:
            return stack_of(first)
        if indices == order[::-1]:
            return tf.reverse(stack_of(first), [0])
    return tf.stack(list(map(value_of, row)))
