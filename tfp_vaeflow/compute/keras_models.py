"""Keras models in the present mode."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfp_vaeflow.compute.graphs import recomputed
from tfp_vaeflow.compute.mode import mode, network_dtype


def run_model(
    model: keras.Model,
    parts: Callable[[], Sequence[keras.Model]],
    x: tf.Tensor,
    training: bool,
) -> tf.Tensor:
    """The output of a Keras model, computed in the precision of networks.

    Its batch norm stays float32 inside, like its variables. With recomputation, only
    the input of each part is kept. The gradient computes the inside of a part again
    when it comes to that part.

    Args:
      model: the model.
      parts: returns its parts, in order.
      x: float32.
      training: whether batch norm uses (and updates from) the batch.
    """
    dtype = network_dtype(x.dtype)

    def run(part, x):
        if dtype == x.dtype:
            return part(x, training=training)
        policies = [layer.dtype_policy for layer in part.layers]
        try:
            for layer in part.layers:
                layer.dtype_policy = "mixed_bfloat16"
            return tf.cast(part(x, training=training), x.dtype)
        finally:
            for layer, policy in zip(part.layers, policies):
                layer.dtype_policy = policy

    if not mode().recompute:
        return run(model, x)
    for part in parts():
        x = recomputed(lambda x, part=part: run(part, x))(x)
    return x
