"""Disks that are full, read-only or without locks, for one forked process alone.

By mounts in a namespace of its own, which Linux allows to root and in many places to
everybody; a limit on the size of files is to be had everywhere. System calls fail by a
filter that the process puts on itself (seccomp).
"""

import ctypes
import os
import platform
import resource
import shutil
import signal
import tempfile
from pathlib import Path

NOT_TO_BE_HAD = 77
_NEW_NAMESPACES = 0x00020000 | 0x10000000  # of mounts and of users, as in sched.h
_PAGE = 4096
_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096  # as in sys/mount.h
_FLOCK = {"x86_64": 73, "aarch64": 32}  # numbers of the system call
_NO_NEW_PRIVILEGES, _SECCOMP, _BY_FILTER = 38, 22, 2  # as in sys/prctl.h


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "no mounts in namespaces here")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    library = ctypes.CDLL(None, use_errno=True)
    _checked(library.mount(*words, flags, options.encode()))


def _enter_namespaces() -> None:
    ids = os.getuid(), os.getgid()
    _checked(ctypes.CDLL(None, use_errno=True).unshare(_NEW_NAMESPACES))
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in zip(("uid_map", "gid_map"), ids):
        Path("/proc/self", name).write_text(f"0 {number} 1")


def _mount_small_disk(directory: str, spare: int) -> None:
    """Moves a directory to a disk of its own that takes only so many bytes more."""
    copy = tempfile.mkdtemp()
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    sizes = [path.stat().st_size for path in Path(copy).rglob("*") if path.is_file()]
    pages = sum(-(-size // _PAGE) for size in sizes) + spare // _PAGE
    _mount("tmpfs", directory, "tmpfs", 0, f"size={pages * _PAGE}")
    shutil.copytree(copy, directory, dirs_exist_ok=True)
    shutil.rmtree(copy)


class _Instruction(ctypes.Structure):
    """Of a filter of system calls, `sock_filter` in linux/filter.h."""

    _fields_ = [
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    ]


class _Program(ctypes.Structure):
    """`sock_fprog` in linux/filter.h."""

    _fields_ = [
        ("length", ctypes.c_ushort),
        ("instructions", ctypes.POINTER(_Instruction)),
    ]


def _fail_locks(number: int) -> None:
    """Makes `flock` fail with an error of that number."""
    if platform.machine() not in _FLOCK:
        raise OSError("another processor")
    instructions = (_Instruction * 4)(
        _Instruction(0x20, 0, 0, 0),  # load the number of the call
        _Instruction(0x15, 0, 1, _FLOCK[platform.machine()]),  # not flock: skip one
        _Instruction(0x06, 0, 0, 0x00050000 | number),  # fail
        _Instruction(0x06, 0, 0, 0x7FFF0000),  # go on
    )
    program = ctypes.byref(_Program(4, instructions))
    library = ctypes.CDLL(None, use_errno=True)
    _checked(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(library.prctl(_SECCOMP, _BY_FILTER, program, 0, 0))


def apply(order: dict) -> None:
    """Changes what this process sees.

    Args:
      order: `largest_file`, the bytes that a file may have; `small_disk`, a directory
        and the bytes that may be added to it; `read_only`, a directory; `no_locks`,
        the number of the error that locking a file gives. All may be absent.
    """
    if "largest_file" in order:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails instead
        limit = order["largest_file"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        if {"small_disk", "read_only"} & set(order):
            _enter_namespaces()
        if "small_disk" in order:
            _mount_small_disk(*order["small_disk"])
        if "read_only" in order:
            path = order["read_only"]
            _mount(path, path, "", _BIND)
            _mount(path, path, "", _BIND | _REMOUNT | _READ_ONLY)
        if "no_locks" in order:
            _fail_locks(order["no_locks"])
    except OSError:
        os._exit(NOT_TO_BE_HAD)


def leave(order: dict) -> None:
    """Copies what lies on a small disk to `DIRECTORY-after`, where others see it."""
    if "small_disk" in order:
        directory, _ = order["small_disk"]
        shutil.copytree(directory, f"{directory}-after")
