"""Saving and loading: a model directory and its content.

`model.json` describes the architecture and `checkpoints/` holds TensorFlow checkpoints,
the best one by validation in `checkpoints/best/`. TensorFlow writes a checkpoint's data
under a temporary name, renames it, and writes its index last, so a kill at any moment
leaves the last complete checkpoint in place.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import uuid
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ModelConfig, model_config_from_dict
from tfp_vaeflow.model import VAEFlow, build_model

DESCRIPTION = "model.json"
# Of descriptions and checkpoints: a new number if older ones can no longer be read.
FORMAT = 4
_FILE = re.compile(r"step-(\d+)\.(?:index|data-\d+-of-\d+)")


def _checkpoint_dir(model_dir: str | os.PathLike, which: str) -> str:
    root = os.path.join(model_dir, "checkpoints")
    return os.path.join(root, "best") if which == "best" else root


def _complete(directory: str) -> list[str]:
    """The checkpoints in a directory, the last step first.

    It finds them by their index files, which are written last. TensorFlow's list, the
    file `checkpoint`, may not yet name the last checkpoint of a run that was killed.
    """
    paths = [
        os.path.join(directory, name.removesuffix(".index"))
        for name in files.list_dir(directory)
        if _FILE.fullmatch(name) and name.endswith(".index")
    ]
    return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: str) -> int:
    return int(os.path.basename(path).removeprefix("step-"))


def _remove_unfinished(directory: str) -> None:
    """Removes the files of unfinished saves."""
    names = files.list_dir(directory)
    for name in names:
        match = _FILE.fullmatch(name)
        whole = match and f"step-{match[1]}.index" in names
        if name.startswith(("step-", "checkpoint.tmp")) and not whole:
            files.remove(os.path.join(directory, name))


def write_description(model_dir: str | os.PathLike, config: ModelConfig) -> None:
    """Writes `model.json`, from which `load` rebuilds the model."""
    values = {"format": FORMAT, **dataclasses.asdict(config)}
    text = json.dumps(values, indent=2) + "\n"
    files.write_text(os.path.join(model_dir, DESCRIPTION), text)


def read_description(model_dir: str | os.PathLike) -> ModelConfig:
    """Reads `model.json`.

    Raises:
      UserError: if the directory or the file is missing or is something else.
    """
    path = os.path.join(model_dir, DESCRIPTION)
    try:
        values = json.loads(files.read_text(path))
    except OSError as error:
        raise UserError(
            f"{model_dir} is not a model directory: it has no readable {DESCRIPTION} "
            f"({error.strerror}); "
            "expected what `python -m tfp_vaeflow.train --model_dir=...` writes"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    is_model = isinstance(values, dict) and "image_shape" in values
    if is_model and (found := values.pop("format", 0)) != FORMAT:
        raise UserError(
            f"{path} is of format {found}, and this version reads format {FORMAT}: "
            "train the model again, or take the version that wrote it"
        )
    try:
        return model_config_from_dict(values)
    except UserError as error:
        raise UserError(f"{path} is {error}") from error


def check_description(
    model_dir: str | os.PathLike, config: ModelConfig, must_exist: bool = False
) -> None:
    """Checks that the model in a directory, if any, has this architecture.

    Args:
      model_dir: the directory.
      config: the architecture.
      must_exist: whether there has to be a model.

    Raises:
      UserError: naming the first field that differs.
    """
    if not must_exist and not files.exists(os.path.join(model_dir, DESCRIPTION)):
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
      best_value: the lowest validation value so far; checkpoints hold it too.
      saved_step: of the last checkpoint that was saved or restored; None before.

    Args:
      model_dir: the directory of the run.
      keep: how many of the last checkpoints to keep.
      state: trackable objects to save, by name; `model` among them.
    """

    def __init__(
        self, model_dir: str | os.PathLike, keep: int, state: dict[str, tf.Module]
    ):
        self.saved_step: int | None = None
        self._model_dir = model_dir
        self._name: str | None = None
        self.best_value = tf.Variable(float("inf"), trainable=False, dtype=tf.float64)
        self._checkpoint = tf.train.Checkpoint(best_value=self.best_value, **state)
        self._last, self._best = (
            tf.train.CheckpointManager(
                self._checkpoint,
                _checkpoint_dir(model_dir, which),
                max_to_keep=count,
                checkpoint_name="step",
            )
            for which, count in (("latest", keep), ("best", 1))
        )
        self._owner = os.path.join(self._last.directory, "owner")

    def take_over(self) -> None:
        """Makes the directory ready for this process, and no other, to save in.

        Each process writes its name to a file, and saves no more if it finds another
        name there. So where there is no lock (see `training.devices.locked`), or other
        machines do not see it, the process that began last goes on. And a run that was
        killed can be started again at once.

        Raises:
          OSError: if the directory cannot be written.
        """
        name = f"{os.getpid()} on {socket.gethostname()}, {uuid.uuid4()}\n"
        files.write_text(self._owner, name)
        files.make_dirs(self._best.directory)
        for manager in (self._last, self._best):
            _remove_unfinished(manager.directory)
        self._name = name

    def _check_owner(self) -> None:
        if self._name is None:
            return
        try:
            found = files.read_text(self._owner)
        except FileNotFoundError:  # removed: nobody took the directory over
            return
        if found != self._name:
            raise UserError(
                f"another process ({found.split(',')[0]}) has taken {self._model_dir} "
                "over, and goes on from the last checkpoint; this one ends"
            )

    def _save(self, manager: tf.train.CheckpointManager, step: int) -> None:
        self._check_owner()
        path = os.path.join(manager.directory, f"step-{step}")
        try:
            with files.tensorflow_errors(path):
                manager.save(checkpoint_number=step)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to report
                _remove_unfinished(manager.directory)
            raise

    def save(self, step: int) -> None:
        """Saves a step.

        Raises:
          OSError: if it cannot be written; earlier checkpoints are still there.
          UserError: if another process has taken the directory over.
        """
        self._save(self._last, step)
        self.saved_step = step

    def save_if_best(self, step: int, value: float) -> bool:
        """Saves to `best/` if `value` is lower than all before; says whether it was."""
        former = float(self.best_value)
        if not value < former:
            return False
        with contextlib.ExitStack() as if_it_fails:
            if_it_fails.callback(self.best_value.assign, former)
            self.best_value.assign(value)  # the checkpoint holds it, too
            self._save(self._best, step)
            if_it_fails.pop_all()
        return True

    def restore_latest(self) -> bool:
        """Restores the last checkpoint that can be read; False if there is none.

        Names each damaged checkpoint that it passes over.

        Raises:
          UserError: if there are checkpoints, but none that can be restored.
        """
        if not (paths := _complete(self._last.directory)):
            return False

        def read(path):
            _restore(self._checkpoint, path, "the model and its optimizer")

        self.saved_step = _step_of(_read_first(paths, read))
        return True


