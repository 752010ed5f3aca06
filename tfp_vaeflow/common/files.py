"""Reads and writes files, both local ones and those that only TensorFlow can open.

`tf.io.gfile` opens paths with `://` in them (gs://, ram://, ...), the standard library
opens all others. Paths are joined by `os.path.join`, because pathlib turns `gs://a`
into `gs:/a`. All failures are `OSError`s.

A file is replaced in one step: a kill at any moment leaves the old file or the new one.
Only files are renamed: a remote directory may be renamed without its contents.
"""

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

AnyPath = str | os.PathLike
_CODES = {
    "AlreadyExistsError": errno.EEXIST,
    "NotFoundError": errno.ENOENT,
    "PermissionDeniedError": errno.EACCES,
    "ResourceExhaustedError": errno.ENOSPC,
}


def is_remote(path: AnyPath) -> bool:
    """Whether TensorFlow opens a path, and not the standard library."""
    return "://" in os.fspath(path)


def reason(error: Exception) -> str:
    """The message of an error, without the file and operation that TensorFlow adds."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = re.sub(r"^\{\{.*?\}\} | \[Op:\w+\].*$", "", line)
    return line.rsplit("; ", 1)[-1]


def describe(error: OSError) -> str:
    """The file and the message of an error."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{printable(str(error.filename))}: {error.strerror}"


@contextlib.contextmanager
def tensorflow_errors(path: AnyPath) -> Iterator[None]:
    """Raises an error of TensorFlow in this block as an `OSError` about `path`.

    Only for blocks that use TensorFlow for nothing but reading and writing.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        code = _CODES.get(type(error).__name__, errno.EIO)
        raise OSError(code, reason(error), os.fspath(path)) from error


@contextlib.contextmanager
def _gfile(path: AnyPath) -> Iterator:
    import tensorflow as tf

    with tensorflow_errors(path):
        yield tf.io.gfile


def expand(path: AnyPath) -> str:
    """A path as a shell would read it: `~` at its start is the home directory.

    Shells leave the `~` in `--flag=~/x` alone.
    """
    return os.path.expanduser(path)


def user_path(text: str) -> Path:
    """A local path as a user writes it; the `type` of an argument of argparse."""
    return Path(expand(text))


def printable(path: AnyPath) -> str:
    """A path or name as one line of text that every output can show.

    Control characters, and bytes that are not UTF-8, become escapes as in Python.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(path))


def absolute(path: AnyPath) -> str:
    """A path for any working directory, without a slash at its end."""
    return os.fspath(path).rstrip("/") if is_remote(path) else os.path.abspath(path)


def exists(path: AnyPath) -> bool:
    """Whether there is a file or a directory of that path."""
    if not is_remote(path):
        return os.path.exists(path)
    with _gfile(path) as gfile:
        return gfile.exists(path)


def is_dir(path: AnyPath) -> bool:
    """Whether there is a directory of that path."""
    if not is_remote(path):
        return os.path.isdir(path)
    with _gfile(path) as gfile:
        return gfile.isdir(path)


def stamp(path: AnyPath) -> str:
    """Size and time of the last change, to tell whether a file is still the same."""
    if not is_remote(path):
        found = os.stat(path)
        return f"{found.st_size} {found.st_mtime_ns}"
    with _gfile(path) as gfile:
        found = gfile.stat(path)
        return f"{found.length} {found.mtime_nsec}"


def list_dir(path: AnyPath) -> list[str]:
    """The names in a directory, sorted; none if there is no such directory."""
    if not is_dir(path):
        return []
    if not is_remote(path):
        return sorted(os.listdir(path))
    with _gfile(path) as gfile:
        # Some file systems put a slash after the names of directories.
        return sorted(name.rstrip("/") for name in gfile.listdir(path))


def matching(pattern: str) -> list[str]:
    """The paths that fit a pattern with `*`, `?` or `**`, sorted."""
    if not is_remote(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    with _gfile(pattern) as gfile:
        return sorted(gfile.glob(pattern))


class Entry(NamedTuple):
    """One file or directory within a directory.

    Attributes:
      name: within the directory.
      path: the directory and the name.
      kind: `file` or `directory`, links followed; `other` if it can be read as neither,
        such as a broken link or a pipe.
    """

    name: str
    path: str
    kind: str


def entries(directory: AnyPath, is_file: Callable[[str], bool]) -> list[Entry]:
    """The entries of a directory, sorted by name.

    Args:
      directory: to look into.
      is_file: whether a name is surely that of a file. In a remote directory, such
        names are not looked up, because each look-up is a request.

    Raises:
      OSError: if the directory cannot be read.
    """
    if is_remote(directory):
        found = []
        for name in list_dir(directory):
            path = os.path.join(directory, name)
            kind = "file" if is_file(name) or not is_dir(path) else "directory"
            found.append(Entry(name, path, kind))
        return found
    with os.scandir(directory) as scan:
        found = [Entry(item.name, item.path, _kind(item)) for item in scan]
    return sorted(found)


def _kind(item: os.DirEntry) -> str:
    try:
        if item.is_file():
            return "file"
        return "directory" if item.is_dir() else "other"
    except OSError:  # such as links in a circle
        return "other"


def identity(directory: AnyPath) -> object:
    """A value that identifies a directory, whatever links lead to it."""
    if is_remote(directory):
        return absolute(directory)
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def total_size(directory: AnyPath) -> int:
    """The bytes of all files below a directory."""
    if not is_remote(directory):
        return sum(
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(directory)
            for name in names
        )
    with _gfile(directory) as gfile:
        return sum(
            gfile.stat(os.path.join(folder, name)).length
            for folder, _, names in gfile.walk(directory)
            for name in names
        )


def make_dirs(path: AnyPath) -> None:
    """Makes a directory and those above it, unless they are there."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)
        return
    with _gfile(path) as gfile:
        gfile.makedirs(path)


def remove(path: AnyPath) -> None:
    """Removes a file, or a directory with all its contents."""
    if is_remote(path):
        with _gfile(path) as gfile:
            (gfile.rmtree if gfile.isdir(path) else gfile.remove)(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def read_bytes(path: AnyPath, most: int = -1) -> bytes:
    """The bytes of a file: all, or the first `most`."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read(most)
    with _gfile(path) as gfile, gfile.GFile(path, "rb") as file:
        return file.read(most)


def read_text(path: AnyPath) -> str:
    """The text of a file; an `OSError` also if it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "not a text in UTF-8", os.fspath(path)) from error


def _write(path: str, data: bytes, mode: str) -> None:
    if not is_remote(path):
        try:
            with open(path, mode) as file:
                file.write(data)
        except OSError as error:
            error.filename = path  # a failed `write` does not know it
            raise
        return
    with _gfile(path) as gfile, gfile.GFile(path, mode) as file:
        file.write(data)


def _rename(path: str, target: str) -> None:
    if not is_remote(path):
        os.replace(path, target)
        return
    with _gfile(target) as gfile:
        gfile.rename(path, target, overwrite=True)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Replaces a file in one step; makes its directory if it is missing."""
    path = os.fspath(path)
    directory, name = os.path.split(path)
    if directory:
        make_dirs(directory)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    try:
        _write(temporary, data, "wb")
        _rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the file may not exist
            remove(temporary)
        if isinstance(error, OSError):
            error.filename = path
        raise


def write_text(path: AnyPath, text: str) -> None:
    """Replaces the content of a text file in one step."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: AnyPath, text: str) -> None:
    """Adds to a text file.

    An object store rewrites the whole object: use this for small files, and rarely.
    """
    _write(os.fspath(path), text.encode("utf-8"), "ab")
