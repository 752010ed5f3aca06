"""A run with a time limit, by the command: planned once, ended at its last step."""

import re

import pytest

from testing import TINY, tiny_experiment
from tfp_vaeflow.config import OptimizerConfig, experiment
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.training import plan
from tfp_vaeflow.training.optimization import WarmupThenDecay


@pytest.mark.parametrize("num_steps", [20, 1000])
def test_the_schedule_ends_at_a_hundredth(num_steps):
    config = tiny_experiment()
    settings = plan.settings_for(config, num_steps)
    optimizer = {
        name.partition(".")[2]: value
        for name, value in settings.items()
        if name.startswith("OptimizerConfig")
    }
    planned = OptimizerConfig(learning_rate=0.5, **optimizer)
    rates = WarmupThenDecay(planned)
    assert float(rates(num_steps)) == pytest.approx(0.005, rel=1e-4)
    assert float(rates(planned.warmup_steps)) == pytest.approx(0.5)
    assert planned.warmup_steps <= num_steps / 10
    assert settings["TrainingConfig.num_steps"] == num_steps
    assert 1 <= settings["TrainingConfig.evaluate_every"] <= num_steps / 10


@pytest.fixture
def train(run, tmp_path):
    """Runs `train` on the tiny digits, in the directory `run`."""

    def start(*arguments):
        bindings = [*TINY, "TrainingConfig.images_every=0"]
        return run(
            "train",
            "--gin_file=gin/digits.gin",
            f"--model_dir={tmp_path}/run",
            *(f"--gin_bindings={binding}" for binding in bindings),
            *arguments,
            cwd=tmp_path,
        )

    return start


@pytest.mark.slow
def test_a_planned_run(train, tmp_path):
    done = train("--minutes=1.5")
    assert done.returncode == 0, done.stderr
    said = re.search(r"a step takes .* s: ([0-9,]+) steps .* in 1.5 minu", done.stdout)
    num_steps = int(said[1].replace(",", ""))
    assert f"trained to step {num_steps};" in done.stdout
    kept = experiment.load_saved(tmp_path / "run")
    assert kept.training.num_steps == num_steps and kept.training.minutes == 1.5
    assert plan.planned_settings(kept) == plan.settings_for(kept, num_steps)
    again = train("--minutes=1.5")
    assert f"planned when the run began: {num_steps:,} steps" in again.stdout
    assert f"trained to step {num_steps};" in again.stdout
    assert "changed since" not in again.stdout


def test_a_run_goes_on_by_its_plan(train, tmp_path):
    (tmp_path / "run").mkdir()
    planned = ["TrainingConfig.minutes = 0.5", "TrainingConfig.num_steps = 12"]
    planned.append("OptimizerConfig.decay = 0.75")
    config = experiment.load(["gin/digits.gin"], [*TINY, *planned])
    experiment.save(tmp_path / "run")
    checkpoints.write_description(tmp_path / "run", config.model)
    done = train("--minutes=0.5")
    assert "planned when the run began: 12 steps" in done.stdout
    assert "trained to step 12;" in done.stdout, done.stderr
    assert "the other 2 steps take" in done.stdout
    other = train("--minutes=1")
    assert other.returncode == 2
    assert "TrainingConfig.minutes is 1, and the run began with 0.5" in other.stderr
    both = train("--minutes=1", "--num_steps=5")
    assert "--minutes and --num_steps are given" in both.stderr
    bound = "--gin_bindings=TrainingConfig.minutes=1"
    warmup = "--gin_bindings=OptimizerConfig.warmup_steps=3"
    by_steps = train(bound, warmup, "--num_steps=13")  # later than the minutes
    assert "TrainingConfig.num_steps: 12 -> 13" in by_steps.stdout
    assert "OptimizerConfig.decay" not in by_steps.stdout  # the rate does not jump up
    assert "OptimizerConfig.warmup_steps: 50 -> 3" in by_steps.stdout
    assert "trained to step 13;" in by_steps.stdout, by_steps.stderr
    kept = experiment.load_saved(tmp_path / "run")
    assert kept.training.minutes == 0.5 and kept.optimizer.decay == 0.75


def test_too_little_time(train, tmp_path):
    done = train("--minutes=0.01")
    assert done.returncode == 2
    assert re.search(
        r"minutes is 0.01; starting takes .* expected at least", done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_the_later_of_steps_and_minutes_decides():
    steps, minutes = "TrainingConfig.num_steps = 9", "TrainingConfig.minutes = 3"
    planned = experiment.load(["gin/digits.gin"], [minutes])
    unlimited = "TrainingConfig.minutes = None"
    of = plan.steps_or_minutes
    assert of([], None) == [] and of([steps, minutes], None) == [steps, minutes]
    assert of([minutes, steps], None) == [minutes, steps, unlimited]
    assert of([steps], planned) == [steps, "TrainingConfig.minutes = 3"]


def test_a_binding_comes_before_the_plan():
    bindings = ["TrainingConfig.minutes = 1\nrun.OptimizerConfig.decay=0.5", "# a=1"]
    names = ["TrainingConfig.minutes", "OptimizerConfig.decay"]
    assert experiment.names_in(bindings) == names
    settings = {"OptimizerConfig.decay": 0.9, "TrainingConfig.num_steps": 4}
    found = plan.planned_bindings(settings, bindings)
    assert found == ["TrainingConfig.num_steps = 4"]