class DamagedCheckpointError(UserError):
    """The files of a checkpoint are damaged."""


@contextlib.contextmanager
def _damage_named(path: str):
    try:
        yield
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise DamagedCheckpointError(
            f"checkpoint {path} cannot be read: {files.reason(error)}"
        ) from error


def _open(path: str):
    """A reader; `tf.train.load_checkpoint` sees a directory in `ram://a/step-1`."""
    return tf.compat.v1.train.NewCheckpointReader(path)


def _read_first(paths: list[str], read: Callable[[str], None]) -> str:
    """Reads the first checkpoint that is not damaged; names those that it passes over.

    Returns:
      Its path.
    """
    *others, earliest = paths
    for path in others:
        try:
            read(path)
        except DamagedCheckpointError as error:
            print(f"{error}; trying the one before", flush=True)
        else:
            return path
    try:
        read(earliest)
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(
            f"{error}; there is no other to go back to: bring back a copy of "
            f"{os.path.dirname(earliest)}"
        ) from error
    return earliest


def _restore(checkpoint: tf.train.Checkpoint, path: str, what: str) -> None:
    with _damage_named(path):
        misfit = _misfit(checkpoint, path)
    if misfit:
        raise UserError(f"checkpoint {path} does not fit {what}: {misfit}")
    with _damage_named(path):
        status = checkpoint.read(path)
    status.assert_existing_objects_matched().expect_partial()


