"""One valid request per signature: to warm up a server, and as an example.

Reference: TensorFlow Serving, *SavedModel Warmup*.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from tfp_vaeflow.common import files
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.serving.signatures import Signature

RECORDS = Path("assets.extra") / "tf_serving_warmup_requests"


def _gradient(shape: tuple[int, int, int]) -> np.ndarray:
    """A uint8 image that grows brighter downwards and to the right."""
    rows, columns = np.linspace(0, 127, shape[0]), np.linspace(0, 128, shape[1])
    grey = rows[:, np.newaxis] + columns
    return np.repeat(grey[..., np.newaxis], shape[2], -1).astype(np.uint8)


def example(config: ModelConfig, spec: tf.TensorSpec) -> np.ndarray:
    """An example of one row of an input, `[1, ...]`."""
    image = _gradient(config.image_shape)
    if spec.name == "image_bytes":
        png = io.BytesIO()
        Image.fromarray(image.squeeze()).save(png, "PNG")
        return np.array([png.getvalue()], object)
    if spec.name.startswith("image"):
        return image[np.newaxis]
    known = {"seed": 1, "temperature": 0.7, "alpha": 0.5, "beta": 0.5, "label": 0}
    shape = [1, *spec.shape[1:]]
    return np.full(shape, known.get(spec.name, 0), spec.dtype.as_numpy_dtype)


def json_row(values: dict[str, np.ndarray]) -> dict:
    """One row of inputs `[1, ...]` as TensorFlow Serving's REST API takes it."""
    return {
        name: {"b64": base64.b64encode(value[0]).decode()}
        if value.dtype.hasobject
        else value[0].tolist()
        for name, value in values.items()
    }


def write_records(
    path: Path,
    model_name: str,
    config: ModelConfig,
    signatures: dict[str, Signature],
    batch_sizes: Sequence[int],
) -> None:
    """Writes the requests that a server answers before it takes others.

    Args:
      path: of the file, a TFRecord of `PredictionLog`.
      model_name: as the server will know it.
      config: of the model.
      signatures: of the model.
      batch_sizes: of the requests, one per signature and size.
    """
    path.parent.mkdir(parents=True)
    with files.tensorflow_errors(path), tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in signatures.items():
            for size in batch_sizes:
                request = predict_pb2.PredictRequest(
                    model_spec=model_pb2.ModelSpec(name=model_name, signature_name=name)
                )
                for spec in signature.inputs:
                    rows = np.repeat(example(config, spec), size, 0)
                    request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(rows))
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())
