"""The training step and the loop around it."""

import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfp_vaeflow import data, noise
from tfp_vaeflow.checkpoints import (
    CheckpointKeeper,
    check_description,
    write_description,
)
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.distribution import StopRequest, check_even_share, split_over_replicas
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.model import build_model
from tfp_vaeflow.noise import Stream
from tfp_vaeflow.objective import Losses, bits_per_dim_terms, training_objective
from tfp_vaeflow.optimization import AdamW
from tfp_vaeflow.progress import Progress
from tfp_vaeflow.summaries import RunWriter

_IMAGES_IN_GRIDS = 32
_REMEDY = (
    "a lower OptimizerConfig.learning_rate or a longer warm-up may help. The last "
    "checkpoint is from before that"
)


class Trainer:
    """Model, optimizer and the steps that join them, on one or several devices.

    A step's losses and gradients are those of the whole global batch, however many
    replicas share it: the noise of an example goes by its position in that batch, batch
    norm sees all of it, and gradients are summed before the optimizer sees them.

    Args:
      config: the experiment.
      strategy: the devices.
    """

    def __init__(self, config: ExperimentConfig, strategy: tf.distribute.Strategy):
        training = config.training
        for field in ("batch_size", "evaluation_batch_size"):
            size = getattr(training, field)
            check_even_share(strategy, size, f"TrainingConfig.{field}")
        self._config = config
        self._strategy = strategy
        with strategy.scope():
            self.model = build_model(config.model, training.seed)
            self.optimizer = AdamW(config.optimizer)
            # Keras cannot make the slots of plain variables in a replicated step.
            self.optimizer.build(self.model.trainable_variables)

    @property
    def step(self) -> int:
        """The number of updates so far."""
        return int(self.optimizer.iterations.numpy())

    def initialize(self, split: data.Split) -> None:
        """Data-dependent initialisation on the first training images."""
        images = split.first(self._config.training.initialization_images)
        self.model.initialize(images, seed=self._config.training.seed)

    def train_step(self, batch: data.Batch) -> Losses:
        """One update on a global batch; the batch means of the loss terms before it.

        Raises:
          UserError: if a matrix of the flow is no longer invertible.
        """
        try:
            return self._train_step(split_over_replicas(self._strategy, batch))
        except tf.errors.InvalidArgumentError as error:
            if "not invertible" not in error.message:
                raise
            raise UserError(
                f"at step {self.step + 1} the matrix of a 1x1 convolution is not "
                f"invertible or not finite; {_REMEDY}"
            ) from error

    def weights_are_finite(self) -> bool:
        """Whether every weight is a finite number, so worth saving."""
        return bool(self._weights_are_finite())

    @tf.function
    def _weights_are_finite(self) -> tf.Tensor:
        checks = [tf.math.is_finite(v) for v in self.model.trainable_variables]
        return tf.reduce_all([tf.reduce_all(check) for check in checks])

    @tf.function
    def _train_step(self, batch: data.Batch) -> Losses:
        config = self._config
        step = tf.convert_to_tensor(self.optimizer.iterations)
        seed = noise.step_seed(config.training.seed, step)
        variables = self.model.trainable_variables

        def replica_step(batch):
            with tf.GradientTape() as tape:
                losses = self.model.losses_batch(
                    batch.images,
                    seed,
                    batch.positions[0],
                    config.objective.num_samples,
                    training=True,
                )
                objective = training_objective(losses, config.objective, step)
                loss = tf.reduce_sum(objective) / config.training.batch_size
            gradients = tape.gradient(loss, variables)
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            self.optimizer.apply(gradients, variables)
            return [tf.reduce_sum(term) / config.training.batch_size for term in losses]

        return Losses(*self._sum(self._strategy.run(replica_step, [batch])))

    def _sum(self, values):
        return [
            self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for value in values
        ]

    @tf.function
    def _evaluation_step(self, batch: data.Batch, num_samples: int):
        seed = noise.fold_in(self._config.training.seed, int(Stream.VALIDATION))

        def replica_step(batch):
            losses = self.model.losses_batch(
                batch.images, seed, batch.positions[0], num_samples
            )
            return [tf.reduce_sum(batch.weights * term) for term in losses]

        return self._sum(self._strategy.run(replica_step, [batch]))

    def evaluate(self, split: data.Split, num_samples: int = 1) -> Losses:
        """The mean loss terms over a split; every image counts once."""
        size = self._config.training.evaluation_batch_size
        sums = np.zeros(len(Losses._fields))
        for batch in data.evaluation_batches(split, size):
            batch = split_over_replicas(self._strategy, batch)
            sums += np.array(self._evaluation_step(batch, num_samples), np.float64)
        return Losses(*(sums / split.num_images))


