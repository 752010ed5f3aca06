"""Functions that XLA compiles."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow.compute.mode import using


def compiled(function: Callable) -> Callable:
    """A function of tensors, compiled by XLA for each of their shapes.

    Inside, modules alike are loops (`in_turn`). XLA crashes on operations without stack
    traces: none may be made `WithoutStackTraces`.
    """

    def run(*args):
        with using(compiled=True, graphs=None):
            return function(*args)

    return tf.function(run, autograph=False, jit_compile=True)
