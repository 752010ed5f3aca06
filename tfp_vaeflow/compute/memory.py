"""The memory of the process, and what TensorFlow does with it."""

import ctypes
import os
import resource

import tensorflow as tf

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def tune_process(save_memory: bool = False) -> None:
    """Sets up a process that trains, before TensorFlow looks at its devices.

    The graph optimizer is off: it takes longer over a first step than it saves in
    thousands. Memory that a step frees is kept for the next one. If the C library gave
    it back, the system would have to clear it again: in a tenth of the time of a step,
    and in half of it with recomputation. The memory that the C library keeps is in
    pieces, though: a fifth of all memory.

    Args:
      save_memory: whether TensorFlow keeps that memory instead, as on a GPU: it keeps
        memory by sizes, and so in fewer pieces. The C library keeps the rest (half a
        gigabyte of graph). It then has one arena and gives large blocks back.
    """
    if save_memory:
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # not glibc
        return
    if save_memory:
        settings = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 2**17}
    else:
        settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}
    for parameter, value in settings.items():
        library.mallopt(parameter, value)


def give_memory_back() -> None:
    """Returns free memory to the system, before and after work that is not a step.

    Otherwise the remains of such work lie in the memory that the last step freed, and
    split it into pieces that are too small for the next step.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)


def peak_memory_mib() -> float:
    """The most memory used so far: by the fullest GPU; without GPUs, by the process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        names = [gpu.name.removeprefix("/device:") for gpu in gpus]
        used = [tf.config.experimental.get_memory_info(name)["peak"] for name in names]
        return max(used) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
