"""A .npy file that grows row by row, and can be read as a memory map at any time."""

import os

import numpy as np

from tfp_vaeflow.common.errors import UserError


class GrowingArray:
    """A float32 array in a file, `[N, *shape]`.

    Args:
      path: of the .npy file.
      shape: of a row.
      rows: how many rows of the file to keep; later ones are dropped.

    Raises:
      UserError: if the file is there and has fewer rows, or others.
    """

    def __init__(self, path: str, shape: tuple[int, ...], rows: int):
        self._path, self._shape = path, tuple(shape)
        if not rows:
            with open(path, "wb") as file:
                self._write_header(file, 0)
        else:
            try:
                found = np.load(path, mmap_mode="r")
            except (OSError, ValueError):
                found = np.zeros([0, *shape])
            if found.shape[1:] != self._shape or len(found) < rows:
                raise UserError(
                    f"{path} does not have the rows of the table; delete the table, or "
                    "bring back a copy of this file"
                )
            with open(path, "rb+") as file:
                self._write_header(file, rows)
                file.truncate(file.tell() + rows * self._row_size())
        self._rows = rows

    def _row_size(self) -> int:
        return 4 * int(np.prod(self._shape))

    def _write_header(self, file, rows: int) -> None:
        # NumPy leaves room in the header for more digits of the first size.
        header = {
            "descr": "<f4",
            "fortran_order": False,
            "shape": (rows, *self._shape),
        }
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header)

    def append(self, values: np.ndarray) -> None:
        """Adds rows `[B, *shape]`: first the values, then their number."""
        with open(self._path, "rb+") as file:
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(values, "<f4").tobytes())
            file.flush()
            self._rows += len(values)
            self._write_header(file, self._rows)
