"""Reads PyTorch's archives of tensors, without PyTorch.

`model.pt` and `checkpoint*.tar` are zip archives of a pickle and raw storages (before
PyTorch 1.6, a sequence of pickles and storages). The unpickler here accepts the few
names that such a file needs and refuses all others, so no code in it can run.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from tfp_vaeflow.common.errors import UserError

# The first bytes of a file by PyTorch before 1.6: a pickled number.
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _rebuild_tensor(storage, offset, size, stride, *_):
    """Stands in for `torch._utils._rebuild_tensor_v2`; returns a NumPy array."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and (offset < 0 or min(stride, default=0) < 0):
        raise UserError("a tensor has a negative offset or stride")
    if 0 not in size and last >= storage.size:
        raise UserError("a tensor reaches beyond the end of its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Rebuilds dictionaries of tensors and nothing else.

    Args:
      file: holds the pickle.
      storage_of: (key, dtype, number of elements) -> the content of a storage.
    """

    def __init__(self, file: IO[bytes], storage_of: Callable):
        super().__init__(file)
        self._storage_of = storage_of

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(
            f"the file asks for {module}.{name}, which a file of tensors does not need"
        )

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"the file refers to an unknown {kind!r}")
        return self._storage_of(key, dtype, count)


def _load_zip(path: str | Path):
    """The content of an archive's pickle, in the format since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        root = name.removesuffix("data.pkl")

        def storage_of(key, dtype, count):
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype, count)

        return _Unpickler(io.BytesIO(archive.read(name)), storage_of).load()


def _load_old(path: str | Path):
    """The same for the older format: pickles, followed by their storages."""
    with open(path, "rb") as file:
        for _ in range(3):  # the magic number, the version, the machine's sizes
            _Unpickler(file, None).load()
        start = file.tell()
        dtypes = {}

        def note(key, dtype, count):
            dtypes[key] = dtype
            return np.zeros(count, dtype)

        _Unpickler(file, note).load()
        storages = {}
        for key in _Unpickler(file, None).load():
            (count,) = np.fromfile(file, "<i8", 1)
            storages[key] = np.fromfile(file, dtypes[key], count)
        file.seek(start)
        return _Unpickler(file, lambda key, dtype, count: storages[key]).load()


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a reference checkpoint by name, in PyTorch's layout.

    Args:
      path: `model.pt`, as the reference's `save` writes it, or a `checkpoint*.tar` of
        its training, of one process or of several.

    Raises:
      UserError: if the file is no such archive, or asks for anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            is_old = file.read(len(_OLD_FORMAT)) == _OLD_FORMAT
        content = _load_old(path) if is_old else _load_zip(path)
        # `model.pt` holds the state of `core`. A checkpoint of training holds the state
        # of the model around it, which a distributed run wraps once more.
        whole = "core" not in content
        tensors = {}
        for name, value in dict(content["model" if whole else "core"]).items():
            if not isinstance(value, np.ndarray):
                raise TypeError(f"{name} is no tensor")
            if whole:
                name = name.removeprefix("core.").removeprefix("module.")
            tensors[name] = value
        return tensors
    except (
        OSError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        IndexError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path} is not a checkpoint of the reference implementation: {error}"
        ) from error
