"""Trains a model: python -m tfp_vaeflow.train --gin_file=FILE --model_dir=DIR

The same command again goes on from the last checkpoint; Ctrl-C or SIGTERM saves and
exits with code 42. Losses go to TensorBoard
(tensorboard --logdir=DIR) and DIR/metrics.jsonl, image grids to DIR/images.
"""

import sys

from absl import flags

from tfp_vaeflow import command

flags.DEFINE_multi_string(
    "gin_file",
    None,
    "Experiment file, such as gin/digits.gin; several override one another.",
    required=True,
)
command.define_model_dir("Directory of the run; takes everything that it writes.")
command.define_bindings()
flags.DEFINE_string("data_dir", None, "Short for DataConfig.data_dir.")
flags.DEFINE_integer("num_steps", None, "Short for TrainingConfig.num_steps.")
flags.DEFINE_integer("seed", None, "Short for TrainingConfig.seed.")

flags.DEFINE_string("init_from", None, "Short for TrainingConfig.init_from.")
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

STOPPED = 42  # exit code: saved, start me again
_SHORT_CUTS = {
    "data_dir": "DataConfig.data_dir",
    "num_steps": "TrainingConfig.num_steps",
    "seed": "TrainingConfig.seed",
    "init_from": "TrainingConfig.init_from",
}


def _profile_steps() -> tuple[int, int] | None:
    from tfp_vaeflow.errors import UserError

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


def main() -> None:
    from tfp_vaeflow import checkpoints, data, experiment, trainer
    from tfp_vaeflow.distribution import locked, make_strategy, tune_process

    flag = command.FLAGS
    model_dir = flag.model_dir
    profile_steps = _profile_steps()
    former = (
        experiment.load_saved(model_dir) if experiment.is_saved(model_dir) else None
    )
    config = experiment.load(flag.gin_file, command.bindings_with(_SHORT_CUTS))
    checkpoints.check_description(model_dir, config.model)
    splits = data.load(config.data, config.model)
    tune_process(save_memory=config.training.recompute)
    strategy = make_strategy()
    print(
        f"{config.data.data_dir or config.data.name}: "
        f"{splits.train.num_images} training, "
        f"{splits.validation.num_images} validation, {splits.test.num_images} test "
        f"images; {strategy.num_replicas_in_sync} device(s)",
        flush=True,
    )
    if flag.dry_run:
        for line in trainer.dry_run(config, splits, strategy):
            print(line, flush=True)
        return
    with locked(model_dir):
        for change in experiment.differences(former, config) if former else ():
            print(f"changed since the run was last started: {change}")
        config_text = experiment.save(model_dir)
        result = trainer.train(
            config, splits, strategy, model_dir, config_text, profile_steps
        )
    if result.step < config.training.num_steps:
        print(f"stopped and saved at step {result.step}; the same command goes on")
        sys.exit(STOPPED)
    print(f"trained to step {result.step}; everything lies in {model_dir}")
    print(f"look at it:  tensorboard --logdir={model_dir}")
    print(f"measure it:  python -m tfp_vaeflow.evaluate --model_dir={model_dir}")


if __name__ == "__main__":
    command.run_main(main, __doc__)
