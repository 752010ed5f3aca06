"""What the commands share: flags, help, errors.

TensorFlow takes seconds to import, so a command imports the rest of the package in its
`main`, after its flags parse.
"""

import os
import sys
from collections.abc import Callable

from absl import flags

from tfp_vaeflow.errors import UserError

FLAGS = flags.FLAGS


def define_model_dir(help_text: str) -> None:
    flags.DEFINE_string("model_dir", None, help_text, required=True)


def define_bindings() -> None:
    flags.DEFINE_multi_string(
        "gin_bindings",
        [],
        "A setting that overrides the experiment's, such as "
        "TrainingConfig.batch_size=32; may be given several times.",
    )


def _fail(message: object) -> None:
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def run_main(main: Callable[[], None], description: str) -> None:
    """Parses the flags and runs a command.

    A wrong flag or a `UserError` ends with one line on stderr and exit code 2; `--help`
    prints the description and the command's flags and exits with 0.

    Args:
      main: the command; reads its flags from `FLAGS`.
      description: what `--help` begins with.
    """
    arguments = sys.argv[1:]
    if {"--help", "-help", "-h"} & set(arguments):
        print(description.strip(), end="\n\n")
        print(FLAGS.get_help_for_modules("", [sys.argv[0]]).strip())
        sys.exit(0)
    try:
        rest = FLAGS(sys.argv)
    except flags.Error as error:
        _fail(error)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main()
    except UserError as error:
        _fail(error)
