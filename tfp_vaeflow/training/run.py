"""A whole run: its data, devices and directory, around the loop."""

import os
import sys
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfp_vaeflow import compute, data
from tfp_vaeflow.common import classes, files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ExperimentConfig, experiment
from tfp_vaeflow.config.model import check_enough_images
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.training.devices import (
    Share,
    make_strategy,
    noticing_lost_workers,
    run_directory,
    share_of,
)
from tfp_vaeflow.training.dry_run import dry_run as lines_of_dry_run
from tfp_vaeflow.training.loop import train
from tfp_vaeflow.training.plan import (
    plan,
    planned_bindings,
    planned_settings,
    steps_or_minutes,
)
from tfp_vaeflow.training.step import Trainer


def _order(model_dir: str, config, has_begun: bool):
    """Which label each class gets: as in this run, or in the run of `init_from`."""
    if has_begun:
        return classes.order_of(model_dir)
    if config.training.init_from and config.model.is_class_conditional:
        return classes.order_of(config.training.init_from)
    return classes.NATURAL


def _say_data(config, splits, strategy, share) -> None:
    workers = f" of {share.count} workers" if share.count > 1 else ""
    print(
        f"{files.printable(config.data.data_dir or config.data.name)}: "
        f"{splits.train.num_images} training, "
        f"{splits.validation.num_images} validation, {splits.test.num_images} test "
        f"images; {strategy.num_replicas_in_sync} device(s){workers}",
        flush=True,
    )
    if (names := splits.train.class_names) is not None:
        print(f"{len(names)} classes: {classes.listed(names)}", flush=True)


def _check_start(config: ExperimentConfig, splits: data.Splits) -> None:
    """Checks that a new run can set its first weights, before anything slow."""
    training = config.training
    if training.init_from is not None:
        checkpoints.check_description(training.init_from, config.model, must_exist=True)
    else:
        images = min(training.initialization_images, splits.train.num_images)
        check_enough_images(images, config.model.principal_components)


def _plan(
    config: ExperimentConfig,
    former: ExperimentConfig | None,
    splits: data.Splits,
    strategy: tf.distribute.Strategy,
    share: Share,
    begun: float,
) -> dict[str, int | float]:
    """The settings of a run with a time limit: those it has kept, or new ones."""
    minutes = config.training.minutes
    if former is not None and former.training.minutes == minutes:
        steps = former.training.num_steps
        print(f"planned when the run began: {steps:,} steps", flush=True)
        return planned_settings(former)
    if former is not None:
        raise UserError(
            f"TrainingConfig.minutes is {minutes:g}, and the run began with "
            f"{former.training.minutes}; a run is planned when it begins: expected the "
            "same minutes, or --num_steps, or another --model_dir"
        )
    if share.count > 1:
        raise UserError(
            f"TrainingConfig.minutes is {minutes:g} with {share.count} workers, which "
            "measure different times; take --num_steps"
        )
    print(f"measuring how many steps fit into {minutes:g} minutes", flush=True)
    settings, line = plan(config, splits, strategy, begun)
    print(line, flush=True)
    return settings


def run(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    model_dir: str,
    strategy: str = "auto",
    load_data: Callable[..., data.Splits] = data.load,
    profile_steps: tuple[int, int] | None = None,
    dry_run: bool = False,
    begun: float | None = None,
) -> Trainer | None:
    """Trains an experiment in its directory, or goes on there.

    Args:
      gin_files, bindings: of the experiment, see `experiment.load`.
      model_dir: of the run.
      strategy: the kind of devices, see `devices.make_strategy`.
      load_data: gives the data; arguments as of `data.load`.
      profile_steps: the first and the last step to profile; None for no profile.
      dry_run: whether to print what the run would cost, and nothing else.
      begun: the value of `time.monotonic()` from which `TrainingConfig.minutes` count;
        None for now.

    Returns:
      The trainer after its last step; None after a dry run.
    """
    begun = time.monotonic() if begun is None else begun
    has_begun = files.exists(os.path.join(model_dir, checkpoints.DESCRIPTION))
    former = None
    if has_begun and experiment.is_saved(model_dir):  # a converted model has none
        former = experiment.load_saved(model_dir)
    bindings = steps_or_minutes(bindings, former)
    config = experiment.load(gin_files, bindings)
    if (
        config.training.deterministic
        and compute.has_gpu()
        and not os.environ.get("TF_DETERMINISTIC_OPS")
    ):
        raise UserError(
            "TrainingConfig.deterministic is True, and TensorFlow has started without "
            "it; set TF_DETERMINISTIC_OPS=1 in the environment before Python starts"
        )
    checkpoints.check_description(model_dir, config.model)
    compute.tune_process(save_memory=config.training.recompute)
    devices = make_strategy(strategy, config.training.all_reduce)
    share = share_of(devices)
    if share.index:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the chief speaks for all)
    splits = load_data(config.data, config.model, _order(model_dir, config, has_begun))
    _say_data(config, splits, devices, share)
    if not has_begun:
        _check_start(config, splits)
    if config.training.minutes is not None:
        settings = _plan(config, former, splits, devices, share, begun)
        bindings = [*bindings, *planned_bindings(settings, bindings)]
        config = experiment.load(gin_files, bindings)
    if dry_run:
        for line in lines_of_dry_run(config, splits, devices):
            print(line, flush=True)
        return None
    with (
        noticing_lost_workers(share.count),
        run_directory(model_dir, share) as directory,
    ):
        for change in experiment.differences(former, config) if former else ():
            print(f"changed since the run was last started: {change}")
        if (names := splits.train.class_names) is not None:
            classes.write(directory, names)
        config_text = experiment.save(directory)
        return train(config, splits, devices, directory, config_text, profile_steps)
