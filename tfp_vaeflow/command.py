"""The common parts of the commands: flags, help, errors.

TensorFlow takes seconds to import, so a command imports the rest of the package in its
`main`, after its flags are parsed.
"""

import contextlib
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator

from absl import flags

from tfp_vaeflow import compilation_cache, files
from tfp_vaeflow.errors import UserError, missing_extra
from tfp_vaeflow.keras_settings import check_keras

FLAGS = flags.FLAGS
_NVIDIA = "/dev/nvidiactl"  # exists if there is a driver
# Keras imports these, if they are installed, for interfaces that are not used here.
_BESIDE = ["PIL", "h5py", "matplotlib", "pandas", "scipy", "sklearn"]

_SMALLER = (
    "take fewer images at a time (TrainingConfig.batch_size, or parts of a batch with "
    "TrainingConfig.micro_batches; EvaluationConfig.batch_size), or "
    "TrainingConfig.recompute"
)


class _PathParser(flags.ArgumentParser):
    """A path, local or not; `~` at its start is the home directory."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError("expected a path")
        return files.expand(argument)


def define_path(
    name: str, help_text: str, required: bool = False, default: str | None = None
) -> None:
    """Defines a flag that holds a path; all such flags are defined here."""
    flags.DEFINE(_PathParser(), name, default, help_text, required=required)


def define_paths(name: str, help_text: str) -> None:
    """Defines a flag that holds a path and has to be given, once or several times."""
    serializer = flags.ArgumentSerializer()
    flags.DEFINE_multi(_PathParser(), serializer, name, None, help_text, required=True)


def define_model_dir(help_text: str) -> None:
    define_path("model_dir", help_text, required=True)


def define_bindings() -> None:
    flags.DEFINE_multi_string(
        "gin_bindings",
        [],
        "A setting that overrides the experiment's, such as "
        "TrainingConfig.batch_size=32; may be given several times.",
    )


def bindings_with(short_cuts: dict[str, str]) -> list[str]:
    """`--gin_bindings`, followed by the bindings that other flags are short for.

    Args:
      short_cuts: flag -> the parameter that it binds.
    """
    values = FLAGS.flag_values_dict()
    extra = [
        f"{binding} = {values[flag]!r}"
        for flag, binding in short_cuts.items()
        if values[flag] is not None
    ]
    return [*values["gin_bindings"], *extra]


def _fail(message: object) -> None:
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def _own_flags() -> list[flags.Flag]:
    """The flags of the command, without those that absl itself defines."""
    return [
        flag
        for module, members in FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl.")
        for flag in members
    ]


def _is_missing(flag: flags.Flag) -> bool:
    return flag.value is None and flag.validators


def _flag_help() -> str:
    """The command's flags, each with its meaning and default."""
    lines = ["Flags:"]
    for flag in sorted(_own_flags(), key=lambda flag: flag.name):
        default = "" if flag.default in (None, []) else f" (default: {flag.default})"
        text = flag.help.split(";\n")[0]  # absl adds that it may be repeated
        text = f"--{flag.name}: {text}{default}"
        lines.append(
            textwrap.fill(text, 88, initial_indent="  ", subsequent_indent="      ")
        )
    return "\n".join(lines)


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


def _set_xla_flag(name: str, value: str, wins: bool = False) -> None:
    """Sets a flag of XLA; the user's value is kept unless this one `wins`.

    `XLA_FLAGS` may name a file with flags. Then the variable takes the file's content,
    because a file and more flags cannot both be given.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        try:
            with open(flags, encoding="utf-8") as file:
                flags = " ".join(file.read().split())
        except OSError:
            return  # XLA says that it cannot read the file
    if wins or not re.search(rf"--{name}\b", flags):
        # Of several values of a flag, XLA takes the last one.
        flags = f"{flags} --{name}={value}".strip()
    os.environ["XLA_FLAGS"] = flags


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
        _set_xla_flag("xla_gpu_deterministic_ops", "true", wins=True)
    # XLA would spend more than half of a step's compilation on writing and trying its
    # own kernels for matrix products, which make the step no faster.
    _set_xla_flag("xla_gpu_enable_triton_gemm", "false")
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


def run_main(
    main: Callable[[], None], description: str, with_tensorflow: bool = True
) -> None:
    """Parses the flags and runs a command.

    These end it with one line on stderr and exit code 2: a wrong flag, a `UserError`, a
    file that cannot be read or written, a missing package of an extra, and too little
    memory. `--help` prints the description and the command's flags and exits with 0.

    Args:
      main: the command; reads its flags from `FLAGS`.
      description: the text that `--help` prints first.
      with_tensorflow: whether to start TensorFlow first.
    """
    arguments = sys.argv[1:]
    if {"--help", "-help", "-h"} & set(arguments):
        print(description.strip(), end="\n\n")
        print(_flag_help())
        sys.exit(0)
    try:
        rest = FLAGS(sys.argv)
    except flags.IllegalFlagValueError as error:
        if "must have a value other than None" in str(error):
            missing = next(flag.name for flag in _own_flags() if _is_missing(flag))
            _fail(f"--{missing} is missing; see --help")
        _fail(error)
    except flags.Error as error:
        _fail(error)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    try:
        if with_tensorflow:
            start_tensorflow()
        main()
    except UserError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        _fail(missing)
    except OSError as error:  # a disk or a path, not a bug
        _fail(files.describe(error))
    except Exception as error:
        # By its name, because TensorFlow may not be imported.
        if type(error).__name__ not in ("MemoryError", "ResourceExhaustedError"):
            compilation_cache.distrust()
            raise
        first = (str(error).splitlines() or [""])[0]
        _fail(f"out of memory: {first}; {_SMALLER}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
