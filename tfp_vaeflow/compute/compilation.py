"""Functions that XLA compiles."""

import collections
import functools
import sys
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfp_vaeflow.compute.devices import has_gpu
from tfp_vaeflow.compute.mode import using

# Batches that a model is used on are padded to one of these, or to the batch size.
_SIZES = (1, 8, 64)
# The number of batches of one size that a graph computes before XLA compiles it.
# Compiling takes about as long as it saves on so many batches.
_graph_calls = 500


def compiled(
    function: Callable, signature: Sequence[tf.TensorSpec] | None = None
) -> Callable:
    """A function of tensors, compiled by XLA for each of their shapes.

    Inside, modules that are built alike become loops (`in_turn`). XLA crashes on
    operations without stack traces, so none may be made within `WithoutStackTraces`.

    Args:
      function: the function.
      signature: of all its arguments, if one trace should serve all shapes.
    """

    @functools.wraps(function)  # else TensorFlow takes all these functions for one
    def run(*args):
        with using(compiled=True, graphs=None):
            return function(*args)

    return tf.function(
        run, signature, autograph=False, jit_compile=True, reduce_retracing=True
    )


def compiled_for_use(
    function: Callable,
    signature: Sequence[tf.TensorSpec] | None,
    graph: Callable,
    name: str,
) -> Callable:
    """A graph that XLA compiles for the batch sizes that come again and again.

    For few batches the graph is better: compiling it takes a minute, and tracing it a
    second. XLA begins after a number of calls, not after some time, so that results do
    not depend on the speed of the machine.

    Args:
      function, signature: see `compiled`; the first tensor of rank 2 or more among the
        arguments has the batch size.
      graph: the same function as a graph.
      name: of the function.
    """
    run, calls = compiled(function, signature), collections.Counter()

    def call(*args):
        tensors = filter(tf.is_tensor, tf.nest.flatten(args))
        batch = next(tensor for tensor in tensors if tensor.shape.rank > 1)
        size = batch.shape[0]
        calls[size] += 1
        if calls[size] <= _graph_calls:
            return graph(*args)
        if calls[size] == _graph_calls + 1:
            print(
                f"XLA compiles {name} for batches of {size}; it does so once, and "
                "takes up to a minute",
                file=sys.stderr,
                flush=True,
            )
        return run(*args)

    return call


def compile_use_at_once() -> None:
    """From now on, XLA compiles a model's use at the first batch of each size."""
    global _graph_calls
    _graph_calls = 0


def compiled_in_parts(
    function: Callable, signature: Sequence[tf.TensorSpec], sizes: Sequence[int]
) -> Callable:
    """A function of batches of any size, which XLA compiles for only a few sizes.

    A batch is padded with zeros to the next of these sizes. A batch that is larger than
    all of them is computed in parts.

    Args:
      function: from batches to batches; each example's result depends on it alone.
      signature: of all its arguments.
      sizes: the few sizes, in rising order.
    """
    run = compiled(function, signature)

    def call(*args):
        rows = tf.shape(args[0])[0]
        index = tf.searchsorted(sizes, [rows])[0]
        size = tf.gather(sizes, tf.minimum(index, len(sizes) - 1))
        parts = tf.maximum(-(-rows // size), 1)

        def in_parts(value):
            shape = [parts, size, *value.shape[1:]]
            filled = [[0, parts * size - rows], *[[0, 0]] * (value.shape.rank - 1)]
            return tf.reshape(tf.pad(value, filled), shape)

        def joined(value):
            return tf.reshape(value, [parts * size, *value.shape[2:]])[:rows]

        results = tf.map_fn(
            lambda part: run(*part),
            tuple(map(in_parts, args)),
            fn_output_signature=tf.nest.map_structure(
                lambda output: tf.TensorSpec(output.shape, output.dtype),
                run.get_concrete_function().structured_outputs,
            ),
            parallel_iterations=1,
        )
        return tf.nest.map_structure(joined, results)

    return tf.function(call, signature, autograph=False)


def padded(inputs: Sequence[tf.Tensor | None], batch_size: int) -> list:
    """The batches, padded with further examples where a model's use is compiled.

    The last example is repeated until the batch has one of a few sizes. XLA compiles
    once per size.

    Args:
      inputs: tensors with a leading batch dimension; all but the last may be None.
      batch_size: the largest number of examples.
    """
    size = inputs[-1].shape[0]
    if not has_gpu():
        return list(inputs)
    more = next(s for s in (*_SIZES, batch_size) if size <= s <= batch_size) - size
    return [
        value
        if value is None
        else tf.concat([value, tf.repeat(value[-1:], more, axis=0)], 0)
        for value in inputs
    ]