def _misfit(root: tf.train.Checkpoint, path: str) -> str | None:
    """The first variable that a checkpoint lacks or holds in another shape, if any."""
    reader = _open(path)
    text = reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(text).nodes
    shapes = reader.get_variable_to_shape_map()
    waiting, seen = [(root, nodes[0], "")], {id(root)}
    while waiting:
        part, node, name = waiting.pop()
        if isinstance(part, (tf.Variable, keras.Variable)):
            keys = [value.checkpoint_key for value in node.attributes] if node else []
            if not keys:
                return f"{name} is not in it"
            there, here = shapes[keys[0]], list(part.shape)
            if there != here:
                return f"{name} is of shape {there} there and {here} here"
        children = {} if node is None else {c.local_name: c for c in node.children}
        for key, child in tf.train.TrackableView.children(part).items():
            if id(child) not in seen:
                seen.add(id(child))
                found = nodes[children[key].node_id] if key in children else None
                waiting.append((child, found, f"{name}/{key}".lstrip("/")))
    return None


def _paths(model_dir: str | os.PathLike, which: str) -> list[str]:
    if which not in ("latest", "best"):
        raise UserError(f"checkpoint is {which!r}; expected 'latest' or 'best'")
    directory = _checkpoint_dir(model_dir, which)
    if paths := _complete(directory):
        return paths
    raise UserError(
        f"there is no checkpoint in {directory}; the run has not saved one yet"
    )


def last_step(model_dir: str | os.PathLike) -> int:
    """The training step of the last checkpoint of a run.

    Raises:
      UserError: if there is none.
    """
    return _step_of(_paths(model_dir, "latest")[0])


def _holds(path: str, part: str) -> bool:
    """Whether a checkpoint holds an object of that name."""
    with _damage_named(path):
        names = _open(path).get_variable_to_shape_map()
    return any(name.startswith(f"{part}/") for name in names)


def load_into(
    model: VAEFlow, model_dir: str | os.PathLike, checkpoint: str = "latest"
) -> int:
    """Reads the weights that `load` takes from a model directory.

    Args:
      model: of the architecture in the directory.
      model_dir: what `tfp_vaeflow.train` wrote.
      checkpoint: `latest` or `best`.

    Returns:
      The training step of the weights.

    Raises:
      UserError: if there is no checkpoint, or none that can be read.
    """

    def read(path):
        part = "average" if _holds(path, "average") else "model"
        where = os.path.join(model_dir, DESCRIPTION)
        _restore(tf.train.Checkpoint(**{part: model}), path, where)

    return _step_of(_read_first(_paths(model_dir, checkpoint), read))


def load_with_step(
    model_dir: str | os.PathLike, checkpoint: str = "latest"
) -> tuple[VAEFlow, int]:
    """As `load`; also returns the training step of the weights."""
    model = build_model(read_description(model_dir))
    return model, load_into(model, model_dir, checkpoint)


def load(model_dir: str | os.PathLike, checkpoint: str = "latest") -> VAEFlow:
    """Loads a trained model from its directory, even if that has been moved.

    If the run kept a moving average of the weights, the average is loaded. A damaged
    checkpoint is named, and the one before it is taken.

    Args:
      model_dir: what `tfp_vaeflow.train` wrote.
      checkpoint: `latest`, or `best` for the one that was best on validation.

    Raises:
      UserError: if there is no model, or none that can be read.
    """
    return load_with_step(model_dir, checkpoint)[0]
