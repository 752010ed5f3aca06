"""Functions with gradients of their own."""

import functools
from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.eager import record  # not public, though tapes use it

from tfp_vaeflow.compute.mode import mode


def with_gradient(function: Callable) -> Callable:
    """`tf.custom_gradient` of a function of tensors, with few operations.

    In a graph, TensorFlow's own adds a copy of each argument and result, and a gradient
    of zeros for each of these copies. Inside a part of a step, whose gradient only
    tapes ask for, the tape takes the gradient as it is.

    Args:
      function: (tensors) -> result, and the function from its gradient to theirs.
    """
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def run(*args):
        if mode().kept is None:
            return differentiable(*args)
        args = list(map(tf.convert_to_tensor, args))
        with record.stop_recording():
            y, gradient = function(*args)

        def backward(dy):
            found = gradient(dy)
            return found if isinstance(found, (list, tuple)) else [found]

        y = tf.identity(y)
        record.record_operation(function.__name__, [y], args, backward)
        return y

    return run
