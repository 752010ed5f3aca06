"""Runs the project's commands in forked processes: TensorFlow is imported once.

Reads one JSON object a line from stdin: `commands`, each a list of the command (such as
`train`) and its arguments, `cwd`, the files `stdout` and `stderr`, and whether graphs
are `optimized`; answers with the exit code. Several commands run one after another in
one process, up to one that fails.

What else an order may hold changes the surroundings: see `surroundings.apply`.
"""

import json
import os
import runpy
import sys
import traceback

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
from absl.flags import FLAGS

import surroundings

# What the commands import, but for the commands themselves, which define flags.
from tfp_vaeflow.config import experiment  # noqa: F401


def run(order: dict) -> int:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.chdir(order["cwd"])
    surroundings.apply(order)
    # Graphs run a few times here: optimising them is seldom worth it.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": not order["optimized"]}
    )
    codes = (run_command(*words) for words in order["commands"])
    return next((code for code in codes if code), 0)


def run_command(command: str, *arguments: str) -> int:
    module = f"tfp_vaeflow.{command}"
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for source, defined in FLAGS.flags_by_module_dict().items():
            if "tfp_vaeflow" in source:  # the next command defines its own
                for flag in list(defined):
                    delattr(FLAGS, flag.name)
    return 0


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            code = run(order)
            surroundings.leave(order)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
