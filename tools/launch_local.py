"""Trains with several processes on this machine, as a cluster does with machines.

    python tools/launch_local.py --workers=2 -- --gin_file=FILE --model_dir=DIR

All arguments after -- go to `tfp_vaeflow.train`. Each printed line begins with the
number of its worker; worker 0 is the chief. If a worker was lost, or all were stopped
and saved, all start again. Ctrl-C or SIGTERM is passed on to the workers: they save,
and the exit code is 42.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

STOPPED = 42  # exit code of `tfp_vaeflow.train`: saved, to be started again
_PATIENCE = 60  # seconds; workers that lose another one end long before
_ROOT = str(Path(__file__).resolve().parents[1])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(arguments: list[str], addresses: list[str], index: int) -> subprocess.Popen:
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    path = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfp_vaeflow.train", *arguments],
        env={
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "PYTHONPATH": os.pathsep.join(path),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,  # so Ctrl-C reaches it only once, from here
    )
    print(f"[{index}] process {process.pid}", flush=True)
    return process


def _show(index: int, process: subprocess.Popen) -> None:
    for line in process.stdout:
        print(f"[{index}] {line}", end="", flush=True)


class Launcher:
    """Starts workers, and passes signals on to them.

    Attributes:
      asked_to_stop: whether a signal came.

    Args:
      workers: their number.
      arguments: of `tfp_vaeflow.train`.
    """

    def __init__(self, workers: int, arguments: list[str]):
        self.asked_to_stop = False
        self._workers, self._arguments = workers, arguments
        self._processes: list[subprocess.Popen] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _) -> None:
        self.asked_to_stop = True
        for process in self._processes:
            process.send_signal(number)

    def run(self) -> list[int]:
        """Starts all workers and waits; returns their exit codes, -9 for SIGKILL."""
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(self._workers)]
        del self._processes[:]
        for index in range(self._workers):
            self._processes.append(_start(self._arguments, addresses, index))
        if self.asked_to_stop:  # the signal came while they were started
            self._pass_on(signal.SIGTERM, None)
        threads = [
            threading.Thread(target=_show, args=numbered)
            for numbered in enumerate(self._processes)
        ]
        for thread in threads:
            thread.start()
        try:
            return self._wait()
        finally:
            for process in self._processes:
                process.kill()
            for thread in threads:
                thread.join()

    def _wait(self) -> list[int]:
        deadline = None
        while True:
            codes = [process.poll() for process in self._processes]
            if None not in codes:
                return codes
            if any(codes) and deadline is None:
                deadline = time.monotonic() + _PATIENCE
            if deadline is not None and time.monotonic() > deadline:
                # They wait for a worker that will not come, as after a failed start.
                for process in self._processes:
                    process.kill()
            time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=10, help="at most (default 10)")
    parser.add_argument("arguments", nargs="+", help="of tfp_vaeflow.train, after --")
    flag = parser.parse_args()
    if flag.workers < 1 or flag.restarts < 0:
        parser.error("expected --workers of at least 1 and --restarts of at least 0")
    launcher = Launcher(flag.workers, flag.arguments)
    for left in range(flag.restarts, -1, -1):
        codes = launcher.run()
        if not any(codes):
            return 0
        if launcher.asked_to_stop:
            break
        failures = [code for code in codes if code not in (0, STOPPED) and code > 0]
        if failures:
            return failures[0]
        ends = ", ".join(f"{index}: {code}" for index, code in enumerate(codes))
        print(f"workers ended with {ends}; {left} restart(s) left", flush=True)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
