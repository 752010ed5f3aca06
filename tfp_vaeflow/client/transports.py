"""How a client's requests reach a model: REST, gRPC, or a call in this process."""

import abc
import base64
import collections
import functools
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tfp_vaeflow.common.errors import UserError

_RETRIED_STATUS = (429, 502, 503, 504)
_FIRST_PAUSE = 0.1  # seconds; doubles with each try


class ServerError(RuntimeError):
    """A request failed on its way or in the server; says where, and the answer."""


class Input(NamedTuple):
    """An input of a signature.

    Attributes:
      shape: None in place of the batch.
      dtype: object for bytes.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype


class Transport(abc.ABC):
    """Runs signatures of one model.

    Attributes:
      address: of the model, as errors name it.
      version: of a server's model, once `inputs` has asked; else empty.
      largest_batch: most rows of a request. A server that batches refuses requests
        with more rows than the `max_batch_size` of its batching.config.
    """

    address: str
    version: str = ""
    largest_batch = 32

    @abc.abstractmethod
    def inputs(self) -> dict[str, dict[str, Input]]:
        """The inputs of every signature, by name."""

    @abc.abstractmethod
    def predict(
        self, signature: str, rows: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Outputs by name, for inputs with equal numbers of rows; bytes are objects.

        Raises:
          ServerError: if there is no answer, or it is an error.
        """


# NumPy's types by the names of TensorFlow's types in messages. Others are of no model
# of ours, which `Client` says.
_DTYPES = collections.defaultdict(
    lambda: np.dtype(np.void),
    DT_FLOAT=np.dtype(np.float32),
    DT_UINT8=np.dtype(np.uint8),
    DT_INT64=np.dtype(np.int64),
    DT_STRING=np.dtype(object),
    DT_BOOL=np.dtype(bool),
)


class RestTransport(Transport):
    """TensorFlow Serving's REST API, in its column format.

    Args:
      address: `http://HOST:PORT/v1/models/NAME[/versions/V]`.
      timeout: seconds for a request.
      retries: how often a request is sent again.
    """

    def __init__(self, address: str, timeout: float, retries: int):
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.address = address.rstrip("/")
        if "/v1/models/" not in self.address:
            raise UserError(
                f"{address} is no address of a model; expected "
                "http://HOST:PORT/v1/models/NAME"
            )
        self._timeout = timeout
        self._failures = requests.RequestException
        self._session = requests.Session()
        retry = Retry(
            retries,
            status_forcelist=_RETRIED_STATUS,
            allowed_methods=None,  # a predict is a POST, but changes nothing
            backoff_factor=_FIRST_PAUSE,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))
        self._dtypes = {}

    def _ask(self, method: str, suffix: str, body: dict | None = None) -> dict:
        url = self.address + suffix
        try:
            response = self._session.request(
                method, url, json=body, timeout=self._timeout
            )
            answer = response.json()
        except self._failures as error:
            raise ServerError(f"{url}: no answer that can be read: {error}") from error
        if response.status_code != 200 or "error" in answer:
            message = answer.get("error", "no reason given")
            raise ServerError(f"{url}: {response.status_code}, {message}")
        return answer

    def inputs(self):
        answer = self._ask("GET", "/metadata")
        self.version = answer["model_spec"]["version"]
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        found = {}
        for name, signature in signatures.items():
            tensors = signature["inputs"]
            if not tensors:
                continue  # what the server runs when it loads a model
            found[name] = {
                key: Input(
                    _shape(int(dim["size"]) for dim in info["tensor_shape"]["dim"]),
                    _DTYPES[info["dtype"]],
                )
                for key, info in tensors.items()
            }
            self._dtypes[name] = {
                key: _DTYPES[info["dtype"]]
                for key, info in signature["outputs"].items()
            }
        return found

    def predict(self, signature, rows):
        inputs = {name: _to_json(value) for name, value in rows.items()}
        body = {"signature_name": signature, "inputs": inputs}
        outputs = self._ask("POST", ":predict", body)["outputs"]
        return {
            name: _from_json(outputs[name], dtype)
            for name, dtype in self._dtypes[signature].items()
        }


def _shape(sizes: Iterable[int]) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else size for size in sizes)


def _to_json(value: np.ndarray) -> list:
    if value.dtype.hasobject:
        return [{"b64": base64.b64encode(item).decode()} for item in value]
    return value.tolist()


def _from_json(value: list, dtype: np.dtype) -> np.ndarray:
    if dtype.hasobject:
        return np.array([base64.b64decode(item["b64"]) for item in value], object)
    return np.array(value, dtype)


