"""Shows how far a long command is: a bar on a terminal, plain lines elsewhere."""

import datetime
import sys
import time

from tqdm import tqdm

_PAUSE = 30  # seconds between lines


class ItemProgress:
    """Counts items, and shows the rate and the time left.

    Args:
      total: number of items.
      unit: what an item is.
    """

    def __init__(self, total: int, unit: str):
        on_terminal = sys.stderr.isatty() and sys.stdout.isatty()
        self._bar = tqdm(
            total=total, unit=unit, disable=not on_terminal, dynamic_ncols=True
        )
        self._total, self._unit, self._done = total, unit, 0
        self._start = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= _PAUSE:
            self._said = now
            rate = self._done / (now - self._start)
            left = datetime.timedelta(seconds=round((self._total - self._done) / rate))
            print(
                f"{self._done} of {self._total} {self._unit}s, {rate:.1f} per second, "
                f"{left} left",
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()
