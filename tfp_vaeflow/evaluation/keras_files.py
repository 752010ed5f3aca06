"""Networks that users name, as Keras models."""

import os
import textwrap

import keras
import tensorflow as tf

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError


def reason_of(error: Exception) -> str:
    """The cause that an error of Keras names, without the settings of all layers."""
    return textwrap.shorten(str(error).rpartition("Exception encountered: ")[2], 300)


def load_keras_file(path: str | os.PathLike, what: str) -> keras.Model:
    """Reads a Keras file or a SavedModel.

    Args:
      path: of the file, or of the SavedModel's directory.
      what: names the network in errors, such as "feature network".

    Raises:
      UserError: if it cannot be read.
    """
    try:
        if not files.is_dir(path):
            return keras.models.load_model(path, compile=False)
        layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
        signature = tf.saved_model.load(path).signatures["serving_default"]
        (spec,) = signature.structured_input_signature[1].values()
        inputs = keras.Input(spec.shape[1:])
        return keras.Model(inputs, layer(inputs))
    except Exception as error:  # Keras raises all kinds, for unknown layers a TypeError
        raise UserError(
            f"the {what} {path} cannot be read: {reason_of(error)}"
        ) from error
