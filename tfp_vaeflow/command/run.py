"""Runs a command: parses its flags, and says errors in one line."""

import sys
from collections.abc import Callable

from absl import flags

from tfp_vaeflow.command import compilation_cache
from tfp_vaeflow.command.flags import FLAGS, flag_help, is_missing, own_flags
from tfp_vaeflow.command.tensorflow_start import start_tensorflow
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError, missing_extra

_SMALLER = (
    "take fewer images at a time (TrainingConfig.batch_size, "
    "EvaluationConfig.batch_size), divide a batch (TrainingConfig.micro_batches), or "
    "set TrainingConfig.recompute = True"
)


def _fail(message: object) -> None:
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


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
        print(flag_help())
        sys.exit(0)
    try:
        rest = FLAGS(sys.argv)
    except flags.IllegalFlagValueError as error:
        if "must have a value other than None" in str(error):
            missing = next(flag.name for flag in own_flags() if is_missing(flag))
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
