"""Keras models in the mode of the moment."""

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
    """What a Keras model gives, in the precision that networks compute in.

    Its batch norm stays float32 inside, like its variables. With recomputation the
    input of each part is kept; for the gradient, its inside is computed again when its
    turn comes.

    Args:
      model: the model.
      parts: gives its parts, one after the other.
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
