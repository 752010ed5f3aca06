"""Training from Python, on arrays of images."""

import os
from collections.abc import Sequence

import numpy as np

from tfp_vaeflow import data, training
from tfp_vaeflow.data import arrays
from tfp_vaeflow.model import VAEFlow

_SOURCE = "the arrays"


def train(
    experiment: str | os.PathLike | Sequence[str | os.PathLike],
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    model_dir: str | os.PathLike,
    validation: np.ndarray | tuple[np.ndarray, np.ndarray] | None = None,
    bindings: Sequence[str] = (),
    strategy: str = "auto",
) -> VAEFlow:
    """Trains a model on images in memory, as the command `train` does on files.

    The same call, made again, continues from the last checkpoint. Ctrl-C saves and
    raises `KeyboardInterrupt`. Everything that the command writes lies in `model_dir`,
    which all commands take. To `evaluate`, save the arrays to a .npz file (`images`,
    `labels`, and with `validation` also `validation_images`, `validation_labels`) and
    name it with `--data_dir`: it is divided as here.

        model = vf.train(
            "gin/folder_small.gin", images, model_dir="runs/mine",
            bindings=["TrainingConfig.minutes = 10"],
        )

    Args:
      experiment: one experiment file or several, such as `gin/digits.gin`.
      images: uint8 `[N, H, W, C]` of the experiment's `ModelConfig.image_shape`, or
        `[N, H, W]` for grey images. Without `validation`, a part of them is set aside
        for validation, and one for testing, by `DataConfig.validation_fraction`.
      labels: integers `[N]`, for a class-conditional model and for figures by class.
      model_dir: directory of the run.
      validation: images for validation, with their labels if there are any.
      bindings: settings that override the experiment's, such as
        "TrainingConfig.batch_size = 32".
      strategy: what to train on; see `train --help`.

    Returns:
      The model after the last step; its average if the run keeps one.

    Raises:
      UserError: if an argument does not fit, with one line that says what does.
      KeyboardInterrupt: if the run was stopped; what was trained is saved.
    """
    files = [experiment] if isinstance(experiment, (str, os.PathLike)) else experiment
    bindings = [*bindings, f"DataConfig.name = {data.GIVEN!r}"]

    def load_data(config, model, order):
        pairs = [_pair(images, labels)]
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation, None)
            pairs.append(_pair(*pair))
        splits = arrays.splits_of(
            *pairs, config=config, image_shape=model.image_shape, source=_SOURCE
        )
        for part in ("train", "validation"):
            data.check_labels(getattr(splits, part), model, part)
        return splits

    trainer = training.run(
        [os.fspath(file) for file in files],
        bindings,
        os.fspath(model_dir),
        strategy,
        load_data,
    )
    if trainer.is_stopped:
        print(f"stopped and saved at step {trainer.step}; the same call goes on")
        raise KeyboardInterrupt
    return trainer.evaluated


def _pair(images, labels) -> arrays.Pair:
    return np.asarray(images), None if labels is None else np.asarray(labels)
