"""Trains a model: python -m tfp_vaeflow.train --gin_file=FILE --model_dir=DIR

The same command, given again, continues from the last checkpoint. Ctrl-C or SIGTERM
saves and exits with code 42. Losses go to TensorBoard (tensorboard --logdir=DIR) and
DIR/metrics.jsonl, image grids to DIR/images. For several machines see docs/clusters.md,
for several processes on this one tools/launch_local.py.
"""

import os
import sys

from absl import flags

from tfp_vaeflow import command

command.define_paths(
    "gin_file",
    "Experiment file, such as gin/digits.gin; later files override earlier ones.",
)
command.define_model_dir("Directory of the run, for everything that it writes.")
command.define_bindings()
command.define_path("data_dir", "Short for DataConfig.data_dir.")
flags.DEFINE_integer("num_steps", None, "Short for TrainingConfig.num_steps.")
flags.DEFINE_integer("seed", None, "Short for TrainingConfig.seed.")

command.define_path("init_from", "Short for TrainingConfig.init_from.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Only print what the run would cost: parameters, FLOPs, memory, time of a step.",
)

flags.DEFINE_list(
    "profile_steps",
    None,
    "First and last step to profile, such as 10,20; for TensorBoard's profile plugin.",
)

flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one_device", "mirrored", "multi_worker", "tpu"],
    "What to train on; auto: the workers that TF_CONFIG or SLURM names if there are "
    "several, else a TPU, else all GPUs, else the CPU.",
)

STOPPED = 42  # exit code: saved, to be started again
_SHORT_CUTS = {
    "data_dir": "DataConfig.data_dir",
    "num_steps": "TrainingConfig.num_steps",
    "seed": "TrainingConfig.seed",
    "init_from": "TrainingConfig.init_from",
}


def _profile_steps() -> tuple[int, int] | None:
    from tfp_vaeflow.common.errors import UserError

    value = command.FLAGS.profile_steps
    if value is None:
        return None
    if len(value) != 2 or not all(word.strip().isdecimal() for word in value):
        given = ",".join(value)
        raise UserError(f"--profile_steps is {given}; expected two steps, as 10,20")
    first, last = map(int, value)
    if not 1 <= first <= last:
        raise UserError(
            f"--profile_steps is {first},{last}; expected the first step, from 1 on, "
            "and then the last"
        )
    return first, last


def _lost(model_dir: str) -> None:
    """Ends this worker after another was lost: a lost worker cannot join again."""
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.model import checkpoints

    try:
        where = f"from step {checkpoints.last_step(model_dir)}"
    except UserError:  # none yet, or none that this worker can see
        where = "from the last checkpoint"
    print(
        f"a worker was lost: start all workers again; the run goes on {where}",
        file=sys.stderr,
        flush=True,
    )
    # TensorFlow would wait for the lost worker, or abort, at a regular end.
    os._exit(STOPPED)


def main() -> None:
    # Read first: it says how to start TensorFlow, and its errors should show at once.
    deterministic = _config().training.deterministic
    command.start_tensorflow(deterministic=deterministic)

    from tfp_vaeflow.training.devices import WorkerLostError

    try:
        _train()
    except WorkerLostError:
        _lost(command.FLAGS.model_dir)


def _order(model_dir: str, config):
    """Which label each class gets: as in this run, or in the run of `init_from`."""
    from tfp_vaeflow.common import classes, files
    from tfp_vaeflow.model import checkpoints

    if files.exists(os.path.join(model_dir, checkpoints.DESCRIPTION)):
        return classes.order_of(model_dir)
    if config.training.init_from and config.model.is_class_conditional:
        return classes.order_of(config.training.init_from)
    return classes.NATURAL


def _config():
    """The experiment that the flags name; gin keeps it until the next is read."""
    from tfp_vaeflow.config import experiment

    bindings = command.bindings_with(_SHORT_CUTS)
    return experiment.load(command.FLAGS.gin_file, bindings)


def _train() -> None:
    from tfp_vaeflow import compute, data, training
    from tfp_vaeflow.common import classes, files
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.training.devices import (
        make_strategy,
        noticing_lost_workers,
        run_directory,
        share_of,
    )

    flag = command.FLAGS
    model_dir = flag.model_dir
    profile_steps = _profile_steps()
    former = (
        experiment.load_saved(model_dir) if experiment.is_saved(model_dir) else None
    )
    config = _config()
    checkpoints.check_description(model_dir, config.model)
    compute.tune_process(save_memory=config.training.recompute)
    strategy = make_strategy(flag.strategy, config.training.all_reduce)
    share = share_of(strategy)
    if share.index:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the chief speaks for all)
    splits = data.load(config.data, config.model, _order(model_dir, config))
    names = splits.train.class_names
    workers = f" of {share.count} workers" if share.count > 1 else ""
    print(
        f"{files.printable(config.data.data_dir or config.data.name)}: "
        f"{splits.train.num_images} training, "
        f"{splits.validation.num_images} validation, {splits.test.num_images} test "
        f"images; {strategy.num_replicas_in_sync} device(s){workers}",
        flush=True,
    )
    if names is not None:
        print(f"{len(names)} classes: {classes.listed(names)}", flush=True)
    if flag.dry_run:
        for line in training.dry_run(config, splits, strategy):
            print(line, flush=True)
        return
    with (
        noticing_lost_workers(share.count),
        run_directory(model_dir, share) as directory,
    ):
        for change in experiment.differences(former, config) if former else ():
            print(f"changed since the run was last started: {change}")
        if names is not None:
            classes.write(directory, names)
        config_text = experiment.save(directory)
        result = training.train(
            config, splits, strategy, directory, config_text, profile_steps
        )
    if result.step < config.training.num_steps:
        print(
            f"stopped and saved at step {result.step}; start the same command again to "
            "go on"
        )
        sys.exit(STOPPED)
    print(f"trained to step {result.step}; everything lies in {model_dir}")
    print(f"look at it:  tensorboard --logdir={model_dir}")
    print(f"measure it:  python -m tfp_vaeflow.evaluate --model_dir={model_dir}")


if __name__ == "__main__":
    command.run_main(main, __doc__, with_tensorflow=False)
