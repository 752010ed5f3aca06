"""The loop around the training step: checkpoints, validation, metrics, pictures."""

import contextlib
import os
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute, data
from tfp_vaeflow.common import files, typical_scores
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.model.objective import Losses, bits_per_dim, bits_per_dim_terms
from tfp_vaeflow.training.devices import StopRequest, take_from_chief
from tfp_vaeflow.training.diagnosis import first_layer_not_finite
from tfp_vaeflow.training.progress import Progress
from tfp_vaeflow.training.results import REMEDY, StepResult
from tfp_vaeflow.training.step import Trainer
from tfp_vaeflow.training.summaries import RunWriter, StepProfile

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
      batch_size: images per step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._steps = 0
        self._made: list[StepResult] = []
        self._since = time.monotonic()

    def add(self, result: StepResult, made: bool) -> None:
        """Adds a step; its losses and norm count only if it made its update."""
        self._steps += 1
        if made:
            self._made.append(result)

    def pause(self, seconds: float) -> None:
        """Leaves this much time out of the rate."""
        self._since += seconds

    def scalars(self, config: ExperimentConfig) -> dict[str, float]:
        """The rate, and mean losses and gradient norm if any step made its update."""
        seconds = time.monotonic() - self._since
        values = {"images_per_second": self._steps * self._batch_size / seconds}
        if self._made:
            losses = np.array([result.losses for result in self._made], np.float64)
            values |= _scalars(Losses(*losses.mean(axis=0)), config)
            norms = [float(result.gradient_norm) for result in self._made]
            values["gradient_norm"] = float(np.mean(norms))
        return values


class _Results:
    """Reads the results of steps one step late, so that a device always has work.

    If a step made no update, the result of the step after it is read at once.

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
        """Adds the result of a step, and reads that of the step before."""
        made = all(self._look(*each) for each in self._unseen)
        self._unseen = [(step, batch, result)]
        if not made:
            self.look()

    def look(self) -> None:
        """Reads the results of all steps so far."""
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
    """Whether a step made its update; prints a note if not, and raises at the limit."""
    in_a_row = int(result.skipped_in_a_row)
    if not in_a_row:
        return True
    limit = config.training.max_skipped_steps
    what = result.what_is_not_finite()
    progress.note(
        f"step {step}: no update, because {what} ({in_a_row} in a row, "
        f"{int(result.skipped)} in all)"
    )
    if in_a_row >= limit:
        layer = first_layer_not_finite(trainer.model, config, batch, step - 1)
        raise UserError(
            f"step {step} made no update, number {in_a_row} in a row "
            f"(TrainingConfig.max_skipped_steps = {limit}): {what}; {layer}. {REMEDY}"
        )
    return False


def _begin(trainer, config, splits, keeper, model_dir) -> None:
    """Sets the first weights: from the last checkpoint, another model, or new ones."""
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

    Ctrl-C or SIGTERM to any of the workers ends the run at most two steps later and
    saves it. Each worker calls this function; all begin with the chief's variables.

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
        made no update.
    """
    checkpoints.check_description(model_dir, config.model)
    trainer = Trainer(config, strategy)
    keeper = checkpoints.CheckpointKeeper(
        model_dir, config.training.keep_checkpoints, trainer.state
    )
    keeper.take_over()  # before anything slow
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
                given = trainer, config, splits, model_dir
                _Loop(*given, keeper, writer, profile, stop).run()
        finally:
            profile.stop()
            writer.close()
    except OSError as error:
        raise UserError(_save_the_rest(error, trainer, keeper)) from error
    return trainer


def _save_the_rest(error: OSError, trainer, keeper) -> str:
    """Saves the steps made before an error; returns the message for the user."""
    if trainer.step != keeper.saved_step and trainer.weights_are_finite():
        with contextlib.suppress(OSError):  # the same disk may have failed
            keeper.save(trainer.step)
    saved = "nothing"
    if keeper.saved_step is not None:
        saved = f"step {keeper.saved_step}"
    return (
        f"{files.describe(error)}; the run ends after step {trainer.step}, and {saved} "
        "is saved: remove the cause and start the same command again"
    )


