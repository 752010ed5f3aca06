"""Weights of modules that are built alike, stored stacked."""

from collections.abc import Sequence

import tensorflow as tf

from tfp_vaeflow.compute.loops import are_alike
from tfp_vaeflow.compute.weights import StackedWeight, weights_by_place


def stacked(modules: Sequence[tf.Module]) -> list[tf.Variable]:
    """Stores the weights of modules together, if they are built alike.

    A loop over the modules (`in_turn`) and an optimizer then have one variable per
    weight, not one per weight and module: XLA takes a quarter of the time for a step.
    Each `Weight` of a module becomes a `StackedWeight`, which behaves as before.

    Args:
      modules: these.

    Returns:
      The variables `[len(modules), ...]`, for the caller to hold; none where the
      modules differ, or hold something that has to stay apart.
    """
    if not are_alike(modules):
        return []
    stacks = []
    for places in zip(*map(weights_by_place, modules), strict=True):
        variables = [getattr(part, name) for part, name in places]
        first = variables[0]
        stack = tf.Variable(
            tf.stack(variables),
            trainable=first.trainable,
            name=first.name.split(":")[0],
        )
        for index, (part, name) in enumerate(places):
            delattr(part, name)  # what is set next is no longer tracked as a variable
            setattr(part, name, StackedWeight(stack, index))
        stacks.append(stack)
    return stacks
