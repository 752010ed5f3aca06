"""How a long run shows itself: a bar on a terminal, plain lines elsewhere."""

import datetime
import sys
import time

from tqdm import tqdm


class Progress:
    """Counts steps and shows bits/dim, images/s and the time left.

    Args:
      first, last: the steps between which the run goes.
    """

    def __init__(self, first: int, last: int):
        self._bar = tqdm(
            initial=first,
            total=last,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._first, self._last = first, last
        self._start = time.monotonic()

    def advance(self) -> None:
        self._bar.update()

    def show(self, step: int, bits_per_dim: float, images_per_second: float) -> None:
        """Shows the metrics of the last steps."""
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"{bits_per_dim:.4f} bits/dim, {images_per_second:.0f} images/s"
            )
            return
        elapsed = time.monotonic() - self._start
        left = elapsed / (step - self._first) * (self._last - step)
        print(
            f"step {step}/{self._last}: {bits_per_dim:.4f} bits/dim, "
            f"{images_per_second:.0f} images/s, "
            f"{datetime.timedelta(seconds=round(left))} left",
            flush=True,
        )

    def note(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()
