"""Writes a run's events, images and metrics."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import files, metrics_file
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.training.summaries import dashboard, pictures, projector, statistics

_IMAGES_IN_STATISTICS = 8


def _verbatim(text: str) -> str:
    """Indents a text, so that TensorBoard's Markdown shows it unchanged."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def write_text(model_dir: str | os.PathLike, name: str, text: str, step: int) -> None:
    """Adds a text to the `eval` events of a run that is not being trained."""
    logdir = os.path.join(model_dir, "eval")
    with files.tensorflow_errors(logdir):
        writer = tf.summary.create_file_writer(logdir)
        with writer.as_default(step):
            tf.summary.text(name, _verbatim(text))
        writer.close()


class RunWriter:
    """Writes scalars of training and validation, image grids and histograms.

    Scalars go to TensorBoard under the same names in `train/` and `eval/`, and to
    `metrics.jsonl`, one JSON object per line. Images go to TensorBoard and `images/`.
    The settings and the layout of the charts go to `model_dir` itself.

    Args:
      model_dir: where the run lives.
      step: the step that the run starts at; lines of later steps, left by a run that
        was stopped after its last checkpoint, are dropped.
    """

    def __init__(self, model_dir: str | os.PathLike, step: int):
        self._dir = os.fspath(model_dir)
        self._logdirs = {
            "run": self._dir,
            "train": os.path.join(self._dir, "train"),
            "eval": os.path.join(self._dir, "eval"),
        }
        self._writers = {}
        for part, logdir in self._logdirs.items():
            with files.tensorflow_errors(logdir):
                self._writers[part] = tf.summary.create_file_writer(logdir)
        kept = [r for r in metrics_file.read(self._dir) if r["step"] <= step]
        self._metrics = os.path.join(self._dir, metrics_file.FILE_NAME)
        files.write_text(self._metrics, "".join(json.dumps(r) + "\n" for r in kept))

    @contextmanager
    def _events(self, part: str, step: int) -> Iterator[None]:
        """Makes `tf.summary` in the block write to a part's events; do only that."""
        writer = self._writers[part]
        with files.tensorflow_errors(self._logdirs[part]), writer.as_default(step):
            yield

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Writes named values of one step of `train` or `eval`."""
        with self._events(split, step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        record = {"step": step, "split": split, **values}
        files.append_text(self._metrics, json.dumps(record) + "\n")

    def text(self, name: str, text: str) -> None:
        """Shows a text, such as the configuration, as it is."""
        with self._events("train", 0):
            tf.summary.text(name, _verbatim(text))

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Writes a uint8 image `[H, W, C]` to TensorBoard and as PNG."""
        with self._events("eval", step):
            tf.summary.image(f"pictures/{name}", image[np.newaxis])
        path = os.path.join(self._dir, "images", f"{name}_{step:07d}.png")
        figures.write_png(path, image)

    def settings(self, config: ExperimentConfig) -> None:
        """Shows the settings for comparing runs, and lays the charts out."""
        with self._events("run", 0):
            dashboard.write_settings(config)
            tf.summary.experimental.write_raw_pb(dashboard.layout())

    def graph(self, graph: tf.Graph) -> None:
        """Shows a graph."""
        with self._events("train", 0):
            tf.summary.graph(graph)

    def model(
        self,
        model: VAEFlow,
        step: int,
        originals: np.ndarray,
        labels: np.ndarray | None,
        projected: Split,
        batch_size: int,
    ) -> None:
        """Pictures and histograms of a model, and its z for the projector.

        Args:
          model: as it is now.
          step: names the files.
          originals: uint8 validation images, an even number of them.
          labels: of the originals and the samples, for a class-conditional model.
          projected: images for the projector, which shows the names of their classes if
            they have labels.
          batch_size: images at a time.
        """
        few = slice(_IMAGES_IN_STATISTICS)
        of_few = None if labels is None else labels[few]
        with model.by_layers():
            made = pictures.model_pictures(model, originals, labels, batch_size)
            found = statistics.model_statistics(
                model, originals[few], of_few, batch_size
            )
        for name, picture in made.items():
            self.image(name, step, picture)
        with self._events("eval", step):
            for name, values in found.items():
                tf.summary.histogram(name, values)
        if model.encoder is not None:
            logdir = self._logdirs["eval"]
            projector.write_projection(logdir, model, projected, batch_size)

    def flush(self) -> None:
        """Writes all waiting events."""
        for part, writer in self._writers.items():
            with files.tensorflow_errors(self._logdirs[part]):
                writer.flush()

    def close(self) -> None:
        """Writes all waiting events, and closes the writers."""
        for part, writer in self._writers.items():
            with files.tensorflow_errors(self._logdirs[part]):
                writer.close()
