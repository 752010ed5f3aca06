"""Which files of a folder are pictures, what else it holds, and which are damaged.

Links are followed. Hidden files and files of other programs are passed over; the
content of the others decides what they are. What is left out is counted by kind.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import PIL

from tfp_vaeflow.common import files
from tfp_vaeflow.data.pictures import FORMATS, HEAD, THREADS, decode, fault, format_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
# What operating systems, notebooks, network drives and tools put beside pictures.
_HELPERS = {
    ".ipynb_checkpoints",
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}
# Raw files of cameras look like TIFF files, but a TIFF reader sees only a thumbnail.
_RAW = (".dng", ".nef", ".cr2", ".arw", ".orf", ".pef", ".srw", ".rw2", ".3fr", ".iiq")
_NAMED = 5  # files that are named; the rest are counted
_OTHER, _DAMAGED = "other format", "damaged"
_VERSION = f"2 {PIL.__version__}"  # of the saved verdicts


class LeftOut:
    """The files and folders that are left out of a folder of pictures.

    Attributes:
      hidden: files and folders whose names begin with a dot.
      helpers: files and folders of other programs.
      other_formats: pairs of a file in none of `FORMATS`, and its kind.
      unreadable: pairs of a picture or folder that cannot be read, and the reason.
      unlabelled: pictures beside folders that name classes.
      outside: files and folders beside the folders of the parts.
      num_pictures: number of files taken for pictures, damaged ones included.

    Args:
      root: the folder.
    """

    def __init__(self, root: str):
        self.root = root
        self.hidden: list[str] = []
        self.helpers: list[str] = []
        self.other_formats: list[tuple[str, str]] = []
        self.unreadable: list[tuple[str, str]] = []
        self.unlabelled: list[str] = []
        self.outside: list[str] = []
        self.num_pictures = 0

    def ignored(self, name: str, path: str) -> bool:
        """Whether a name is passed over; if so, notes its path."""
        kind = ignored_kind(name)
        if kind is not None:
            (self.hidden if kind == "hidden" else self.helpers).append(path)
        return kind is not None

    def note(self, path: str, error: Exception) -> None:
        """Notes a file that `read` could not read."""
        if isinstance(error, OtherFormatError):
            self.other_formats.append((path, str(error)))
        else:
            self.unreadable.append((path, fault(error)))
            self.num_pictures += 1

    def lines(self) -> Iterator[str]:
        """Lines that report what was left out; none if nothing was."""
        parts = [
            (len(self.hidden), "hidden", ""),
            (len(self.helpers), "of other programs", _counts(self._names())),
            (
                len(self.other_formats),
                "of other formats",
                _counts(kind for _, kind in self.other_formats),
            ),
        ]
        said = [f"{n} {what}" + f" ({of})" * bool(of) for n, what, of in parts if n]
        if said:
            yield f"left out of {files.printable(self.root)}: {', '.join(said)}"
        if self.unreadable:
            yield (
                f"{len(self.unreadable)} of {self.num_pictures} files cannot be read "
                "and are left out:"
            )
            yield from _indented(
                f"{files.printable(path)}: {reason}" for path, reason in self.unreadable
            )
        if self.unlabelled:
            yield (
                f"{len(self.unlabelled)} picture(s) beside the class folders, which "
                "have no label, are left out:"
            )
            yield from _indented(map(files.printable, self.unlabelled))
        if self.outside:
            yield "entries beside the folders of the parts are not read:"
            yield from _indented(map(files.printable, self.outside))

    def _names(self) -> Iterator[str]:
        return (files.printable(os.path.basename(path)) for path in self.helpers)


def _counts(kinds: Iterable[str]) -> str:
    counted = collections.Counter(kinds).most_common()
    text = ", ".join(f"{number} {kind}" for kind, number in counted[:_NAMED])
    return text + (", ..." if len(counted) > _NAMED else "")


def _indented(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines := list(lines)):
        if number == _NAMED:
            yield f"  and {len(lines) - _NAMED} more"
            return
        yield f"  {line}"


def ignored_kind(name: str) -> str | None:
    """Why a file or folder is passed over by its name: `hidden`, `helper`, or None."""
    if name.lower() in _HELPERS:
        return "helper"
    return "hidden" if name.startswith(".") else None


def named_as_picture(name: str) -> bool:
    """Whether a name has the suffix of a picture."""
    return name.lower().endswith(SUFFIXES)


class _Folder(NamedTuple):
    path: str
    above: frozenset  # the identities of the folders that it lies in


def candidates(directory: str, left_out: LeftOut) -> Iterator[str]:
    """The files below a directory, except those that are passed over by their names.

    Args:
      directory: to walk.
      left_out: takes everything that is passed over or cannot be opened.
    """
    waiting = [_Folder(directory, frozenset())]
    while waiting:
        folder = waiting.pop()
        try:
            own = files.identity(folder.path)
            if own in folder.above:
                raise OSError(0, "a link to a folder that it lies in", folder.path)
            found = files.entries(folder.path, named_as_picture)
        except OSError as error:
            left_out.unreadable.append((folder.path, fault(error)))
            left_out.num_pictures += 1
            continue
        for entry in found:
            if left_out.ignored(entry.name, entry.path):
                continue
            if entry.kind == "file":
                yield entry.path
            elif entry.kind == "directory":
                waiting.append(_Folder(entry.path, folder.above | {own}))
            elif named_as_picture(entry.name):
                reason = "a broken link, or no regular file"
                left_out.unreadable.append((entry.path, reason))
                left_out.num_pictures += 1
            else:
                kind = "broken link or special file"
                left_out.other_formats.append((entry.path, kind))


def _kind_of_name(path: str) -> str:
    suffix = os.path.splitext(os.path.basename(path))[1].lower()
    return files.printable(suffix) or "without a suffix"


def _other_format(path: str) -> str | None:
    """The kind of a file that is in none of `FORMATS`; None for a picture."""
    name = os.path.basename(path)
    # A file that is not named as a picture may be large, so only its start is read.
    is_other = not named_as_picture(name) and (
        format_of(files.read_bytes(path, HEAD)) is None or name.lower().endswith(_RAW)
    )
    return _kind_of_name(path) if is_other else None


class OtherFormatError(Exception):
    """A file is in none of `FORMATS`; says its kind."""


def read(path: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The picture in a file that was not looked at before, uint8 `[H, W, C]`.

    Raises:
      OtherFormatError: if the file is no picture.
      Exception: of all kinds, if it is damaged; `LeftOut.note` takes all these errors.
    """
    kind = _other_format(path)
    if kind is not None:
        raise OtherFormatError(kind)
    return decode(path, image_shape)


