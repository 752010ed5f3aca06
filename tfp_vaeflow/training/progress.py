"""Shows the progress of a long run: a bar on a terminal, plain lines elsewhere."""

import datetime
import sys
import time

from tqdm import tqdm

from tfp_vaeflow.common import progress

_UNTIMED, _TIMED = 2, 8  # the first steps are traced; the next ones are timed
_DAY = datetime.timedelta(days=1)


class Progress:
    """Counts steps and shows bits/dim, images/s and the time left.

    Args:
      first, last: the steps between which the run goes.
    """

    def __init__(self, first: int, last: int):
        self._bar = progress.bar(last, "step", first)
        self._first, self._last = first, last
        self._start = time.monotonic()
        self._count = 0

    def advance(self) -> None:
        """Counts a step; says after a few of them when all will be done."""
        self._bar.update()
        self._count += 1
        if self._count == _UNTIMED:
            self._timed_from = time.monotonic()
        elif self._count == _UNTIMED + _TIMED:
            self._say_end((time.monotonic() - self._timed_from) / _TIMED)

    def _say_end(self, seconds: float) -> None:
        steps = self._last - self._first - self._count
        if steps <= 0:
            return
        left = datetime.timedelta(seconds=round(steps * seconds))
        end = datetime.datetime.now() + left
        text = (
            f"{seconds:.3g} s per step: the other {steps:,} steps take {left} without "
            f"validation, until {end:%Y-%m-%d %H:%M}"
        )
        if left > _DAY:
            text += (
                "; to end sooner, begin in another directory with --minutes, a smaller "
                "model (gin/folder_small.gin), or a GPU"
            )
        self.note(text)

    def show(self, step: int, scalars: dict[str, float]) -> None:
        """Shows the metrics of the last steps; `bits_per_dim/total` may be missing."""
        text = f"{scalars['images_per_second']:.0f} images/s"
        if "bits_per_dim/total" in scalars:
            text = f"{scalars['bits_per_dim/total']:.4f} bits/dim, {text}"
        if not self._bar.disable:
            self._bar.set_postfix_str(text)
            return
        elapsed = time.monotonic() - self._start
        left = elapsed / (step - self._first) * (self._last - step)
        print(
            f"step {step}/{self._last}: {text}, "
            f"{datetime.timedelta(seconds=round(left))} left",
            flush=True,
        )

    def note(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()
