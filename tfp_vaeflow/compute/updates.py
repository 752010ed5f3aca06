"""Operations on many variables at a time, on the replica that calls."""

from collections.abc import Callable, Sequence

import tensorflow as tf

# The variables per call: few, because an update needs a scaled copy of each gradient.
_GROUP = 16


def in_groups(function: Callable, lists: Sequence[Sequence], *others) -> list:
    """Calls a function on piece after piece of the lists; returns a list of results.

    With thousands of variables, the operations on each of them make up most of a
    model's graph. Here one graph serves any `_GROUP` of variables, whatever their
    shapes, so that a few hundred calls are left.

    Args:
      function: of a piece of each list, and of the others.
      lists: of tensors (or variables' handles), all of the same length.
      others: tensors.
    """
    function = tf.function(
        function, autograph=False, experimental_attributes={"_noinline": True}
    )
    graphs, results = {}, []
    rows = list(zip(*lists, strict=True))
    for first in range(0, len(rows), _GROUP):
        group = rows[first : first + _GROUP]
        pieces, size = [list(piece) for piece in zip(*group)], len(group)
        if size not in graphs:
            specs = tf.nest.map_structure(
                lambda tensor: tf.TensorSpec(None, tensor.dtype), [*pieces, *others]
            )
            graphs[size] = function.get_concrete_function(*specs)
        results.append(graphs[size](*pieces, *others))
    return results


def handles(variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """Handles, for operations on the variables' copies on the replica that calls."""
    return [variable.handle for variable in variables]


def read_handle(handle: tf.Tensor) -> tf.Tensor:
    """The value of a float32 variable, by its handle."""
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def assign_on_replica(variable: tf.Variable, value: tf.Tensor) -> None:
    """Assigns to the copy of a mirrored variable on the replica that calls.

    `assign` would make all replicas wait for each other. Values that are the same on
    all replicas do not need that.
    """
    value = tf.convert_to_tensor(value)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def summed_over_replicas(values):
    """The sums over all replicas of tensors in any nest; called on each replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
