"""Keeps functions that XLA has compiled on disk, and checks them before later use.

TensorFlow itself can keep compiled functions in a directory, but trusts every file
there: a truncated file ends the run, and flipped bits are executed. If it cannot write,
the run ends as well. So TensorFlow never sees the store:

    STORE/KEY/NAME.SHA256     one entry; KEY is a hash of all that it depends on
    STORE/in_use/run-*/NAME   the directory that one run's TensorFlow reads and writes

A run starts with a directory of its own, which has links to the entries that match
their checksums; the other entries are deleted. A file that TensorFlow adds there is
linked into the store under its name and checksum. That is one step, so a process that
is killed leaves no entry without its checksum. Nothing needs a lock: a process that
deletes a file of the store does not remove other processes' links to it.
"""

import atexit
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tfp_vaeflow.common import files

SWITCH = "TFP_VAEFLOW_XLA_CACHE"
LIMIT = 2 * 10**9  # bytes of the store
_FLAGS = "TF_XLA_FLAGS"
_DIRECTORY = "--tf_xla_persistent_cache_directory"
_READ_ONLY = "--tf_xla_persistent_cache_read_only=true"
_ROOM = 2**29  # bytes that a run has to find free before it writes
_INTERVAL = 30.0  # seconds between two looks for new entries
_ABANDONED = 24 * 3600.0  # seconds without a look, after which a run counts as dead
_KEY = re.compile("[0-9a-f]{32}")
_ENTRY = re.compile(r"(.+\.pb)\.([0-9a-f]{64})")
# XLA's flags, and variables that change its results but are no part of a function.
_VARIABLES = ["XLA_FLAGS", _FLAGS, "TF_DETERMINISTIC_OPS", "NVIDIA_TF32_OVERRIDE"]

_offered = False  # in this process
_run: "Run | None" = None  # of this process


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> list[str]:
    """The properties that two machines must share to run each other's programs."""
    found = [platform.machine()]
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
        found += [line for line in first.splitlines() if line.startswith(names)]
    driver = Path("/proc/driver/nvidia")
    models = set()
    for path in driver.glob("gpus/*/information"):
        with contextlib.suppress(OSError):
            lines = path.read_text().splitlines()
            models |= {line for line in lines if line.startswith("Model:")}
    with contextlib.suppress(OSError):
        found.append((driver / "version").read_text())
    if len(models) > 1:  # which of them are used
        found.append(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return [*found, *sorted(models)]


def _libraries() -> list[str]:
    """Names TensorFlow and the libraries that it compiles with; imports nothing."""
    found = [sys.version]
    spec = importlib.util.find_spec("tensorflow")
    for place in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(place).glob("libtensorflow*")):
            found.append(f"{path.name} {files.stamp(path)}")
        beside = os.listdir(Path(place).parent)
        packages = ("tensorflow", "nvidia")
        found += sorted(name for name in beside if name.startswith(packages))
    return found


def key() -> str:
    """A hash of all that compiled functions depend on, besides the functions."""
    result = hashlib.sha256()
    variables = [f"{name}={os.environ.get(name)}" for name in _VARIABLES]
    for part in [*_libraries(), *_processor(), *variables]:
        result.update(part.encode(errors="replace") + b"\0")
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        result.update(f"{name} {_checksum(path)}\0".encode())
    return result.hexdigest()[:32]


def _place(source: Path, target: Path, scratch: Path) -> None:
    """Puts a file in a second place in one step; as a link, if that is possible.

    Raises:
      FileExistsError: if there is a file already.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        copy = scratch / f"{target.name}.copy"
        try:
            shutil.copyfile(source, copy)
            os.replace(copy, target)
        finally:
            copy.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _has_room(directory: Path) -> bool:
    """Whether there is enough room for a run's entries, also in the user's quota."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, _ROOM)
        return shutil.disk_usage(directory).free > _ROOM
    except OSError:
        return False


def shrink(store: Path, limit: int = LIMIT) -> None:
    """Deletes the entries that were used longest ago, until the others fit."""
    found = []
    for directory in store.iterdir():
        if not (_KEY.fullmatch(directory.name) and directory.is_dir()):
            continue  # it is none of ours
        for path in directory.iterdir():
            with contextlib.suppress(OSError):  # deleted by another process
                status = path.lstat()
                found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        _discard(path)
        with contextlib.suppress(OSError):  # it holds other entries
            path.parent.rmdir()
        total -= size


