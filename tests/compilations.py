"""Compiles a tiny function in forked processes: TensorFlow is imported once.

Reads JSON objects from stdin, one a line, and starts a process for each, which it
prints the number of. `report` is where that process tells how far it is: it makes the
files REPORT.started (the cache is there), REPORT.compiled (what came out) and
REPORT.ended; its stderr is REPORT.log. After the stages in `stops` it waits until there
is REPORT.go-STAGE. `environment` is set before; what else an order may hold changes the
surroundings: see `surroundings.apply`.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

# TensorFlow says what it loads and saves.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
os.environ["TF_CPP_VMODULE"] = "device_executable_persistor=2"

import tensorflow as tf

import surroundings
from tfp_vaeflow.command import compilation_cache


def reach(order: dict, stage: str, **told) -> None:
    report = order["report"]
    Path(f"{report}.part").write_text(json.dumps(told))
    os.rename(f"{report}.part", f"{report}.{stage}")
    while stage in order["stops"] and not os.path.exists(f"{report}.go-{stage}"):
        time.sleep(0.02)


def work(order: dict) -> None:
    os.environ.update(order["environment"])
    surroundings.apply(order)
    flags = os.environ.get("TF_XLA_FLAGS")
    with compilation_cache.offered() as run:
        # As `command` does; TensorFlow reads its flags then.
        tf.config.list_physical_devices()
    directory = run and str(run.directory)
    assert os.environ.get("TF_XLA_FLAGS") == flags
    reach(order, "started", directory=directory, writable=run and run.writable)

    @tf.function(jit_compile=True)
    def function(x):
        return tf.reduce_sum(tf.matmul(x, x) + order.get("summand", 1.0))

    result = float(function(tf.reshape(tf.range(16.0), (4, 4))))
    reach(order, "compiled", result=result)
    if run:
        run.close()
    reach(order, "ended")


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            log = os.open(order["report"] + ".log", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(log, 2)
            try:
                work(order)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
