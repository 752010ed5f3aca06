"""Builds a model from its configuration, and sets the process up for it."""

import tensorflow as tf

from tfp_vaeflow.common.keras_settings import check_keras
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.vaeflow import VAEFlow


def build_model(config: ModelConfig, seed: int = 0) -> VAEFlow:
    """Builds a model with fresh weights; call `initialize` before training it.

    It turns TF32 off for the process, so that `decode(encode(x)) == x` on a GPU, too:
    TensorFlow's default rounds products on recent GPUs to 10 bits of mantissa. Training
    turns it on with `TrainingConfig.allow_tf32`.

    Args:
      config: the architecture.
      seed: of the initial weights; the same seed gives the same weights.

    Raises:
      UserError: if Keras does not have the settings that models need.
    """
    check_keras()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return VAEFlow(config, seed)