def _verdict(path: str) -> tuple[str, str] | None:
    """None for a readable picture; else `_OTHER` or `_DAMAGED`, with a detail."""
    kind = _other_format(path)
    if kind is not None:
        return _OTHER, kind
    try:
        decode(path, (1, 1, 3))
    except Exception as error:  # Pillow raises all kinds
        if isinstance(error, OSError) and error.errno:
            raise  # an error of the file system, perhaps temporary
        return _DAMAGED, fault(error)
    return None


def _cache_path(root: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    whole = root if files.is_remote(root) else os.path.realpath(root)
    name = hashlib.md5(os.fsencode(whole)).hexdigest()
    return os.path.join(base, "tfp_vaeflow", f"scan-{name}.json")


def _known_verdicts(cache_path: str) -> dict[str, tuple[str, str] | None]:
    try:
        kept = json.loads(files.read_text(cache_path))
        return kept["verdicts"] if kept["version"] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def readable(paths: list[str], left_out: LeftOut) -> list[str]:
    """The readable pictures among files.

    Each file is checked once; the verdicts are saved by path, size and time.

    Args:
      paths: the files that `candidates` gave.
      left_out: takes the other files; its root is the folder that is being checked.
    """
    cache_path = _cache_path(left_out.root)
    known = _known_verdicts(cache_path)
    failed = {}

    def stamp(path):
        try:
            return f"{path} {files.stamp(path)}"
        except OSError as error:  # for example, removed since it was found
            failed[path] = _DAMAGED, fault(error)
            return None

    def judge(index):
        try:
            return _verdict(paths[index])
        except OSError as error:
            failed[paths[index]] = _DAMAGED, fault(error)
            return None

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        keys = list(pool.map(stamp, paths))
        missing = [i for i, key in enumerate(keys) if key and key not in known]
        if missing:
            root = files.printable(left_out.root)
            print(f"checking {len(missing)} files in {root}", flush=True)
        for index, verdict in zip(missing, pool.map(judge, missing)):
            if paths[index] not in failed:
                known[keys[index]] = verdict
    if missing:
        # If the verdicts cannot be saved, the next run checks again.
        kept = {key: known[key] for key in keys if key in known}
        with contextlib.suppress(OSError):
            text = json.dumps({"version": _VERSION, "verdicts": kept})
            files.write_text(cache_path, text)
    good = []
    for path, key in zip(paths, keys):
        kind, reason = failed.get(path) or known.get(key) or (None, None)
        if kind == _OTHER:
            left_out.other_formats.append((path, reason))
            continue
        left_out.num_pictures += 1
        if kind == _DAMAGED:
            left_out.unreadable.append((path, reason))
        else:
            good.append(path)
    return good


class Pictures(NamedTuple):
    """What `find_pictures` found.

    Attributes:
      paths: of the pictures, in the order of their folders and names.
      left_out: the other files and folders.
    """

    paths: list[str]
    left_out: LeftOut


def find_pictures(folder: str | os.PathLike) -> Pictures:
    """The pictures below a folder, by the rules of training; `decode` reads them.

    Hidden files, helper folders, files of other formats and those that cannot be read
    are left out; print `left_out.lines()` to say so.

    Args:
      folder: on this machine or elsewhere.
    """
    left_out = LeftOut(files.absolute(folder))
    paths = readable(sorted(candidates(left_out.root, left_out)), left_out)
    return Pictures(paths, left_out)


def expected(root: str) -> str:
    """The layouts that a folder of pictures may have, for an error message."""
    return (
        f"expected {root}/train/CLASS/*, {root}/CLASS/*, or files right in {root}, of "
        f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    )
