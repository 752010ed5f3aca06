"""What a run writes while it trains: TensorBoard events, images and metrics.jsonl."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfp_vaeflow import figures, files
from tfp_vaeflow.model import VAEFlow

METRICS_FILE = "metrics.jsonl"
_COLUMNS = 8
_SAMPLE_TEMPERATURES = (0.7, 1.0)


class RunWriter:
    """Writes scalars of training and validation, and image grids.

    Scalars go to TensorBoard under the same names in `train/` and `eval/`, and as one
    JSON object a line to `metrics.jsonl`; images to TensorBoard and `images/`.

    Args:
      model_dir: where the run lives.
      step: the step that the run starts at; lines of later steps, left by a run that
        was stopped after its last checkpoint, are dropped.
    """

    def __init__(self, model_dir: str | Path, step: int):
        self._dir = Path(model_dir)
        self._writers = {
            split: tf.summary.create_file_writer(str(self._dir / split))
            for split in ("train", "eval")
        }
        path = self._dir / METRICS_FILE
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    continue  # the last line of a run that was killed
        files.write_text(path, "".join(kept))
        self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115 (see close)

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Writes named values of one step of `train` or `eval`."""
        with self._writers[split].as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        record = {"step": step, "split": split, **values}
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()

    def text(self, name: str, text: str) -> None:
        """Shows a text, such as the configuration, as it is."""
        block = "\n".join(f"    {line}" for line in text.splitlines())
        with self._writers["train"].as_default(0):
            tf.summary.text(name, block)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Writes a uint8 image `[H, W, C]` to TensorBoard and as PNG."""
        with self._writers["eval"].as_default(step):
            tf.summary.image(name, image[np.newaxis])
        figures.write_png(self._dir / "images" / f"{name}_{step:07d}.png", image)

    def model_images(
        self,
        model: VAEFlow,
        step: int,
        originals: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> None:
        """Grids of samples, reconstructions and switches.

        Args:
          model: as it is now.
          step: names the files.
          originals: uint8 validation images, an even number of them.
          labels: theirs, for a class-conditional model; samples are of these classes.
        """
        for temperature in _SAMPLE_TEMPERATURES:
            # The same codes every time, so that progress is seen.
            samples = model.sample(
                len(originals), temperature, seed=0, labels=labels
            ).numpy()
            name = f"samples_t{temperature}"
            self.image(name, step, figures.grid(samples, _COLUMNS))
        back = model.reconstruct(originals, labels=labels).numpy()
        pairs = np.stack([originals, back], axis=1).reshape(-1, *originals.shape[1:])
        self.image("reconstructions", step, figures.grid(pairs, _COLUMNS))
        if model.encoder is not None:
            a, b = originals[0::2], originals[1::2]
            cells = figures.switch_grid(a, b, *model.switch(a, b), _COLUMNS // 2)
            self.image("switches", step, cells)

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        self._metrics.close()
        for writer in self._writers.values():
            writer.close()
