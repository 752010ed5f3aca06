"""Saving and loading: a model directory and what lies in it.

`model.json` describes the architecture and `checkpoints/` holds TensorFlow checkpoints,
the best one by validation in `checkpoints/best/`. TensorFlow writes a checkpoint's data
under a temporary name, renames it, and writes its index last, so a kill at any moment
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


def _complete(directory: str | Path) -> list[str]:
    """The checkpoints in a directory, the last step first.

    By the files that end them, which are written last: a run that is killed may leave
    a checkpoint that TensorFlow's list, the file `checkpoint`, does not name yet.
    """
    paths = [path.with_suffix("") for path in Path(directory).glob("step-*.index")]
    return [str(path) for path in sorted(paths, key=_step_of_path, reverse=True)]


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


def check_description(
    model_dir: str | Path, config: ModelConfig, must_exist: bool = False
) -> None:
    """Checks that a directory with a model holds one of this architecture.

    Args:
      model_dir: the directory.
      config: the architecture.
      must_exist: whether there has to be a model.

    Raises:
      UserError: naming the first field that differs.
    """
    if not must_exist and not (Path(model_dir) / DESCRIPTION).exists():
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

    Attributes:
      best_value: the lowest so far, saved with the rest.

    Args:
      model_dir: where the run lives.
      keep: how many of the last checkpoints to keep.
      state: trackable objects to save, by name; `model` among them.
    """

    def __init__(self, model_dir: str | Path, keep: int, state: dict[str, tf.Module]):
        self.best_value = tf.Variable(float("inf"), trainable=False, dtype=tf.float64)
        self._checkpoint = tf.train.Checkpoint(best_value=self.best_value, **state)
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
        if not value < float(self.best_value):
            return False
        self.best_value.assign(value)
        self._best.save(checkpoint_number=step)
        return True

    def restore_latest(self) -> bool:
        """Restores the last checkpoint that can be read; False if there is none.

        Names each damaged one that it passes over.

        Raises:
          UserError: if there are checkpoints, but none that can be restored.
        """
        paths = _complete(self._last.directory)
        for number, path in enumerate(paths):
            try:
                _restore(self._checkpoint, path, "the model and its optimizer")
            except DamagedCheckpointError as error:
                if number + 1 == len(paths):
                    raise
                print(f"{error}; trying the one before", flush=True)
            else:
                return True
        return False


class DamagedCheckpointError(UserError):
    """A checkpoint whose files are not as they were written."""


def _restore(checkpoint: tf.train.Checkpoint, path: str, what: str) -> None:
    try:
        status = checkpoint.read(path)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, ValueError, IndexError) as error:
        message = str(error).splitlines()[0]
        raise DamagedCheckpointError(
            f"checkpoint {path} cannot be read: {message}"
        ) from error
    except AssertionError as error:
        message = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} does not fit {what}: {message}") from error


def _latest_path(model_dir: str | Path, which: str) -> str:
    if which not in ("latest", "best"):
        raise UserError(f"checkpoint is {which!r}; expected 'latest' or 'best'")
    directory = _checkpoint_dir(model_dir, which)
    paths = _complete(directory)
    if not paths:
        raise UserError(
            f"there is no checkpoint in {directory}; the run has not saved one yet"
        )
    return paths[0]


def step_of(model_dir: str | Path, checkpoint: str = "latest") -> int:
    """The training step of the checkpoint that `load` takes."""
    return _step_of_path(_latest_path(model_dir, checkpoint))


def _step_of_path(path: str | Path) -> int:
    return int(Path(path).name.removeprefix("step-"))


def _holds(path: str, part: str) -> bool:
    """Whether a checkpoint holds an object of that name.

    Raises:
      DamagedCheckpointError: if it cannot be read.
    """
    try:
        names = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise DamagedCheckpointError(
            f"checkpoint {path} cannot be read: {message}"
        ) from error
    return any(name.startswith(f"{part}/") for name in names)


def load_into(model: VAEFlow, model_dir: str | Path, checkpoint: str = "latest") -> int:
    """Reads the weights of a model directory: the average of them where there is one.

    Args:
      model: of the architecture that lies there.
      model_dir: what `tfp_vaeflow.train` wrote.
      checkpoint: `latest` or `best`.

    Returns:
      The training step of the weights.

    Raises:
      UserError: if there is no checkpoint, or it cannot be read.
    """
    path = _latest_path(model_dir, checkpoint)
    part = "average" if _holds(path, "average") else "model"
    _restore(tf.train.Checkpoint(**{part: model}), path, f"{model_dir}/{DESCRIPTION}")
    return _step_of_path(path)


def load(model_dir: str | Path, checkpoint: str = "latest") -> VAEFlow:
    """Loads a trained model from its directory, wherever that has been moved to.

    Where a moving average of the weights was kept, that is what is loaded.

    Args:
      model_dir: what `tfp_vaeflow.train` wrote.
      checkpoint: `latest`, or `best` for the one that was best on validation.

    Raises:
      UserError: if there is no model, or it cannot be read.
    """
    model = build_model(read_description(model_dir))
    load_into(model, model_dir, checkpoint)
    return model
