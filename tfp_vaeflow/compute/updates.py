"""Many variables at a time, each on the replica that calls."""

from collections.abc import Callable, Sequence

import tensorflow as tf

# So many variables at a time: an update needs a scaled copy of each gradient.
_GROUP = 16


def in_groups(function: Callable, lists: Sequence[Sequence], *others) -> list:
    """Calls a function on a piece of each list at a time; lists what it gives.

    The graph of a model with thousands of variables is made of what is done to each of
    them. By one graph for any `_GROUP` of them, whatever their shapes, that becomes a
    matter of a few hundred calls.

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
    """For operations on the copies of variables on the replica that calls."""
    return [variable.handle for variable in variables]


def read_handle(handle: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def assign_on_replica(variable: tf.Variable, value: tf.Tensor) -> None:
    """Assigns to the copy of a mirrored variable on the replica that calls.

    `assign` would want all replicas to meet; for values that are the same on all of
    them there is no need.
    """
    value = tf.convert_to_tensor(value)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def summed_over_replicas(values):
    """The sums over all replicas of tensors in any nest; called on each replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
