"""Trains a model: python -m tfp_vaeflow.train --gin_file=FILE --model_dir=DIR

The same command, given again, continues from the last checkpoint. Ctrl-C or SIGTERM
saves and exits with code 42. Losses go to TensorBoard (tensorboard --logdir=DIR) and
DIR/metrics.jsonl, image grids to DIR/images. For several machines see docs/clusters.md,
for several processes on this one tools/launch_local.py.
"""

import os
import sys
import time

from absl import flags

from tfp_vaeflow import command

command.define_paths(
    "gin_file",
    "Experiment file, such as gin/digits.gin; later files override earlier ones.",
)
command.define_model_dir("Directory of the run, for everything that it writes.")
command.define_bindings()
command.define_path("data_dir", "Short for DataConfig.data_dir.")
flags.DEFINE_integer(
    "num_steps", None, "Short for TrainingConfig.num_steps, without a time limit."
)
flags.DEFINE_float(
    "minutes",
    None,
    "Short for TrainingConfig.minutes: measures a step, and plans a run of so many "
    "minutes.",
)
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

_BEGUN = time.monotonic()
STOPPED = 42  # exit code: saved, to be started again
_SHORT_CUTS = {
    "data_dir": "DataConfig.data_dir",
    "num_steps": "TrainingConfig.num_steps",
    "minutes": "TrainingConfig.minutes",
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


def _config():
    """The experiment that the flags name; gin keeps it until the next is read."""
    from tfp_vaeflow.config import experiment

    return experiment.load(command.FLAGS.gin_file, command.bindings_with(_SHORT_CUTS))


def _train() -> None:
    from tfp_vaeflow import training
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if flag.minutes is not None and flag.num_steps is not None:
        raise UserError("--minutes and --num_steps are given; expected one of them")
    trainer = training.run(
        flag.gin_file,
        command.bindings_with(_SHORT_CUTS),
        flag.model_dir,
        flag.strategy,
        profile_steps=_profile_steps(),
        dry_run=flag.dry_run,
        begun=_BEGUN,
    )
    if trainer is None:  # a dry run
        return
    if trainer.is_stopped:
        print(
            f"stopped and saved at step {trainer.step}; start the same command again "
            "to go on"
        )
        sys.exit(STOPPED)
    print(f"trained to step {trainer.step}; everything lies in {flag.model_dir}")
    print(f"look at it:  tensorboard --logdir={flag.model_dir}")
    print(f"measure it:  python -m tfp_vaeflow.evaluate --model_dir={flag.model_dir}")


if __name__ == "__main__":
    command.run_main(main, __doc__, with_tensorflow=False)
