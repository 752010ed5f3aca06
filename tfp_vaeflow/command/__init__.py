"""The common parts of the commands: flags, help, errors, the start of TensorFlow.

TensorFlow takes seconds to import, so a command imports the rest of the package in its
`main`, after its flags are parsed.
"""

from tfp_vaeflow.command.flags import (
    FLAGS,
    bindings_with,
    define_bindings,
    define_checkpoint,
    define_model_dir,
    define_path,
    define_path_list,
    define_paths,
    define_served_model,
)
from tfp_vaeflow.command.run import run_main
from tfp_vaeflow.command.tensorflow_start import start_tensorflow

__all__ = [
    "FLAGS",
    "bindings_with",
    "define_bindings",
    "define_checkpoint",
    "define_model_dir",
    "define_path",
    "define_path_list",
    "define_paths",
    "define_served_model",
    "run_main",
    "start_tensorflow",
]
