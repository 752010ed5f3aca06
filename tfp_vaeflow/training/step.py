"""The training step: losses, gradients, and a complete update or none."""

import contextlib

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute, data
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.model import VAEFlow, build_model
from tfp_vaeflow.model.objective import Losses
from tfp_vaeflow.training.devices import check_even_share, share_of, split_over_replicas
from tfp_vaeflow.training.gradients import loss_and_gradients
from tfp_vaeflow.training.optimization import (
    AdamW,
    clipping_scale,
    global_norm,
    moving_average_decay,
    update_average,
)
from tfp_vaeflow.training.results import REMEDY, StepResult


class StepCounts(tf.Module):
    """Steps taken, and those among them that made no update; saved with the model."""

    def __init__(self):
        super().__init__(name="step_counts")
        self.taken, self.skipped, self.skipped_in_a_row = (
            tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                name=name,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for name in ("taken", "skipped", "skipped_in_a_row")
        )


class Trainer:
    """Model, optimizer and the steps that join them, on devices of one or more workers.

    A step's losses and gradients are those of the whole global batch, for any number of
    replicas and micro-batches. The noise of an example depends on its position in that
    batch, batch norm sees the whole batch, and gradients are summed before the
    optimizer sees them. If a loss term or the gradient is not finite, the step changes
    no weight, slot, average or batch-norm statistic. If there are several workers, each
    has a trainer and calls the same methods in the same order.

    Attributes:
      model: the trained model.
      average: a model with the moving average of the weights, or None.
      optimizer: holds the slots.
      counts: of the steps.
      images_at_a_time: images per device whose flow activations a step holds at once.
      share: the part of each batch that this worker reads.

    Args:
      config: the experiment.
      strategy: the devices.
    """

    def __init__(self, config: ExperimentConfig, strategy: tf.distribute.Strategy):
        training = config.training
        micro_batches = training.micro_batches
        check_even_share(
            strategy, training.batch_size, "TrainingConfig.batch_size", micro_batches
        )
        micro_batch = training.batch_size // micro_batches
        self._evaluation_batch_size = training.evaluation_batch_size or micro_batch
        check_even_share(
            strategy,
            self._evaluation_batch_size,
            "TrainingConfig.evaluation_batch_size",
            1,
        )
        self.images_at_a_time = micro_batch // strategy.num_replicas_in_sync
        self._config = config
        self._strategy = strategy
        self._has_replicas = strategy.num_replicas_in_sync > 1
        self.share = share_of(strategy)
        self.average = None
        self._compiled = _is_compiled(config, strategy.num_replicas_in_sync)
        self._graphs = compute.SharedGraphs()
        self._evaluation_graphs = compute.SharedGraphs()
        with strategy.scope():
            self.model = build_model(config.model, training.seed)
            if config.optimizer.ema_decay:
                self.average = build_model(config.model, training.seed)
            # After `build_model`, which turns it off.
            tf.config.experimental.enable_tensor_float_32_execution(training.allow_tf32)
            self.optimizer = AdamW(config.optimizer)
            # Keras cannot make the slots of plain variables in a replicated step.
            self.optimizer.build(self.model.trainable_variables)
            self.counts = StepCounts()

    @property
    def step(self) -> int:
        """The number of steps so far."""
        return int(self.counts.taken.numpy())

    @property
    def is_stopped(self) -> bool:
        """Whether the last step of the run was not made yet."""
        return self.step < self._config.training.num_steps

    @property
    def evaluated(self) -> VAEFlow:
        """The model to measure and to show: the average where there is one."""
        return self.model if self.average is None else self.average

    @property
    def state(self) -> dict[str, tf.Module]:
        """The objects that a checkpoint has to hold, by name."""
        state = {
            "model": self.model,
            "optimizer": self.optimizer,
            "counts": self.counts,
        }
        return state if self.average is None else {**state, "average": self.average}

    def initialize(self, split: data.Split) -> None:
        """Data-dependent initialisation on the first training images."""
        images = split.first(self._config.training.initialization_images)
        if images.shape[-1] == 3 and (images == images[..., :1]).all():
            # Three equal channels have no density: the likelihood starts very low.
            print(
                "the pictures are grey, and the model has three channels; take one: "
                "ModelConfig.image_shape = (height, width, 1), FlowConfig.num_steps "
                "with 0 in the first place",
                flush=True,
            )
        labels = None
        if self.model.config.is_class_conditional:
            labels = split.labels[: len(images)]
        self.model.initialize(
            images, self._config.training.seed, labels, self.images_at_a_time
        )
        self.start_average()

    def start_average(self) -> None:
        """Sets the average to the current weights."""
        if self.average is not None:
            for average, variable in zip(self.average.variables, self.model.variables):
                average.assign(variable)

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables of `state`."""
        parts = [self.model, self.average, self.counts]
        variables = [v for part in parts if part is not None for v in part.variables]
        # Keras' own variables wrap TensorFlow's.
        return variables + [variable.value for variable in self.optimizer.variables]

    def training_batches(self, split: data.Split, first_step: int) -> tf.data.Dataset:
        """This worker's share of the batches from step `first_step` on."""
        return data.training_batches(
            split,
            self._config.data,
            self._config.training.batch_size,
            self._config.training.seed,
            first_step,
            self.model.config.is_class_conditional,
            self.share,
        )

    def train_step(self, batch: data.Batch, stop_requested: bool = False) -> StepResult:
        """One step on a global batch.

        Args:
          batch: this worker's share of it.
          stop_requested: whether this worker was asked to stop; all workers see it.

        Raises:
          UserError: if a matrix of the flow is no longer invertible.
        """
        try:
            return self._train_step(*self._step_arguments(batch, stop_requested))
        except tf.errors.InvalidArgumentError as error:
            if "not invertible" not in error.message:
                raise
            raise UserError(
                f"at step {self.step + 1} the matrix of a 1x1 convolution is not "
                f"invertible; {REMEDY}"
            ) from error

    def prepare(self, splits: data.Splits) -> None:
        """Traces a step and validation, if XLA compiles them.

        XLA's cache finds compiled functions by their names, and these contain the
        number of graphs traced before. So these two have to be traced first, in a new
        run and in a resumed one.
        """
        if not self._compiled:
            return
        self.graph(_example_of(self.training_batches(splits.train, 0)))
        if splits.validation.num_images:
            batch = _example_of(self._evaluation_batches(splits.validation))
            batch = split_over_replicas(self._strategy, batch)
            self._evaluation_step.get_concrete_function(batch, 1)

    def graph(self, batch: data.Batch) -> tf.Graph:
        """The graph of a step on a batch like this."""
        arguments = self._step_arguments(batch, False)
        return self._train_step.get_concrete_function(*arguments).graph

    def program(self, batch: data.Batch, stage: str = "optimized_hlo") -> str | bytes:
        """XLA's program of a step on a batch like this, on one device: HLO.

        Args:
          batch: see above.
          stage: `optimized_hlo`, a text that takes as long as compiling the step does;
            or `hlo_serialized`, what XLA starts from.
        """
        step = compute.compiled(self._step_on_replica)
        program = step.experimental_get_compiler_ir(batch, tf.constant(0.0))
        return program(stage=stage)

    def _step_arguments(self, batch: data.Batch, stop_requested: bool):
        batch = split_over_replicas(self._strategy, batch)
        return batch, tf.constant(float(stop_requested))

    def weights_are_finite(self) -> bool:
        """Whether every weight is a finite number, so worth saving."""
        return bool(self._weights_are_finite())

    @tf.function
    def _weights_are_finite(self) -> tf.Tensor:
        checks = [tf.math.is_finite(v) for v in self.model.trainable_variables]
        return tf.reduce_all([tf.reduce_all(check) for check in checks])

    # Without AutoGraph, which has nothing to convert here and is slow.
    @tf.function(autograph=False)
    def _train_step(self, batch: data.Batch, stop_request: tf.Tensor) -> StepResult:
        step = self._step_on_replica
        if self._compiled and not self._has_replicas:
            step = compute.compiled(step)
        results = self._strategy.run(step, [batch, stop_request])
        # They are the same on every replica.
        return tf.nest.map_structure(
            lambda result: self._strategy.experimental_local_results(result)[0], results
        )

    def _step_on_replica(self, batch: data.Batch, stop_request: tf.Tensor):
        """The step on a replica's share of the batch, together with the others."""
        with self._mode_of_step():
            # The forward pass changes the statistics of batch norm.
            before = [tf.identity(v) for v in self.model.non_trainable_variables]
            taken = tf.identity(self.counts.taken)
            inputs = self.model, self._config, batch, taken
            if self._compiled and self._has_replicas:
                losses, gradients = loss_and_gradients(*inputs, compute.compiled)
            else:
                losses, gradients = loss_and_gradients(*inputs)
            # `tf.identity` puts the request on the replica's device.
            losses, gradients, stop_requests = compute.summed_over_replicas(
                [losses, gradients, tf.identity(stop_request)]
            )
            norm = global_norm(gradients)
            made = tf.math.is_finite(norm) & tf.reduce_all(tf.math.is_finite(losses))
            self._update_if(made, gradients, norm, before)
            counts = self.counts.skipped_in_a_row, self.counts.skipped
            return StepResult(losses, norm, *map(tf.identity, counts), stop_requests)

    @contextlib.contextmanager
    def _mode_of_step(self):
        training = self._config.training
        mode = {
            "mixed_precision": training.mixed_precision,
            "recompute": training.recompute,
        }
        if self._compiled or compute.mode().compiled:
            with compute.using(**mode):  # XLA crashes on operations without traces
                yield
        else:
            with (
                compute.WithoutStackTraces(),
                compute.using(graphs=self._graphs, **mode),
            ):
                yield

    def _update_if(self, made: tf.Tensor, gradients, norm: tf.Tensor, before) -> None:
        """Makes the step's update, or changes nothing but the counts.

        Args:
          made: whether to make the update.
          gradients: with respect to the trainable variables.
          norm: of the gradient.
          before: the values of the other variables before the step.
        """
        config, counts = self._config.optimizer, self.counts
        updates = tf.identity(self.optimizer.iterations)
        scale = clipping_scale(norm, config.clip_norm) if config.clip_norm else 1.0
        self.optimizer.apply_if(made, gradients, self.model.trainable_variables, scale)
        for variable, value in zip(self.model.non_trainable_variables, before):
            compute.assign_on_replica(variable, tf.where(made, variable, value))
        if self.average is not None:
            rate = 1 - moving_average_decay(config.ema_decay, updates)
            update_average(
                self.average.variables, self.model.variables, tf.where(made, rate, 0.0)
            )
        skipped = tf.cast(~made, tf.int64)
        counts.skipped.assign_add(skipped)
        counts.skipped_in_a_row.assign((counts.skipped_in_a_row + skipped) * skipped)
        counts.taken.assign_add(1)

    def _sum(self, values):
        return [
            self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for value in values
        ]

    @tf.function
    def _evaluation_step(self, batch: data.Batch, num_samples: int):
        seed = noise.fold_in(self._config.training.seed, int(Stream.VALIDATION))

        def losses_of(images, first, labels):
            return self.evaluated.losses_batch(images, seed, first, num_samples, labels)

        def replica_step(batch):
            inputs = batch.images, batch.positions[0], batch.labels
            if self._compiled:
                losses = compute.compiled(losses_of)(*inputs)
            else:
                with (
                    compute.WithoutStackTraces(),
                    compute.using(graphs=self._evaluation_graphs),
                ):
                    losses = losses_of(*inputs)
            sums = [tf.reduce_sum(batch.weights * term) for term in losses]
            return sums, losses.total, batch.weights

        sums, totals, weights = self._strategy.run(replica_step, [batch])
        local = self._strategy.experimental_local_results
        return self._sum(sums), *(tf.concat(local(one), 0) for one in (totals, weights))

    def _evaluation_batches(self, split: data.Split) -> tf.data.Dataset:
        return data.evaluation_batches(
            split,
            self._evaluation_batch_size,
            self.model.config.is_class_conditional,
            self.share,
        )

    def evaluate(
        self, split: data.Split, num_samples: int = 1
    ) -> tuple[Losses, np.ndarray]:
        """The loss terms over a split; every image counts once.

        Returns:
          Their means; and the total of each image that this worker has read, `[N]`.
        """
        sums, totals = np.zeros(len(Losses._fields)), []
        for batch in self._evaluation_batches(split):
            batch = split_over_replicas(self._strategy, batch)
            found, total, weights = self._evaluation_step(batch, num_samples)
            sums += np.array(found, np.float64)
            totals.append(total[weights > 0].numpy())
        return Losses(*(sums / split.num_images)), np.concatenate(totals)


def _example_of(batches: tf.data.Dataset) -> data.Batch:
    """A batch of zeros, with the shapes of these batches."""
    return tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), batches.element_spec
    )


def _is_compiled(config: ExperimentConfig, num_replicas: int) -> bool:
    """Whether XLA compiles the step.

    Raises:
      UserError: if compilation is asked for and is not possible.
    """
    asked = config.training.jit_compile
    if asked is None and not compute.has_gpu():
        return False
    if asked is not False and num_replicas > 1 and config.has_batch_norm_in_flow:
        reason = (
            f"FlowConfig.norm = 'batch' on {num_replicas} devices, which exchange "
            "statistics in each coupling"
        )
        if asked:
            raise UserError(
                f"TrainingConfig.jit_compile is True with {reason}; expected None or "
                "False, another norm, or one device"
            )
        print(f"the step is not compiled by XLA, because of {reason}", flush=True)
        return False
    return asked is not False
