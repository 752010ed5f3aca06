"""Runs the project's commands in forked processes: TensorFlow is imported once.

Reads one JSON object a line from stdin: `module` (such as `tfp_vaeflow.train`),
`arguments`, `cwd`, and the files `stdout` and `stderr`; answers with the exit code.
"""

import json
import os
import runpy
import sys
import traceback

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

# What the commands import, but for the commands themselves, which define flags.
from tfp_vaeflow import evaluation, experiment, trainer  # noqa: F401


def run(order: dict) -> int:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.chdir(order["cwd"])
    sys.argv = [order["module"], *order["arguments"]]
    # Graphs run a few times here: optimising them is not worth it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
