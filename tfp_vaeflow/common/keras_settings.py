"""Checks that Keras computes with TensorFlow, in float32, channels last."""

import os

from tfp_vaeflow.common.errors import UserError


def check_keras() -> None:
    """Checks the settings that Keras takes from its environment and its settings file.

    Raises:
      UserError: if models need other settings.
    """
    home = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
    path = os.path.join(home, "keras.json")
    put_right = f'unset KERAS_BACKEND, or set "backend": "tensorflow" in {path}'
    try:
        import keras
    except Exception as error:  # from its backend, or about its settings
        raise UserError(
            f"Keras cannot start: {error}; models need Keras with TensorFlow: "
            f"{put_right}"
        ) from error
    if keras.config.backend() != "tensorflow":
        raise UserError(
            f"Keras computes with {keras.config.backend()}, but models need Keras with "
            f"TensorFlow: {put_right}"
        )
    for name, found, expected in (
        ("image_data_format", keras.config.image_data_format(), "channels_last"),
        ("floatx", keras.config.floatx(), "float32"),
    ):
        if found != expected:
            raise UserError(
                f"Keras' {name} is {found}, and models need {expected}: set "
                f'"{name}": "{expected}" in {path}'
            )
