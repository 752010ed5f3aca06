"""How a command starts TensorFlow: its environment, its devices, its messages."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from tfp_vaeflow.command import compilation_cache
from tfp_vaeflow.common.keras_settings import check_keras

_NVIDIA = "/dev/nvidiactl"  # exists if there is a driver
# Keras imports these, if they are installed, for interfaces that are not used here.
_BESIDE = ["PIL", "h5py", "matplotlib", "pandas", "scipy", "sklearn"]


def _is_noise(line: str) -> bool:
    """Whether a line of TensorFlow's start says nothing that a user can act on."""
    return line.startswith(("I0000", "WARNING: All log messages")) or (
        not os.path.exists(_NVIDIA) and "failed call to cuInit" in line
    )


def _without_its_gpu(found: list) -> bool:
    """Whether there is a GPU that TensorFlow does not find, though nobody hid it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return not found and not hidden and os.path.exists(_NVIDIA)


@contextlib.contextmanager
def _seeming_absent(*packages: str) -> Iterator[None]:
    """Makes imports of these packages fail in this block, unless already imported."""
    absent = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


def _set_flag(variable: str, name: str, value: str, wins: bool = False) -> None:
    """Sets a flag in a variable; the user's value is kept unless this one `wins`.

    The variable may name a file with flags. Then it takes the file's content, because a
    file and more flags cannot both be given.

    Args:
      variable: `XLA_FLAGS`, or `TF_XLA_FLAGS` for XLA's side of TensorFlow.
      name, value: of the flag.
      wins: see above.
    """
    flags = os.environ.get(variable, "").strip()
    if flags and not flags.startswith("-"):
        try:
            with open(flags, encoding="utf-8") as file:
                flags = " ".join(file.read().split())
        except OSError:
            return  # XLA says that it cannot read the file
    if wins or not re.search(rf"--{name}\b", flags):
        # Of several values of a flag, XLA takes the last one.
        flags = f"{flags} --{name}={value}".strip()
    os.environ[variable] = flags


def start_tensorflow(cached: bool = True, deterministic: bool = False) -> None:
    """Imports TensorFlow and finds its devices, without the notes that it prints.

    Its C++ code prints them before it reads any log level. Other lines are printed.
    Without Keras' optional imports, this takes a second and 170 MB less.

    Args:
      cached: whether to reuse what XLA compiled in earlier runs, and keep it for later.
      deterministic: whether a GPU gives the same bits every time.

    Raises:
      UserError: if Keras is not set up to work with it.
    """
    # Level 2 would show messages that are no errors to a user: a cache entry that is no
    # text, a kernel that was timed badly. Real errors are raised, too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if deterministic:
        # Before the cache reads these variables, which are part of its key.
        os.environ["TF_DETERMINISTIC_OPS"] = "1"
        _set_flag("XLA_FLAGS", "xla_gpu_deterministic_ops", "true", wins=True)
    # XLA would spend more than half of a step's compilation on writing and trying its
    # own kernels for matrix products, which make the step no faster.
    _set_flag("XLA_FLAGS", "xla_gpu_enable_triton_gemm", "false")
    # TensorFlow would write out zeros as large as activations before XLA sees them.
    _set_flag("TF_XLA_FLAGS", "tf_xla_disable_constant_folding", "true")
    cache = compilation_cache.offered() if cached else contextlib.nullcontext()
    with cache, tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            with _seeming_absent(*_BESIDE):
                check_keras()

                import tensorflow as tf
                import tensorflow_probability as tfp

                tfp.bijectors  # noqa: B018 - imports the rest of it, and tf_keras
            gpus = tf.config.list_physical_devices("GPU")
            for gpu in gpus:
                # So that processes can share the GPU: TensorFlow would otherwise take
                # all of its memory.
                tf.config.experimental.set_memory_growth(gpu, True)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not _is_noise(line):
                    print(line, file=sys.stderr)
    if _without_its_gpu(gpus):
        print(
            "TensorFlow does not find the GPU of this machine; with "
            "TF_CPP_MIN_LOG_LEVEL=0 it says why",
            file=sys.stderr,
        )
