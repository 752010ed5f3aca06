"""Shows how far a long command is: a bar on a terminal, plain lines elsewhere."""

import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_PAUSE = 30  # seconds between lines


def bar(total: int, unit: str, initial: int = 0) -> tqdm:
    """A bar on a terminal; disabled elsewhere."""
    on_terminal = sys.stderr.isatty() and sys.stdout.isatty()
    return tqdm(
        initial=initial,
        total=total,
        unit=unit,
        disable=not on_terminal,
        dynamic_ncols=True,
    )


class ItemProgress:
    """Counts items, and shows the rate and the time left.

    Args:
      total: number of items.
      unit: what an item is.
    """

    def __init__(self, total: int, unit: str):
        self._bar = bar(total, unit)
        self._total, self._unit, self._done = total, unit, 0
        self._start = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        """Counts further items, and says so now and then."""
        count = min(count, self._total - self._done)
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
        """Ends the bar."""
        self._bar.close()


def watched(batches: Iterable[T], size: int, num_images: int) -> Iterator[T]:
    """Passes batches on, and shows how many of all images were in them.

    Args:
      batches: of images.
      size: images per batch; the last one may have fewer.
      num_images: in all.
    """
    progress = ItemProgress(num_images, "image")
    try:
        for batch in batches:
            yield batch
            progress.advance(size)
    finally:
        progress.close()
