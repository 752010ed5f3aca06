"""A run that ends after so many minutes: the steps that fit, and their schedule."""

import math
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ExperimentConfig, experiment
from tfp_vaeflow.training.loop import Shown
from tfp_vaeflow.training.step import Trainer
from tfp_vaeflow.training.summaries import RunWriter

_STEPS, _MINUTES = "TrainingConfig.num_steps", "TrainingConfig.minutes"
# How often each of these comes in a planned run, at least.
_TIMES = {
    "log_every": 20,
    "evaluate_every": 10,
    "checkpoint_every": 10,
    "images_every": 2,
}
_LAST_RATE = 0.01  # the learning rate of the last step, in parts of the highest one
_WARMUP = 0.1  # the most steps of warm-up, in parts of all steps
_LEAST_STEPS = 20
_MEASURED, _LEAST_MEASURED = 0.03, 5  # the part of the time, and the steps, to measure


def planned_settings(config: ExperimentConfig) -> dict[str, int | float]:
    """The settings of an experiment that a plan decides, by their names in gin."""
    parts = {"TrainingConfig": config.training, "OptimizerConfig": config.optimizer}
    names = [f"TrainingConfig.{name}" for name in ("num_steps", *_TIMES)]
    names += ["OptimizerConfig.warmup_steps", "OptimizerConfig.decay"]
    split = [name.split(".") for name in names]
    return {f"{part}.{name}": getattr(parts[part], name) for part, name in split}


def settings_for(config: ExperimentConfig, num_steps: int) -> dict[str, int | float]:
    """The settings of a run of so many steps.

    After at most a tenth of the steps for warm-up, the learning rate falls to a
    hundredth: decay = 0.01^(1 / (num_steps - warmup_steps)).
    """
    settings = planned_settings(config)
    for name, times in _TIMES.items():
        # 0 stays: there are no pictures then.
        every = min(getattr(config.training, name), max(1, num_steps // times))
        settings[f"TrainingConfig.{name}"] = every
    warmup = min(config.optimizer.warmup_steps, int(_WARMUP * num_steps))
    falling = max(1, num_steps - warmup)
    return settings | {
        "TrainingConfig.num_steps": num_steps,
        "OptimizerConfig.warmup_steps": warmup,
        "OptimizerConfig.decay": math.exp(math.log(_LAST_RATE) / falling),
    }


def steps_or_minutes(
    bindings: Sequence[str], former: ExperimentConfig | None
) -> list[str]:
    """Bindings in which a number of steps takes the place of an earlier time limit.

    A run that was planned keeps its limit, and so its schedule, up to the new step.
    """
    names = [
        name for name in experiment.names_in(bindings) if name in (_STEPS, _MINUTES)
    ]
    if not names or names[-1] == _MINUTES:
        return list(bindings)
    minutes = None if former is None else former.training.minutes
    return [*bindings, f"{_MINUTES} = {minutes!r}"]


def planned_bindings(
    settings: dict[str, int | float], bindings: Sequence[str]
) -> list[str]:
    """Bindings for planned settings, except for those that the user's bindings set."""
    own = experiment.names_in(bindings)
    return [
        f"{name} = {value!r}" for name, value in settings.items() if name not in own
    ]


def _seconds(function) -> float:
    start = time.monotonic()
    function()
    return time.monotonic() - start


def plan(
    config: ExperimentConfig,
    splits: data.Splits,
    strategy: tf.distribute.Strategy,
    begun: float,
) -> tuple[dict[str, int | float], str]:
    """Measures a step and validation, and divides `TrainingConfig.minutes` up.

    Nothing of the measured training is kept.

    Args:
      config: the experiment.
      splits: its data.
      strategy: the devices.
      begun: the value of `time.monotonic()` from which the minutes count.

    Returns:
      The settings that end the run in time, by their names in gin; and a line that says
      what was planned.

    Raises:
      UserError: if the time is too short for a few steps.
    """
    budget = 60 * config.training.minutes
    start = time.monotonic()
    trainer = Trainer(config, strategy)
    per_step, measured = _step_seconds(trainer, splits, _MEASURED * budget)
    per_validation = _validation_seconds(trainer, splits.validation)
    startup = time.monotonic() - start - measured
    per_picture = 0.0
    if config.training.images_every:
        per_picture = _seconds(lambda: _show(trainer, splits, config))
    left = budget - (time.monotonic() - begun) - startup

    def duration(num_steps):
        training = settings_for(config, num_steps)
        validations, pictures = (
            -(-num_steps // every) if every else 0
            for every in (
                training["TrainingConfig.evaluate_every"],
                training["TrainingConfig.images_every"],
            )
        )
        return (
            num_steps * per_step + validations * per_validation + pictures * per_picture
        )

    num_steps = int(left / per_step)
    while num_steps >= _LEAST_STEPS and duration(num_steps) > left:
        num_steps = int(0.99 * num_steps)
    if num_steps < _LEAST_STEPS:
        least = (budget - left + duration(_LEAST_STEPS)) / 60
        raise UserError(
            f"TrainingConfig.minutes is {config.training.minutes:g}; starting takes "
            f"{budget - left:.0f} s, and a step {per_step:.2g} s: expected at least "
            f"{math.ceil(10 * least) / 10:g} for {_LEAST_STEPS} steps, or --num_steps"
        )
    settings = settings_for(config, num_steps)
    epochs = num_steps * config.training.batch_size / splits.train.num_images
    line = (
        f"a step takes {per_step:.3g} s: {num_steps:,} steps ({epochs:.3g} epochs) in "
        f"{config.training.minutes:g} minutes; the learning rate falls from "
        f"{config.optimizer.learning_rate:g} to a hundredth"
    )
    return settings, line


def _step_seconds(
    trainer: Trainer, splits: data.Splits, seconds: float
) -> tuple[float, float]:
    """The mean time of steps within so many seconds, and the time of all of them."""
    batches = iter(trainer.training_batches(splits.train, 0))

    def step():
        trainer.train_step(next(batches)).losses.generation.numpy()

    step()  # traces
    start, count, passed = time.monotonic(), 0, 0.0
    while count < _LEAST_MEASURED or passed < seconds:
        step()
        count, passed = count + 1, time.monotonic() - start
    return passed / count, passed


def _show(trainer: Trainer, splits: data.Splits, config: ExperimentConfig) -> None:
    """Writes the pictures of a step to a directory that is then removed."""
    with tempfile.TemporaryDirectory(prefix="tfp_vaeflow-") as directory:
        writer = RunWriter(directory, 0)
        Shown.of(splits, config).write(writer, trainer, 0)
        writer.close()


def _validation_seconds(trainer: Trainer, split: data.Split) -> float:
    """The time of one validation, by that of its first images."""
    if not split.num_images:
        return 0.0
    count = min(4 * trainer.images_at_a_time, split.num_images)
    some = split.subset(np.arange(count))
    trainer.evaluate(some)  # traces
    return _seconds(lambda: trainer.evaluate(some)) * split.num_images / count