class Shown(NamedTuple):
    """What the pictures and the projector of a run show, of its validation images.

    Attributes:
      images: uint8 `[N, H, W, C]`, an even number.
      labels: `[N]`; None if the model is not class-conditional.
      projected: the images of the projector.
    """

    images: np.ndarray
    labels: np.ndarray | None
    projected: data.Split

    @classmethod
    def of(cls, splits: data.Splits, config: ExperimentConfig) -> "Shown":
        """Validation images, or training images if there are none."""
        split = splits.validation if splits.validation.num_images else splits.train
        images = split.first(_IMAGES_IN_GRIDS)
        images = images[: len(images) // 2 * 2]
        labels = None
        if config.model.is_class_conditional:
            labels = split.labels[: len(images)]
        projected = min(_PROJECTED_IMAGES, split.num_images)
        return cls(images, labels, split.subset(np.arange(projected)))

    def write(self, writer: RunWriter, trainer: Trainer, step: int) -> None:
        """Writes pictures, histograms and projector, if there are images to show."""
        if not len(self.images):
            return
        model, at_a_time = trainer.evaluated, trainer.images_at_a_time
        writer.model(model, step, *self, at_a_time)
        writer.flush()
        compute.give_memory_back()


class _Loop:
    """The steps of a run, with its metrics, validation, checkpoints and pictures.

    Args:
      trainer, config, splits, model_dir, keeper, writer, profile, stop: of the run.
    """

    def __init__(
        self, trainer, config, splits, model_dir, keeper, writer, profile, stop
    ):
        self._model_dir = model_dir
        self._trainer = trainer
        self._config = config
        self._splits = splits
        self._keeper = keeper
        self._writer = writer
        self._profile = profile
        self._stop = stop
        self._step, self._last = trainer.step, config.training.num_steps
        self._shown = Shown.of(splits, config)
        # Last, because both begin to measure time.
        self._progress = Progress(self._step, self._last)
        self._results = _Results(trainer, config, self._progress)

    def run(self) -> None:
        """Runs up to the last step, or until a worker is asked to stop."""
        training = self._config.training
        batches = iter(self._trainer.training_batches(self._splits.train, self._step))
        while self._step < self._last and not self._results.stopping:
            self._step += 1
            result = self._take(next(batches))
            if self._due(training.log_every):
                self._log(result)
            begin = time.monotonic()
            if self._due(training.images_every):
                compute.give_memory_back()
            if self._due(training.evaluate_every):
                self._validate()
            if self._due(training.checkpoint_every) or self._results.stopping:
                self._save()
            if self._due(training.images_every):
                self._shown.write(self._writer, self._trainer, self._step)
            # The rate is that of training alone.
            self._results.window.pause(time.monotonic() - begin)
        self._progress.close()

    def _due(self, every: int) -> bool:
        return every > 0 and (self._step % every == 0 or self._step == self._last)

    def _take(self, batch: data.Batch) -> StepResult:
        """Makes one step, and reads its result at once if something depends on it."""
        training, profile = self._config.training, self._profile
        with profile.step(self._step):
            result = self._trainer.train_step(batch, self._stop.requested)
        if self._step == 1:
            self._writer.graph(self._trainer.graph(batch))
        self._results.add(self._step, batch, result)
        rhythms = (
            training.log_every,
            training.images_every,
            training.evaluate_every,
            training.checkpoint_every,
        )
        waited_for = any(map(self._due, rhythms)) or profile.ends_with(self._step)
        if waited_for or self._results.stopping:
            self._results.look()
        if profile.after(self._step):
            self._note(f"profile written to {profile.folder}")
        return result

    def _note(self, text: str) -> None:
        self._progress.note(f"step {self._step}: {text}")

    def _log(self, result: StepResult) -> None:
        images = self._step * self._config.training.batch_size
        scalars = {
            **self._results.scalars(),
            "epoch": images / self._splits.train.num_images,
            "peak_memory_mib": compute.peak_memory_mib(),
            "learning_rate": float(self._trainer.optimizer.learning_rate),
            "skipped_steps": int(result.skipped),
        }
        self._writer.scalars("train", self._step, scalars)
        self._progress.show(self._step, scalars)

    def _validate(self) -> None:
        """Measures bits/dim of the validation images, if there are any."""
        if not self._splits.validation.num_images:
            return
        losses, totals = self._trainer.evaluate(self._splits.validation)
        scalars = _scalars(losses, self._config)
        self._writer.scalars("eval", self._step, scalars)
        value = scalars["bits_per_dim/total"]
        best = self._keeper.save_if_best(self._step, value)
        if self._trainer.share.index == 0:
            self._keep_scores(bits_per_dim(totals, self._config.model), best)
        note = ", the best so far" if best else ""
        self._note(f"validation {value:.4f} bits/dim{note}")

    def _keep_scores(self, bits: np.ndarray, best: bool) -> None:
        """Writes the statistics of the validation images, of `[N]` bits/dim."""
        kept = typical_scores.read(self._model_dir)
        kept["latest"] = typical_scores.of_bits(bits, self._step)
        if best:
            kept["best"] = kept["latest"]
        typical_scores.write(self._model_dir, kept)

    def _save(self) -> None:
        if not self._trainer.weights_are_finite():
            raise UserError(f"a weight is not finite at step {self._step}; {REMEDY}")
        self._keeper.save(self._step)
