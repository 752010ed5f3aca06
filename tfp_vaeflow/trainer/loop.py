"""The loop around the training step: checkpoints, validation, metrics, pictures."""

import contextlib
import os
import time

import numpy as np
import tensorflow as tf

from tfp_vaeflow import checkpoints, compute, data, files
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.distribution import (
    StopRequest,
    take_from_chief,
)
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.objective import Losses, bits_per_dim_terms
from tfp_vaeflow.progress import Progress
from tfp_vaeflow.summaries import RunWriter, StepProfile
from tfp_vaeflow.trainer.diagnosis import first_layer_not_finite
from tfp_vaeflow.trainer.results import REMEDY, StepResult
from tfp_vaeflow.trainer.step import Trainer

_IMAGES_IN_GRIDS = 32
_PROJECTED_IMAGES = 500


def _scalars(losses: Losses, config: ExperimentConfig) -> dict[str, float]:
    """Mean losses as named scalars: bits/dim by term, and nats."""
    terms = bits_per_dim_terms(losses, config.model)
    named = {f"bits_per_dim/{name}": float(value) for name, value in terms.items()}
    nats = {f"nats/{name}": float(value) for name, value in losses._asdict().items()}
    return {**named, **nats}


class _Window:
    """The steps between two lines of metrics.

    Args:
      batch_size: images a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._steps = 0
        self._made: list[StepResult] = []
        self._since = time.monotonic()

    def add(self, result: StepResult, made: bool) -> None:
        """Takes a step in; its values count if it made its update."""
        self._steps += 1
        if made:
            self._made.append(result)

    def pause(self, seconds: float) -> None:
        """Leaves this much time out of the rate."""
        self._since += seconds

    def scalars(self, config: ExperimentConfig) -> dict[str, float]:
        """Means of losses and gradient norm, if a step was made, and the rate."""
        seconds = time.monotonic() - self._since
        values = {"images_per_second": self._steps * self._batch_size / seconds}
        if self._made:
            losses = np.array([result.losses for result in self._made], np.float64)
            values |= _scalars(Losses(*losses.mean(axis=0)), config)
            norms = [float(result.gradient_norm) for result in self._made]
            values["gradient_norm"] = float(np.mean(norms))
        return values


class _Results:
    """Looks at what steps tell, one step late: so a device always has one to do.

    Where a step made no update, the next ones are looked at at once.

    Attributes:
      stopping: whether a worker was asked to stop; the same on every worker.

    Args:
      trainer, config, progress: of the run.
    """

    def __init__(self, trainer, config: ExperimentConfig, progress: Progress):
        self._trainer, self._config, self._progress = trainer, config, progress
        self._unseen = []
        self.stopping = False
        self.window = _Window(config.training.batch_size)

    def add(self, step: int, batch: data.Batch, result: StepResult) -> None:
        """Takes a step in, and looks at the one before."""
        made = all(self._look(*each) for each in self._unseen)
        self._unseen = [(step, batch, result)]
        if not made:
            self.look()

    def look(self) -> None:
        """Looks at all steps so far."""
        for each in self._unseen:
            self._look(*each)
        self._unseen = []

    def _look(self, step, batch, result) -> bool:
        made = _check_update(
            self._trainer, self._config, self._progress, step, batch, result
        )
        self.stopping |= bool(result.stop_requests > 0)
        self.window.add(result, made)
        self._progress.advance()
        return made

    def scalars(self) -> dict[str, float]:
        """The metrics of the steps since the last call; see `_Window.scalars`."""
        scalars = self.window.scalars(self._config)
        self.window = _Window(self._config.training.batch_size)
        return scalars


def _check_update(trainer, config, progress, step, batch, result: StepResult) -> bool:
    """Whether a step made its update; says so if not, and ends the run in time."""
    in_a_row = int(result.skipped_in_a_row)
    if not in_a_row:
        return True
    limit = config.training.max_skipped_steps
    what = result.what_is_not_finite()
    progress.note(
        f"step {step}: no update, for {what} ({in_a_row} in a row, "
        f"{int(result.skipped)} in all)"
    )
    if in_a_row >= limit:
        layer = first_layer_not_finite(trainer.model, config, batch, step - 1)
        raise UserError(
            f"step {step} is the {in_a_row}th in a row without an update "
            f"(TrainingConfig.max_skipped_steps = {limit}): {what}; {layer}. {REMEDY}"
        )
    return False


def _begin(trainer, config, splits, keeper, model_dir) -> None:
    """The weights to begin with: of the last checkpoint, another model, or new."""
    init_from = config.training.init_from
    if keeper.restore_latest():
        print(f"resumed from step {trainer.step} in {model_dir}", flush=True)
        return
    if init_from is None:
        trainer.initialize(splits.train)
    else:
        checkpoints.check_description(init_from, config.model, must_exist=True)
        step = checkpoints.load_into(trainer.model, init_from)
        trainer.start_average()
        print(f"weights of step {step} taken from {init_from}", flush=True)
    checkpoints.write_description(model_dir, config.model)


def train(
    config: ExperimentConfig,
    splits: data.Splits,
    strategy: tf.distribute.Strategy,
    model_dir: str | os.PathLike,
    config_text: str,
    profile_steps: tuple[int, int] | None = None,
) -> Trainer:
    """Trains up to `num_steps`, from the last checkpoint in `model_dir` if any.

    Ctrl-C or SIGTERM, to any of the workers, ends the run two steps later at most and
    saves it. Each worker calls this; what the chief begins with is what all begin with.

    Args:
      config: the experiment.
      splits: its data.
      strategy: the devices.
      model_dir: takes this worker's checkpoints, metrics and images; only the
        chief's is read.
      config_text: shown in TensorBoard.
      profile_steps: the first and the last step to profile; None for no profile.

    Returns:
      The trainer, with the model after the last step.

    Raises:
      UserError: if the directory holds another model, or too many steps in a row
        could not be made.
    """
    checkpoints.check_description(model_dir, config.model)
    trainer = Trainer(config, strategy)
    keeper = checkpoints.CheckpointKeeper(
        model_dir, config.training.keep_checkpoints, trainer.state
    )
    keeper.take_over()  # before anything that takes its time
    trainer.prepare(splits)
    if trainer.share.index == 0:
        _begin(trainer, config, splits, keeper, model_dir)
    take_from_chief(strategy, [*trainer.variables, keeper.best_value])
    writer = RunWriter(model_dir, trainer.step)
    writer.text("config", config_text)
    writer.settings(config)
    profile = StepProfile(model_dir, *(profile_steps or (None, None)))
    try:
        try:
            with StopRequest() as stop, data.reading():
                _loop(trainer, config, splits, keeper, writer, profile, stop)
        finally:
            profile.stop()
            writer.close()
    except OSError as error:
        raise UserError(_save_the_rest(error, trainer, keeper)) from error
    return trainer


def _save_the_rest(error: OSError, trainer, keeper) -> str:
    """Saves the steps that were made before something failed; what to say of it."""
    if trainer.step != keeper.saved_step and trainer.weights_are_finite():
        with contextlib.suppress(OSError):  # what failed may be the disk for this too
            keeper.save(trainer.step)
    saved = "nothing"
    if keeper.saved_step is not None:
        saved = f"step {keeper.saved_step}"
    return (
        f"{files.describe(error)}; the run ends after step {trainer.step}, and {saved} "
        "is saved: put it right, and the same command goes on"
    )


def _loop(trainer, config, splits, keeper, writer, profile, stop) -> None:
    training = config.training
    first_step, last_step = trainer.step, training.num_steps
    shown = splits.validation if splits.validation.num_images else splits.train
    grid_images = shown.first(_IMAGES_IN_GRIDS)
    grid_images = grid_images[: len(grid_images) // 2 * 2]
    projected = shown.subset(np.arange(min(_PROJECTED_IMAGES, shown.num_images)))
    grid_labels = None
    if config.model.is_class_conditional:
        grid_labels = shown.labels[: len(grid_images)]
    batches = iter(trainer.training_batches(splits.train, first_step))
    progress = Progress(first_step, last_step)
    results = _Results(trainer, config, progress)

    def due(step, every):
        return every > 0 and (step % every == 0 or step == last_step)

    rhythms = (
        training.log_every,
        training.images_every,
        training.evaluate_every,
        training.checkpoint_every,
    )
    for step in range(first_step + 1, last_step + 1):
        batch = next(batches)
        with profile.step(step):
            result = trainer.train_step(batch, stop.requested)
        if step == 1:
            writer.graph(trainer.graph(batch))
        results.add(step, batch, result)
        beside = any(due(step, every) for every in rhythms)
        if beside or results.stopping or profile.ends_with(step):
            results.look()
        stopping = results.stopping
        if profile.after(step):
            progress.note(f"step {step}: profile written to {profile.folder}")
        if due(step, training.log_every):
            scalars = {
                **results.scalars(),
                "epoch": step * training.batch_size / splits.train.num_images,
                "peak_memory_mib": compute.peak_memory_mib(),
                "learning_rate": float(trainer.optimizer.learning_rate),
                "skipped_steps": int(result.skipped),
            }
            writer.scalars("train", step, scalars)
            progress.show(step, scalars)
        pause = time.monotonic()
        if due(step, training.images_every):
            compute.give_memory_back()
        if due(step, training.evaluate_every) and splits.validation.num_images:
            scalars = _scalars(trainer.evaluate(splits.validation), config)
            writer.scalars("eval", step, scalars)
            value = scalars["bits_per_dim/total"]
            best = keeper.save_if_best(step, value)
            note = ", the best so far" if best else ""
            progress.note(f"step {step}: validation {value:.4f} bits/dim{note}")
        if due(step, training.checkpoint_every) or stopping:
            if not trainer.weights_are_finite():
                raise UserError(f"a weight is not finite at step {step}; {REMEDY}")
            keeper.save(step)
        if due(step, training.images_every) and len(grid_images):
            writer.model(
                trainer.evaluated,
                step,
                grid_images,
                grid_labels,
                projected,
                trainer.images_at_a_time,
            )
            writer.flush()
            compute.give_memory_back()
        results.window.pause(
            time.monotonic() - pause
        )  # the rate is that of training alone
        if stopping:
            break
    progress.close()
