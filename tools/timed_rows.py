"""Commands that warm up side by side and are timed one after another.

`benchmark_gpu.py` measures with them.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfp_vaeflow.command import compilation_cache
from tfp_vaeflow.common import metrics_file

_WINDOWS = 2  # windows of --log_every steps that a rate is taken over
_WARMING = 0.7  # the share of a group's time for warming up
_CACHE = compilation_cache.SWITCH


class Row:
    """A command that is measured.

    Attributes:
      name: of the row in the table.
      found: the figures that are known so far, by name.
      error: why the row has failed, or None.

    Args:
      name: see above.
      command: arguments of the Python interpreter.
      folder: the directory for its files.
      environment: variables that are added to those of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: dict[str, str] | None = None,
    ):
        self.name = name
        self.found = {}
        self.error = None
        folder.mkdir(parents=True, exist_ok=True)
        self._log = open(folder / "log", "w+", encoding="utf-8")  # noqa: SIM115
        self._since = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        with open(self._log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def stands_warm(self) -> bool:
        """Whether it is warm, and so waits for its turn; polled."""
        return False

    def begin(self) -> None:
        """Begins its turn."""

    def finish(self) -> bool:
        """Whether it is done, with all its figures; polled."""
        if not self.ended:
            return False
        if self._process.returncode:
            last = [line for line in self.said.splitlines() if line.strip()]
            self.error = last[-1][:200] if last else "it ended without a word"
        return True

    def kill(self) -> None:
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._log.close()


class Training(Row):
    """`train`, timed by the metrics that it writes."""

    def __init__(self, name, command, folder, log_every, environment):
        self._run = folder / "run"
        self._every = log_every
        self._first = None  # last step of the window that its turn began in
        super().__init__(
            name,
            [*command, f"--model_dir={self._run}"],
            folder,
            {**environment, _CACHE: "0"},
        )

    def _rates(self) -> dict[int, float]:
        """The images/s of each window, by its last step."""
        return {
            record["step"]: record["images_per_second"]
            for record in metrics_file.read(self._run)
            if "images_per_second" in record
        }

    def stands_warm(self):
        if not self._rates():  # the first window includes the first step
            return False
        os.killpg(self._process.pid, signal.SIGSTOP)
        return True

    def begin(self):
        self._first = max(self._rates()) + self._every  # this window has the pause
        os.killpg(self._process.pid, signal.SIGCONT)

    def finish(self):
        if super().finish():
            return True
        if self._first is None:
            return False
        rates = [rate for step, rate in self._rates().items() if step > self._first]
        if len(rates) < _WINDOWS:
            return False
        self.found["train_images_per_s"] = statistics.harmonic_mean(rates)
        return True


class Memory(Row):
    """tools/benchmark.py, which waits for its turn by itself."""

    def __init__(self, name, command, folder):
        self._output = folder / "figures.json"
        super().__init__(name, [*command, f"--output={self._output}"], folder)

    def stands_warm(self):
        return "ready\n" in self.said

    def begin(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def finish(self):
        over = super().finish()
        if over and self._output.exists():
            self.found = json.loads(self._output.read_text(encoding="utf-8"))
        return over


class Start(Row):
    """`train`, up to the end of its first step."""

    def __init__(self, name, command, folder, store):
        command = [*command, f"--model_dir={folder / 'run'}"]
        super().__init__(name, command, folder, {_CACHE: str(store)})

    def finish(self):
        if "step 1/1:" in self.said and "seconds" not in self.found:
            self.found["seconds"] = self.seconds
        return super().finish()


class Count(Row):
    """tools/operations.py."""

    def finish(self):
        over = super().finish()
        pattern = r"(graph|compiled) *(?:by XLA)?: (\d+) operations"
        for what, number in re.findall(pattern, self.said):
            self.found[what] = int(number)
        return over


def take_turns(rows: Sequence[Row], end: float) -> None:
    """Runs rows until all have ended; waiting rows get their turns one by one.

    Args:
      rows: already started.
      end: the `time.monotonic()` at which unfinished rows are killed.
    """
    now = time.monotonic()
    latest = now + _WARMING * (end - now)  # turns begin then at the latest
    open_rows, waiting, current = list(rows), [], None
    while open_rows and time.monotonic() < end:
        for row in list(open_rows):
            if row is current or row in waiting:
                continue
            if row.finish():
                open_rows.remove(row)
                row.kill()
            elif row.stands_warm():
                waiting.append(row)
                print(f"warm after {row.seconds:.0f} s: {row.name}", flush=True)
        if current is not None and current.finish():
            open_rows.remove(current)
            current.kill()
            current = None
        begins = len(waiting) == len(open_rows) or time.monotonic() > latest
        if current is None and waiting and begins:
            current = waiting.pop(0)
            current.begin()
        time.sleep(0.1)
    for row in open_rows:
        row.error = f"not done after {row.seconds:.0f} s"
        row.kill()
