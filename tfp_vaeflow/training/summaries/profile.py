"""A profile of chosen training steps."""

import os
from contextlib import AbstractContextManager, nullcontext

import tensorflow as tf

from tfp_vaeflow.common import files


class StepProfile:
    """Profiles the steps from `first` to `last`, for TensorBoard's profile plugin.

    Attributes:
      folder: where the profile is written.

    Args:
      model_dir: takes `plugins/profile/`.
      first, last: the first and the last step to profile; None for no profile.
    """

    def __init__(
        self, model_dir: str | os.PathLike, first: int | None, last: int | None
    ):
        self._dir = os.fspath(model_dir)
        self.folder = os.path.join(model_dir, "plugins", "profile")
        self._first, self._last = first, last
        self._running = False

    def step(self, number: int) -> AbstractContextManager:
        """The context to run a training step in."""
        if self._first is None:
            return nullcontext()
        if number == self._first:
            tf.profiler.experimental.start(self._dir)
            self._running = True
        if self._running:
            return tf.profiler.experimental.Trace("train", step_num=number, _r=1)
        return nullcontext()

    def ends_with(self, number: int) -> bool:
        """Whether the profile ends after this step."""
        return self._running and number >= self._last

    def after(self, number: int) -> bool:
        """Ends the profile after its last step; returns whether it did."""
        ended = self.ends_with(number)
        if ended:
            self.stop()
        return ended

    def stop(self) -> None:
        """Ends the profile if it is running, and writes it."""
        if self._running:
            self._running = False
            with files.tensorflow_errors(self.folder):
                tf.profiler.experimental.stop()