class Run:
    """One run's directory of entries.

    Args:
      store: the directory of all runs; it is made if it is missing.
      name: stands for all that compiled functions depend on, see `key`.

    Attributes:
      directory: the one that TensorFlow reads and writes.
      writable: whether there is room to write in it.
      suspect: set it to True to have all entries of the run deleted at its end.

    Raises:
      OSError: if a directory cannot be made.
    """

    def __init__(self, store: Path, name: str):
        self._store = store
        self._entries = store / name
        # Entries are executed, so nobody else may write them.
        for path in (store, self._entries, store / "in_use"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_abandoned()
        self.directory = Path(tempfile.mkdtemp(prefix="run-", dir=store / "in_use"))
        self.suspect = False
        self._process = os.getpid()
        self._kept: dict[str, Path] = {}  # by name in `directory`
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        self._take_entries()
        self.writable = _has_room(self.directory)

    def _remove_abandoned(self) -> None:
        # A run that only sleeps survives this: TensorFlow makes the directory again.
        for path in (self._store / "in_use").glob("run-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path)

    def _take_entries(self) -> None:
        with os.scandir(self._entries) as scan:
            found = [Path(item) for item in scan if not item.is_dir()]
        for path in sorted(found):
            match = _ENTRY.fullmatch(path.name)
            if not (match and self._take(path, *match.groups())):
                _discard(path)

    def _take(self, path: Path, name: str, checksum: str) -> bool:
        """Links an entry for TensorFlow; returns whether it may stay in the store."""
        own = self.directory / name
        # Two runs may have compiled the same function; the first entry is as good.
        if name in self._kept or path.is_symlink() or not path.is_file():
            return False
        try:
            _place(path, own, self.directory)
        except OSError:  # no room for the link, or another process has deleted it
            return True
        try:
            if _checksum(own) == checksum:
                # The time of the last access tells `close` whether it was used.
                os.utime(own, ns=(0, own.stat().st_mtime_ns))
                self._kept[name] = path
                return True
        except OSError:  # a damaged disk
            pass
        own.unlink()
        return False

    def _keep_new(self) -> None:
        """Puts the files that TensorFlow has added into the store.

        TensorFlow gives a file this suffix once it is complete. A file that cannot be
        kept now is tried again the next time.
        """
        with self._one_at_a_time, contextlib.suppress(OSError):
            os.utime(self.directory)  # for `_remove_abandoned` of other processes
            for own in sorted(self.directory.glob("*.pb")):
                if own.name in self._kept:
                    continue
                self._entries.mkdir(mode=0o700, exist_ok=True)
                target = self._entries / f"{own.name}.{_checksum(own)}"
                with contextlib.suppress(FileExistsError):
                    _place(own, target, self.directory)
                self._kept[own.name] = target

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._keep_new()

    def watch(self) -> None:
        """From now on, keeps new files at intervals, and once more at the end."""
        # If a run is killed after days, what it compiled at its start is kept.
        threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self.close)

    def close(self) -> None:
        """Keeps the new entries, and ends the run."""
        if os.getpid() != self._process:  # a fork
            return
        self._over.set()
        if self.suspect:
            for path in self._kept.values():
                _discard(path)
            self._kept.clear()
        else:
            self._keep_new()
        for name, path in self._kept.items():
            with contextlib.suppress(OSError):  # deleted by another run
                if (self.directory / name).stat().st_atime_ns > 0:
                    os.utime(path)
        with contextlib.suppress(OSError):
            shrink(self._store)
        shutil.rmtree(self.directory, ignore_errors=True)


def _default_store() -> str:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # as its specification says
        cache = files.expand("~/.cache")
    if not os.path.isabs(cache):
        raise OSError("there is no home directory")
    return os.path.join(cache, "tfp_vaeflow", "xla")


def _flags(run: Run) -> str:
    added = f'{_DIRECTORY}="{run.directory}"'
    return added if run.writable else f"{added} {_READ_ONLY}"


def _say(reason: str) -> None:
    print(
        f"functions that XLA compiles are not kept for later runs: {reason}; remove "
        f"the cause, or set {SWITCH} to another directory, or to 0",
        file=sys.stderr,
    )


def _start() -> Run | None:
    """Starts a run; None if the user has decided otherwise or it is not possible."""
    setting = os.environ.get(SWITCH, "")
    flags = os.environ.get(_FLAGS, "").strip()
    in_a_file = flags and not flags.startswith("--")
    if setting == "0" or _DIRECTORY in flags or in_a_file:
        return None
    try:
        if files.is_remote(setting):
            raise OSError(f"{SWITCH} is {setting}, which is not on this machine")
        store = files.absolute(files.expand(setting) if setting else _default_store())
        if '"' in store or "\n" in store:  # which no flag can hold
            raise OSError(f"{files.printable(store)} has a quotation mark in it")
        run = Run(Path(store), key())
    except OSError as error:
        _say(files.describe(error))
        return None
    if not run.writable:
        _say(f"less than {_ROOM >> 20} MB are free in {files.printable(store)}")
    run.watch()
    return run


@contextlib.contextmanager
def offered() -> Iterator[Run | None]:
    """Offers the cache to TensorFlow, which has to start in this block.

    TensorFlow reads its flags only once, when it finds its devices. The block restores
    them, because processes that are started later need a directory of their own.

    Yields:
      The run; None without a cache, or if it was offered before.
    """
    global _offered, _run
    before = os.environ.get(_FLAGS)
    run = None if _offered else _start()
    _offered, _run = True, run or _run
    if run:
        os.environ[_FLAGS] = " ".join(filter(None, [before, _flags(run)]))
    try:
        yield run
    finally:
        if run and before is None:
            del os.environ[_FLAGS]
        elif run:
            os.environ[_FLAGS] = before


def distrust() -> None:
    """Makes this process delete all its entries at its end.

    This is for errors without an explanation. If the cause were an entry that
    TensorFlow wrote and cannot read, every later run would fail at it too.
    """
    if _run:
        _run.suspect = True