class GrpcTransport(Transport):
    """TensorFlow Serving's gRPC API.

    Args:
      address: `grpc://HOST:PORT/NAME[/VERSION]`.
      timeout: seconds for a request, over all its tries.
      retries: how often a request is sent again; 4 at most, which is gRPC's limit.
    """

    def __init__(self, address: str, timeout: float, retries: int):
        import grpc
        from tensorflow_serving.apis import model_pb2, prediction_service_pb2_grpc

        parts = urlsplit(address)
        name, _, version = parts.path.strip("/").partition("/")
        # Versions are numbers of 64 bits.
        if not parts.netloc or not name or not re.fullmatch("[0-9]{0,18}", version):
            raise UserError(
                f"{address} is no address of a model; expected grpc://HOST:PORT/NAME"
            )
        self.address = address
        self._timeout = timeout
        self._failure = grpc.RpcError
        self._spec = model_pb2.ModelSpec(name=name)
        if version:
            self._spec.version.value = int(version)
        policy = {
            "maxAttempts": min(retries, 4) + 1,
            "initialBackoff": f"{_FIRST_PAUSE}s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
        config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
        options = {
            "grpc.service_config": json.dumps(config if retries else {}),
            "grpc.max_receive_message_length": -1,
            "grpc.max_send_message_length": -1,
        }
        channel = grpc.insecure_channel(parts.netloc, list(options.items()))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def _ask(self, method: str, request):
        try:
            return getattr(self._stub, method)(request, timeout=self._timeout)
        except self._failure as error:
            raise ServerError(
                f"{self.address}: {error.code().name}, {error.details()}"
            ) from error

    def inputs(self):
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        answer = self._ask("GetModelMetadata", request)
        self.version = str(answer.model_spec.version.value)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        found = {}
        for name, signature in signatures.signature_def.items():
            if not signature.inputs:
                continue  # what the server runs when it loads a model
            found[name] = {
                key: Input(
                    _shape(dim.size for dim in info.tensor_shape.dim),
                    _DTYPES[types_pb2.DataType.Name(info.dtype)],
                )
                for key, info in signature.inputs.items()
            }
        return found

    def predict(self, signature, rows):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        for name, value in rows.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = self._ask("Predict", request).outputs
        return {name: tf.make_ndarray(proto) for name, proto in outputs.items()}


def _is_not_of_gradients(record: logging.LogRecord) -> bool:
    """False for TensorFlow's warnings of functions whose gradients are not saved."""
    return "unsaved custom gradients" not in record.getMessage()


class LocalTransport(Transport):
    """A SavedModel in this process.

    Args:
      directory: holds a SavedModel, or numbered versions; the last version is loaded.

    Raises:
      UserError: if there is no SavedModel.
    """

    def __init__(self, directory: str):
        path = Path(directory)
        versions = [
            child
            for child in (path.iterdir() if path.is_dir() else [])
            if child.name.isdecimal() and (child / "saved_model.pb").exists()
        ]
        if versions:
            path = max(versions, key=lambda child: int(child.name))
        if not (path / "saved_model.pb").exists():
            raise UserError(
                f"{directory} holds no SavedModel; expected what "
                "`python -m tfp_vaeflow.export --export_dir=...` wrote, or an address "
                "http://... or grpc://..."
            )
        import tensorflow as tf
        from absl import logging as absl_logging

        self.address = str(path)
        self._failure = tf.errors.OpError
        self._constant = tf.constant
        logger = absl_logging.get_absl_logger()
        logger.addFilter(_is_not_of_gradients)
        try:
            self._model = tf.saved_model.load(str(path))
        except Exception as error:  # all kinds, depending on the damage
            reason = " ".join(str(error).split())
            raise UserError(f"{path} cannot be loaded: {reason}") from error
        finally:
            logger.removeFilter(_is_not_of_gradients)

    def inputs(self):
        return {
            name: {
                key: Input(tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))
                for key, spec in function.structured_input_signature[1].items()
            }
            for name, function in self._model.signatures.items()
        }

    def predict(self, signature, rows):
        inputs = {name: self._constant(value) for name, value in rows.items()}
        try:
            outputs = self._model.signatures[signature](**inputs)
        except self._failure as error:
            # The message starts with the place in the graph, and repeats it at the end.
            reason = error.message.partition("<stack traces unavailable>")[2].strip()
            reason = (reason or error.message).splitlines()[0]
            raise ServerError(f"{self.address}: {signature}: {reason}") from error
        return {name: value.numpy() for name, value in outputs.items()}


class ModelTransport(Transport):
    """A model of the Python API, in this process, without an export.

    Args:
      model: a trained `VAEFlow`. Its flow is replaced by one that is traced once.
      num_samples: samples per image in `score` and `likelihood_map`.
      address: names the model in errors.
    """

    largest_batch = 256

    def __init__(self, model, num_samples: int, address: str):
        import tensorflow as tf

        from tfp_vaeflow.serving.signatures import Signatures

        self.address = address
        self._constant = tf.constant
        self._signatures = Signatures(model, num_samples).all()
        # Traced at the first request.
        self._traced = functools.cache(lambda name: self._signatures[name].traced())

    def inputs(self):
        return {
            name: {
                spec.name: Input(tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))
                for spec in signature.inputs
            }
            for name, signature in self._signatures.items()
        }

    def predict(self, signature, rows):
        inputs = {name: self._constant(value) for name, value in rows.items()}
        outputs = self._traced(signature)(**inputs)
        return {name: value.numpy() for name, value in outputs.items()}
