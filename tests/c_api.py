"""Runs signatures of a SavedModel by TensorFlow's C API: no Python of TensorFlow's.

    python c_api.py LIBRARY SAVED_MODEL ORDERS VALUES RESULTS

LIBRARY is libtensorflow_cc.so.2, whose loader is that of TensorFlow Serving. ORDERS is
JSON: for each signature the names of its tensors,

    {"encode": {"inputs": {"image": "encode_image:0"}, "outputs": {"z": "Call:1"}}}

VALUES and RESULTS are .npz files with arrays "encode/image", "encode/z". A batch of
strings is an array of dtype object.
"""

import ctypes
import json
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

# Numbers of TF_DataType.
DTYPES = {
    1: np.dtype(np.float32),
    4: np.dtype(np.uint8),
    9: np.dtype(np.int64),
    10: np.dtype(bool),
}
STRING = 7
STRING_SIZE = 24  # sizeof(TF_TString)


class Output(ctypes.Structure):
    _fields_ = [("operation", c_void_p), ("index", c_int)]


def declare(library: ctypes.CDLL) -> None:
    """Says what the functions take and give where that is not int."""
    pointers = {
        "TF_NewStatus": [],
        "TF_NewGraph": [],
        "TF_NewSessionOptions": [],
        "TF_GraphOperationByName": [c_void_p, c_char_p],
        "TF_LoadSessionFromSavedModel": [
            c_void_p,
            c_void_p,
            c_char_p,
            POINTER(c_char_p),
            c_int,
            c_void_p,
            c_void_p,
            c_void_p,
        ],
        "TF_AllocateTensor": [c_int, POINTER(c_int64), c_int, c_size_t],
        "TF_TensorData": [c_void_p],
        "TF_StringGetDataPointer": [c_void_p],
    }
    for name, arguments in pointers.items():
        function = getattr(library, name)
        function.restype, function.argtypes = c_void_p, arguments
    library.TF_Message.restype = c_char_p
    library.TF_Message.argtypes = library.TF_GetCode.argtypes = [c_void_p]
    library.TF_Dim.restype = c_int64
    library.TF_Dim.argtypes = [c_void_p, c_int]
    library.TF_TensorType.argtypes = library.TF_NumDims.argtypes = [c_void_p]
    library.TF_TensorByteSize.restype = library.TF_StringGetSize.restype = c_size_t
    library.TF_TensorByteSize.argtypes = library.TF_StringGetSize.argtypes = [c_void_p]
    for name in ("TF_StringInit", "TF_StringDealloc", "TF_DeleteTensor"):
        getattr(library, name).argtypes = [c_void_p]
    library.TF_StringCopy.argtypes = [c_void_p, c_char_p, c_size_t]
    library.TF_SessionRun.argtypes = [
        c_void_p,
        c_void_p,
        POINTER(Output),
        POINTER(c_void_p),
        c_int,
        POINTER(Output),
        POINTER(c_void_p),
        c_int,
        c_void_p,
        c_int,
        c_void_p,
        c_void_p,
    ]


class Model:
    """A SavedModel in a session."""

    def __init__(self, library: ctypes.CDLL, directory: str):
        self._library = library
        self._status = library.TF_NewStatus()
        self._graph = library.TF_NewGraph()
        tags = (c_char_p * 1)(b"serve")
        self._session = library.TF_LoadSessionFromSavedModel(
            library.TF_NewSessionOptions(),
            None,
            directory.encode(),
            tags,
            1,
            self._graph,
            None,
            self._status,
        )
        self._check()

    def _check(self) -> None:
        if self._library.TF_GetCode(self._status):
            sys.exit(self._library.TF_Message(self._status).decode())

    def _output(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        found = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            sys.exit(f"no operation {operation}")
        return Output(found, int(index))

    def _tensor(self, value: np.ndarray) -> int:
        library = self._library
        shape = (c_int64 * value.ndim)(*value.shape)
        if value.dtype.hasobject:
            size = STRING_SIZE * value.size
            tensor = library.TF_AllocateTensor(STRING, shape, value.ndim, size)
            start = library.TF_TensorData(tensor)
            for number, item in enumerate(value.ravel()):
                place = start + number * STRING_SIZE
                library.TF_StringInit(place)
                library.TF_StringCopy(place, item, len(item))
            return tensor
        kind = next(number for number, dtype in DTYPES.items() if dtype == value.dtype)
        tensor = library.TF_AllocateTensor(kind, shape, value.ndim, value.nbytes)
        ctypes.memmove(library.TF_TensorData(tensor), value.tobytes(), value.nbytes)
        return tensor

    def _array(self, tensor: int) -> np.ndarray:
        library = self._library
        dims = range(library.TF_NumDims(tensor))
        shape = [library.TF_Dim(tensor, dim) for dim in dims]
        start = library.TF_TensorData(tensor)
        kind = library.TF_TensorType(tensor)
        if kind == STRING:
            items = []
            for number in range(int(np.prod(shape))):
                place = start + number * STRING_SIZE
                data = library.TF_StringGetDataPointer(place)
                items.append(ctypes.string_at(data, library.TF_StringGetSize(place)))
            return np.array(items, object).reshape(shape)
        data = ctypes.string_at(start, library.TF_TensorByteSize(tensor))
        return np.frombuffer(data, DTYPES[kind]).reshape(shape)

    def run(
        self, inputs: dict[str, np.ndarray], outputs: list[str]
    ) -> list[np.ndarray]:
        """Values by the names of tensors -> the values of other tensors."""
        fed = (Output * len(inputs))(*map(self._output, inputs))
        values = (c_void_p * len(inputs))(*map(self._tensor, inputs.values()))
        fetched = (Output * len(outputs))(*map(self._output, outputs))
        results = (c_void_p * len(outputs))()
        self._library.TF_SessionRun(
            self._session,
            None,
            fed,
            values,
            len(inputs),
            fetched,
            results,
            len(outputs),
            None,
            0,
            None,
            self._status,
        )
        self._check()
        arrays = [self._array(result) for result in results]
        for tensor in [*values, *results]:
            self._library.TF_DeleteTensor(tensor)
        return arrays


def main(library_path, directory, orders_path, values_path, results_path) -> None:
    library = ctypes.CDLL(library_path)
    declare(library)
    model = Model(library, directory)
    values = np.load(values_path, allow_pickle=True)
    results = {}
    with open(orders_path) as orders:
        signatures = json.load(orders)
    for key, signature in signatures.items():
        inputs = {
            tensor: values[f"{key}/{name}"]
            for name, tensor in signature["inputs"].items()
        }
        outputs = signature["outputs"]
        found = model.run(inputs, list(outputs.values()))
        results |= {f"{key}/{name}": value for name, value in zip(outputs, found)}
    np.savez(results_path, **results)
    foreign = {"tensorflow", "tfp_vaeflow"} & set(sys.modules)
    assert not foreign, foreign


if __name__ == "__main__":
    main(*sys.argv[1:])
