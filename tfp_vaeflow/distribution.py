"""The devices that a run is spread over, its lock, and requests to stop it."""

import ctypes
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import tensorflow as tf

from tfp_vaeflow import files
from tfp_vaeflow.errors import UserError

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def make_strategy() -> tf.distribute.MirroredStrategy:
    """Mirrors the model over all GPUs, or over all (logical) CPU devices if none."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices)


def tune_process() -> None:
    """Settings of a process that trains, for its speed; once, before the first step.

    The graph optimizer takes longer over a first step than it saves in thousands. And
    memory that a step frees is kept for the next one: where the C library gives it
    back, the system has to clear it again, for a tenth of the time of a step.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_mib() -> float:
    """The most memory used so far: of the fullest GPU, without one of the process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        names = [gpu.name.removeprefix("/device:") for gpu in gpus]
        used = [tf.config.experimental.get_memory_info(name)["peak"] for name in names]
        return max(used) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def check_even_share(
    strategy: tf.distribute.Strategy, batch_size: int, field: str, micro_batches: int
) -> None:
    """Checks that the replicas can share a global batch evenly, in whole micro-batches.

    Raises:
      UserError: if they cannot, naming the field that holds the batch size.
    """
    replicas = strategy.num_replicas_in_sync
    parts = replicas * micro_batches
    if batch_size % parts:
        pieces = f", in {micro_batches} micro-batches each" if micro_batches > 1 else ""
        raise UserError(
            f"{field} is {batch_size}, which {replicas} device(s) cannot share "
            f"evenly{pieces}; expected a multiple of {parts}"
        )


def split_over_replicas(strategy: tf.distribute.Strategy, batch):
    """Gives each replica its consecutive part of a global batch.

    Args:
      strategy: its replicas share the batch evenly.
      batch: a structure of tensors with a leading batch dimension.

    Returns:
      The same structure of per-replica values, for `strategy.run`.
    """

    def share(value: tf.Tensor):
        size = value.shape[0] // strategy.num_replicas_in_sync

        def part(context):
            first = context.replica_id_in_sync_group * size
            return value[first : first + size]

        return strategy.experimental_distribute_values_from_function(part)

    return tf.nest.map_structure(share, batch)


class StopRequest:
    """Notes Ctrl-C or SIGTERM, so that a run can end between two steps.

    A context manager; `requested` says whether a signal came. A second Ctrl-C
    interrupts at once.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._former = {number: signal.getsignal(number) for number in self._SIGNALS}
        for number in self._SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def locked(directory: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in a directory; made if it is not there.

    The operating system drops the lock when the process ends, in whatever way. There is
    none on other file systems, where the process that began last may go on alone: see
    `checkpoints.CheckpointKeeper.take_over`.

    Raises:
      UserError: if another process holds the lock.
    """
    files.make_dirs(directory)
    if files.is_remote(directory):
        yield
        return
    # "a+": the holder's name must outlive the attempts of others.
    with open(os.path.join(directory, ".lock"), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"another process ({file.read().strip()}) is training in {directory}; "
                "wait for it, stop it, or name another --model_dir"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