def _scalars(losses: Losses, config: ExperimentConfig) -> dict[str, float]:
    """Mean losses as named scalars: bits/dim by term, and nats."""
    terms = bits_per_dim_terms(losses, config.model)
    named = {f"bits_per_dim/{name}": float(value) for name, value in terms.items()}
    nats = {f"nats/{name}": float(value) for name, value in losses._asdict().items()}
    return {**named, **nats}


def _check_finite(losses: Losses, first: int, last: int) -> None:
    for term, value in losses._asdict().items():
        if not np.isfinite(value):
            raise UserError(
                f"the {term} loss is {value} between steps {first} and {last}; "
                f"{_REMEDY}"
            )


def train(
    config: ExperimentConfig,
    splits: data.Splits,
    strategy: tf.distribute.Strategy,
    model_dir: str | Path,
    config_text: str,
) -> Trainer:
    """Trains up to `num_steps`, from the last checkpoint in `model_dir` if any.

    Ctrl-C or SIGTERM ends the run after the current step and saves it.

    Args:
      config: the experiment.
      splits: its data.
      strategy: the devices.
      model_dir: takes checkpoints, metrics and images.
      config_text: shown in TensorBoard.

    Returns:
      The trainer, with the model after the last step.

    Raises:
      UserError: if the directory holds another model, or a loss is not finite.
    """
    training = config.training
    check_description(model_dir, config.model)
    trainer = Trainer(config, strategy)
    keeper = CheckpointKeeper(
        model_dir,
        training.keep_checkpoints,
        model=trainer.model,
        optimizer=trainer.optimizer,
    )
    if keeper.restore_latest():
        print(f"resumed from step {trainer.step} in {model_dir}", flush=True)
    else:
        trainer.initialize(splits.train)
        write_description(model_dir, config.model)
    writer = RunWriter(model_dir, trainer.step)
    writer.text("config", config_text)
    try:
        with StopRequest() as stop:
            _loop(trainer, config, splits, keeper, writer, stop)
    finally:
        writer.close()
    return trainer


def _loop(trainer, config, splits, keeper, writer, stop) -> None:
    training = config.training
    first_step, last_step = trainer.step, training.num_steps
    grid_images = splits.validation.first(_IMAGES_IN_GRIDS)
    grid_images = grid_images[: len(grid_images) // 2 * 2]
    batches = iter(
        data.training_batches(
            splits.train, config.data, training.batch_size, training.seed, first_step
        )
    )
    progress = Progress(first_step, last_step)
    pending, log_start, log_time = [], first_step, time.monotonic()

    def due(step, every):
        return every > 0 and (step % every == 0 or step == last_step)

    for step in range(first_step + 1, last_step + 1):
        pending.append(trainer.train_step(next(batches)))
        progress.advance()
        if due(step, training.log_every):
            losses = Losses(*np.mean(np.array(pending, np.float64), axis=0))
            _check_finite(losses, log_start, step)
            rate = len(pending) * training.batch_size / (time.monotonic() - log_time)
            scalars = {
                **_scalars(losses, config),
                "images_per_second": rate,
                "learning_rate": float(trainer.optimizer.learning_rate),
            }
            writer.scalars("train", step, scalars)
            progress.show(step, scalars["bits_per_dim/total"], rate)
            pending, log_start, log_time = [], step, time.monotonic()
        pause = time.monotonic()
        if due(step, training.evaluate_every):
            scalars = _scalars(trainer.evaluate(splits.validation), config)
            writer.scalars("eval", step, scalars)
            value = scalars["bits_per_dim/total"]
            best = keeper.save_if_best(step, value)
            note = ", the best so far" if best else ""
            progress.note(f"step {step}: validation {value:.4f} bits/dim{note}")
        if due(step, training.checkpoint_every) or stop.requested:
            if not trainer.weights_are_finite():
                raise UserError(f"a weight is not finite at step {step}; {_REMEDY}")
            keeper.save(step)
        if due(step, training.images_every) and len(grid_images):
            writer.model_images(trainer.model, step, grid_images)
            writer.flush()
        log_time += time.monotonic() - pause  # the rate is that of training alone
        if stop.requested:
            break
    progress.close()
