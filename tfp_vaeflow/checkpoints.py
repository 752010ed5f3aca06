"""Saving and loading: a model directory and what lies in it.

`model.json` describes the architecture and `checkpoints/` holds TensorFlow checkpoints,
the best one by validation in `checkpoints/best/`. TensorFlow writes a checkpoint's data
first and then, by renaming, the small file that points to it, so a kill at any moment
leaves the last complete one in place.
"""

import dataclasses
import json
from pathlib import Path

import tensorflow as tf

from tfp_vaeflow import files
from tfp_vaeflow.config import ModelConfig, model_config_from_dict
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.model import VAEFlow, build_model

DESCRIPTION = "model.json"


def _checkpoint_dir(model_dir: str | Path, which: str) -> Path:
    root = Path(model_dir) / "checkpoints"
    return root / "best" if which == "best" else root


def write_description(model_dir: str | Path, config: ModelConfig) -> None:
    """Writes `model.json`, from which `load` rebuilds the model."""
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    files.write_text(Path(model_dir) / DESCRIPTION, text)


def read_description(model_dir: str | Path) -> ModelConfig:
    """Reads `model.json`.

    Raises:
      UserError: if the directory or the file is missing or is something else.
    """
    path = Path(model_dir) / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{model_dir} is not a model directory: it has no readable {DESCRIPTION}; "
            "expected what `python -m tfp_vaeflow.train --model_dir=...` writes"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return model_config_from_dict(values)


def check_description(model_dir: str | Path, config: ModelConfig) -> None:
    """Checks that a directory with a model holds one of this architecture.

    Raises:
      UserError: naming the first field that differs.
    """
    if not (Path(model_dir) / DESCRIPTION).exists():
        return
    saved = dataclasses.asdict(read_description(model_dir))
    wanted = dataclasses.asdict(config)

    def first_difference(left, right, path):
        if isinstance(left, dict) and isinstance(right, dict):
            for key in left:
                if left[key] != right[key]:
                    return first_difference(left[key], right[key], f"{path}.{key}")
        return f"{path} is {left} there and {right} in this experiment"

    if saved != wanted:
        raise UserError(
            f"{model_dir} holds another model: "
            f"{first_difference(saved, wanted, 'model')}; name another --model_dir"
        )


class CheckpointKeeper:
    """Keeps the last checkpoints of a run and the best one.

    Args:
      model_dir: where the run lives.
      keep: how many of the last checkpoints to keep.
      **state: trackable objects to save, by name; `model` among them.
    """

    def __init__(self, model_dir: str | Path, keep: int, **state):
        self._best_value = tf.Variable(float("inf"), trainable=False, dtype=tf.float64)
        self._checkpoint = tf.train.Checkpoint(best_value=self._best_value, **state)
        self._last, self._best = (
            tf.train.CheckpointManager(
                self._checkpoint,
                str(_checkpoint_dir(model_dir, which)),
                max_to_keep=count,
                checkpoint_name="step",
            )
            for which, count in (("latest", keep), ("best", 1))
        )

    def save(self, step: int) -> None:
        self._last.save(checkpoint_number=step)

    def save_if_best(self, step: int, value: float) -> bool:
        """Saves to `best/` if `value` is lower than all before; says whether it was."""
        if not value < float(self._best_value):
            return False
        self._best_value.assign(value)
        self._best.save(checkpoint_number=step)
        return True

    def restore_latest(self) -> bool:
        """Restores the last checkpoint; False if there is none.

        Raises:
          UserError: if there are checkpoints, but none that can be restored.
        """
        path = self._last.latest_checkpoint
        if path is None:
            directory = Path(self._last.directory)
            if any(directory.glob("step-*.index")):
                raise UserError(
                    f"{directory} holds checkpoints, but the file 'checkpoint', which "
                    "names the last one, is missing or unreadable; restore it, or name "
                    "another --model_dir"
                )
            return False
        _restore(self._checkpoint, path, "the model and its optimizer")
        return True


def _restore(checkpoint: tf.train.Checkpoint, path: str, what: str) -> None:
    try:
        status = checkpoint.read(path)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, ValueError, IndexError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} cannot be read: {message}") from error
    except AssertionError as error:
        message = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} does not fit {what}: {message}") from error


def _latest_path(model_dir: str | Path, which: str) -> str:
    if which not in ("latest", "best"):
        raise UserError(f"checkpoint is {which!r}; expected 'latest' or 'best'")
    directory = _checkpoint_dir(model_dir, which)
    path = tf.train.latest_checkpoint(str(directory))
    if path is None:
        raise UserError(
            f"there is no checkpoint in {directory}; the run has not saved one yet"
        )
    return path


def step_of(model_dir: str | Path, checkpoint: str = "latest") -> int:
    """The training step of the checkpoint that `load` takes."""
    return int(Path(_latest_path(model_dir, checkpoint)).name.removeprefix("step-"))


def load(model_dir: str | Path, checkpoint: str = "latest") -> VAEFlow:
    """Loads a trained model from its directory, wherever that has been moved to.

    Args:
      model_dir: what `tfp_vaeflow.train` wrote.
      checkpoint: `latest`, or `best` for the one that was best on validation.

    Raises:
      UserError: if there is no model, or it cannot be read.
    """
    config = read_description(model_dir)
    path = _latest_path(model_dir, checkpoint)
    model = build_model(config)
    _restore(tf.train.Checkpoint(model=model), path, f"{model_dir}/{DESCRIPTION}")
    return model
