"""The cost of a run, before it begins."""

import time
from collections.abc import Iterator

import tensorflow as tf

from tfp_vaeflow import data
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.training.cost import costs
from tfp_vaeflow.training.step import Trainer

_BYTES = 4  # of a float32


def _sizes(trainer: Trainer, config: ExperimentConfig, replicas: int) -> Iterator[str]:
    training = config.training
    counts = trainer.model.parameter_counts()
    for part, count in counts.items():
        yield f"{part + ' parameters':<28}{count:>14,}"
    parts = costs(trainer.model, config.objective.num_samples)
    flops = sum(cost.flops for cost in parts.values())
    yield f"{'FLOPs per image, forward':<28}{flops:>14,.0f}"
    yield f"{'FLOPs per image, training':<28}{3 * flops:>14,.0f}"
    # Weights, gradients and AdamW's two moments; sums of gradients; the average.
    copies = 4 + (training.micro_batches > 1) + (trainer.average is not None)
    fixed = copies * _BYTES * counts["total"]
    share = training.batch_size // replicas
    kept = parts["statistics"].activation_bytes * share
    kept += parts["losses"].activation_bytes * (share // training.micro_batches)
    # The memory that recomputation saves is not known here.
    about = "at most" if training.recompute else "estimated"
    for name, size in (
        ("weights and optimizer", fixed),
        (f"activations, {about}", kept),
        (f"memory per device, {about}", fixed + kept),
    ):
        yield f"{name:<28}{size / 2**20:>11,.1f} MB"


def dry_run(
    config: ExperimentConfig, splits: data.Splits, strategy: tf.distribute.Strategy
) -> Iterator[str]:
    """Measures an experiment without writing anything; runs two steps to time them.

    The memory is that of variables, gradients and activations kept for the gradient,
    read off the traced graph. The libraries and single operations need some memory on
    top of that.

    Args:
      config: the experiment.
      splits: its data.
      strategy: the devices.

    Yields:
      Lines to print, each as soon as it is known.
    """
    trainer = Trainer(config, strategy)
    yield from _sizes(trainer, config, strategy.num_replicas_in_sync)
    training = config.training
    batches = trainer.training_batches(splits.train, 0)
    names = ("first step, with tracing", "one step")
    for name, batch in zip(names, batches):
        start = time.monotonic()
        trainer.train_step(batch).losses.generation.numpy()
        seconds = time.monotonic() - start
        yield f"{name:<28}{seconds:>12,.2f} s"
    yield f"{'images per second':<28}{training.batch_size / seconds:>14,.1f}"
