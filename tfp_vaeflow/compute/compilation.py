"""Functions that XLA compiles."""

import sys
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfp_vaeflow.compute.devices import has_gpu
from tfp_vaeflow.compute.mode import using

# Batches of a model's use are padded to one of these, or to the batch size.
_SIZES = (1, 8, 64)


def compiled(
    function: Callable, signature: Sequence[tf.TensorSpec] | None = None
) -> Callable:
    """A function of tensors, compiled by XLA for each of their shapes.

    Inside, modules alike are loops (`in_turn`). XLA crashes on operations without stack
    traces: none may be made `WithoutStackTraces`.

    Args:
      function: this.
      signature: of all its arguments, if one trace is to do for all shapes.
    """

    def run(*args):
        with using(compiled=True, graphs=None):
            return function(*args)

    return tf.function(
        run, signature, autograph=False, jit_compile=True, reduce_retracing=True
    )


def compiled_for_use(
    function: Callable, signature: Sequence[tf.TensorSpec] | None, name: str
) -> Callable:
    """`compiled`, saying what is waited for where a batch has a new size.

    Args:
      function, signature: see `compiled`; the first tensor of rank 2 or more among the
        arguments tells the size.
      name: of the function.
    """
    run, sizes = compiled(function, signature), set()

    def call(*args):
        tensors = filter(tf.is_tensor, tf.nest.flatten(args))
        batch = next(tensor for tensor in tensors if tensor.shape.rank > 1)
        size = batch.shape[0]
        if size is not None and size not in sizes:
            sizes.add(size)
            print(
                f"XLA compiles {name} for batches of {size}: once, and up to a minute",
                file=sys.stderr,
                flush=True,
            )
        return run(*args)

    return call


def padded(inputs: Sequence[tf.Tensor | None], batch_size: int) -> list:
    """Batches of the same examples, with more of them where use is compiled.

    The last example is repeated, up to one of a few sizes: for each, XLA compiles once.

    Args:
      inputs: tensors with a leading batch dimension; all but the last may be None.
      batch_size: the most examples.
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
