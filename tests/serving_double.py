"""A stand-in for TensorFlow Serving, whose binary cannot be installed everywhere.

It speaks the REST API (model status, metadata, predict in the row and the column
format, base64, errors) and the gRPC PredictionService (Predict, GetModelMetadata) on
loopback, as the documentation says, over the real SavedModel. It is a test double: it
holds one version of one model, and joins no requests; but as a server that does, it
refuses more rows than the model's batching.config allows.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class RequestError(Exception):
    """What is answered with an error: a gRPC status and a text."""

    def __init__(self, status: grpc.StatusCode, message: str):
        super().__init__(message)
        self.status = status


def _invalid(message: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


class ServedModel:
    """The model behind both protocols.

    Attributes:
      name, version: as requests name them.
      failures: statuses with which the next requests are answered, each once.
    """

    def __init__(self, version_dir: Path):
        self.name, self.version = version_dir.parent.name, int(version_dir.name)
        self.failures: list[grpc.StatusCode] = []
        self._model = tf.saved_model.load(str(version_dir))
        batching = (version_dir.parent / "batching.config").read_text()
        self._largest = int(re.search(r"max_batch_size \{ value: (\d+)", batching)[1])
        text = (version_dir / "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(text).meta_graphs[0]
        self.signature_defs = graph.signature_def

    def fail_if_told(self) -> None:
        if self.failures:
            raise RequestError(self.failures.pop(0), "told to fail")

    def check(self, name: str, version: int | None) -> None:
        if name != self.name or version not in (None, self.version):
            found = f"{name}:{version or 'latest'}"
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {found}"
            )

    def inputs(self, signature: str) -> dict[str, tf.TensorSpec]:
        if signature not in self._model.signatures:
            raise _invalid(
                f'Serving signature name: "{signature}" not found in signature def'
            )
        return self._model.signatures[signature].structured_input_signature[1]

    def run(self, signature: str, tensors: dict[str, tf.Tensor]):
        specs = self.inputs(signature)
        if set(tensors) != set(specs):
            raise _invalid(
                f"input keys {sorted(tensors)} are not those of the signature, "
                f"{sorted(specs)}"
            )
        for name, tensor in tensors.items():
            spec = specs[name]
            if tensor.dtype != spec.dtype:
                raise _invalid(f"{name} is {tensor.dtype.name}, not {spec.dtype.name}")
            if not spec.shape.is_compatible_with(tensor.shape):
                raise _invalid(f"{name} is {tensor.shape}, not {spec.shape}")
        for tensor in tensors.values():
            if len(tensor) > self._largest:
                raise _invalid(
                    f"Task size {len(tensor)} is larger than maximum input batch size "
                    f"{self._largest}"
                )
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise _invalid(error.message) from error
        return {name: value.numpy() for name, value in outputs.items()}


# REST.

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
}


def _from_json(value, spec: tf.TensorSpec, name: str) -> tf.Tensor:
    """A JSON value -> a tensor, as strictly as TensorFlow Serving reads it."""

    def plain(item):
        if isinstance(item, list):
            return [plain(part) for part in item]
        if spec.dtype == tf.string:
            if isinstance(item, dict) and list(item) == ["b64"]:
                return base64.b64decode(item["b64"], validate=True)
            if isinstance(item, str):
                return item.encode()
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            if not spec.dtype.is_floating and not isinstance(item, int):
                raise _invalid(f"{name}: {item} is not of type {spec.dtype.name}")
            return item
        raise _invalid(f"{name}: JSON value is not of type {spec.dtype.name}")

    try:
        rows = plain(value)
        if rows == []:
            return tf.zeros([0, *spec.shape[1:]], spec.dtype)
        return tf.constant(rows, spec.dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _invalid(f"{name}: {error}") from error


def _to_json(name: str, value: np.ndarray) -> list:
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in value]
    return value.tolist()


def _rows_of(body: dict, specs: dict[str, tf.TensorSpec]) -> dict[str, list]:
    """The columns of a request in the row format."""
    rows = body["instances"]
    if not isinstance(rows, list) or not rows:
        raise _invalid('"instances" is not a list of one or more rows')
    names = list(specs)
    if len(names) == 1 and not (isinstance(rows[0], dict) and names[0] in rows[0]):
        return {names[0]: rows}
    for row in rows:
        if not isinstance(row, dict) or set(row) != set(names):
            raise _invalid(f"a row does not have the named inputs {sorted(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _columns_of(body: dict, specs: dict[str, tf.TensorSpec]) -> dict[str, list]:
    columns = body["inputs"]
    if isinstance(columns, dict) and "b64" not in columns:
        return columns
    if len(specs) != 1:
        raise _invalid('"inputs" is not an object, and there are several inputs')
    return {next(iter(specs)): columns}


def _predict(model: ServedModel, text: bytes) -> dict:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise _invalid('expected a JSON object with "instances" or "inputs"')
    signature = body.get("signature_name", "serving_default")
    if not isinstance(signature, str):
        raise _invalid('"signature_name" is not a string')
    specs = model.inputs(signature)
    by_row = "instances" in body
    columns = _rows_of(body, specs) if by_row else _columns_of(body, specs)
    tensors = {
        name: _from_json(value, specs[name], name)
        for name, value in columns.items()
        if name in specs
    }
    outputs = model.run(signature, tensors if set(columns) <= set(specs) else {})
    found = {name: _to_json(name, value) for name, value in outputs.items()}
    if len(found) == 1:
        (found,) = found.values()
        return {"predictions" if by_row else "outputs": found}
    if not by_row:
        return {"outputs": found}
    rows = [dict(zip(found, values)) for values in zip(*found.values())]
    return {"predictions": rows}


def _metadata(model: ServedModel) -> dict:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in model.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    as_json = json_format.MessageToDict(
        signatures,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    version = str(model.version)
    spec = {"name": model.name, "signature_name": "", "version": version}
    return {"model_spec": spec, "metadata": {"signature_def": as_json}}


def _status(model: ServedModel) -> dict:
    return {
        "model_version_status": [
            {
                "version": str(model.version),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


class _Handler(BaseHTTPRequestHandler):
    model: ServedModel
    protocol_version = "HTTP/1.1"

    def _answer(self, work):
        try:
            self.model.fail_if_told()
            code, answer = 200, work()
        except RequestError as error:
            code, answer = _HTTP_STATUS[error.status], {"error": str(error)}
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _check(self, path: str) -> None:
        parts = path.strip("/").split("/")
        versioned = len(parts) == 5 and parts[3] == "versions" and parts[4].isdecimal()
        if parts[:2] != ["v1", "models"] or not (len(parts) == 3 or versioned):
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Malformed request: {path}")
        self.model.check(parts[2], int(parts[4]) if versioned else None)

    def do_GET(self):  # noqa: N802
        def work():
            wants_metadata = self.path.endswith("/metadata")
            self._check(self.path.removesuffix("/metadata"))
            return _metadata(self.model) if wants_metadata else _status(self.model)

        self._answer(work)

    def do_POST(self):  # noqa: N802
        text = self.rfile.read(int(self.headers["Content-Length"]))

        def work():
            path, _, verb = self.path.rpartition(":")
            if verb != "predict":
                raise _invalid(f"Malformed request: POST {self.path}")
            self._check(path)
            return _predict(self.model, text)

        self._answer(work)

    def log_message(self, *args):
        """Says nothing."""


# gRPC.


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: ServedModel):
        self._model = model

    def _answer(self, spec, context, work):
        try:
            self._model.fail_if_told()
            version = spec.version.value if spec.HasField("version") else None
            self._model.check(spec.name, version)
            return work()
        except RequestError as error:
            context.abort(error.status, str(error))

    def Predict(self, request, context):  # noqa: N802
        def work():
            tensors = {
                name: tf.constant(tf.make_ndarray(proto))
                for name, proto in request.inputs.items()
            }
            name = request.model_spec.signature_name or "serving_default"
            response = predict_pb2.PredictResponse()
            for key, value in self._model.run(name, tensors).items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

        return self._answer(request.model_spec, context, work)

    def GetModelMetadata(self, request, context):  # noqa: N802
        def work():
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in self._model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata["signature_def"].Pack(signatures)
            response.model_spec.name = self._model.name
            response.model_spec.version.value = self._model.version
            return response

        return self._answer(request.model_spec, context, work)


@contextmanager
def serving(version_dir: Path) -> Iterator[tuple[ServedModel, str, str]]:
    """Serves a version: gives the model and its addresses by REST and gRPC."""
    model = ServedModel(version_dir)
    handler = type("Handler", (_Handler,), {"model": model})
    rest = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(model), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield (
            model,
            f"http://127.0.0.1:{rest.server_port}/v1/models/{model.name}",
            f"grpc://127.0.0.1:{port}/{model.name}",
        )
    finally:
        server.stop(None)
        rest.shutdown()
        rest.server_close()
