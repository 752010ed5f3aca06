"""The training step and loop, on the digits."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import data, trainer
from tfp_vaeflow.checkpoints import read_description, write_description
from tfp_vaeflow.distribution import make_strategy
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.objective import Losses

ONE = ["CPU:0"]
TWO = ["CPU:0", "CPU:1"]


def experiment(**training) -> cfg.ExperimentConfig:
    model = tiny_model_config(
        image_shape=(8, 8, 1),
        n_bins=17,
        flow=cfg.FlowConfig(num_steps=[0, [1], 1], hidden=[8, 8, 8], factors=[4]),
        encoder=cfg.EncoderConfig([4], 2),
    )
    settings = {
        "batch_size": 16,
        "num_steps": 20,
        "initialization_images": 128,
        "log_every": 5,
        "evaluate_every": 10,
        "checkpoint_every": 10,
        "images_every": 20,
        "evaluation_batch_size": 100,
        "seed": 3,
    }
    return cfg.ExperimentConfig(
        model=model,
        data=cfg.DataConfig("digits", shift=1, shift_fill="constant"),
        objective=cfg.ObjectiveConfig(free_nats=2.0),
        optimizer=cfg.OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        training=cfg.TrainingConfig(**{**settings, **training}),
    )


@pytest.fixture(scope="module")
def splits():
    config = experiment()
    return data.load(config.data, config.model)


def run_steps(config, splits, devices, count):
    """Losses of each step, the trainer after them."""
    strategy = tf.distribute.MirroredStrategy(devices)
    run = trainer.Trainer(config, strategy)
    run.initialize(splits.train)
    settings = config.training
    batches = data.training_batches(
        splits.train, config.data, settings.batch_size, settings.seed, 0
    )
    losses = [run.train_step(batch) for batch in batches.take(count)]
    return np.array(losses), run


def test_two_devices_train_like_one(splits):
    one, trainer_one = run_steps(experiment(), splits, ONE, 20)
    two, trainer_two = run_steps(experiment(), splits, TWO, 20)
    assert one.shape == (20, len(Losses._fields))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    assert one[-1, 0] < one[0, 0]  # it learns
    evaluations = [
        run.evaluate(splits.validation) for run in (trainer_one, trainer_two)
    ]
    np.testing.assert_allclose(evaluations[1], evaluations[0], rtol=1e-4, atol=1e-5)
    moving = [
        [v.numpy() for v in run.model.variables if not v.trainable]
        for run in (trainer_one, trainer_two)
    ]
    for a, b in zip(*moving):
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-4)


def test_validation_counts_every_image_once(splits):
    """144 images in batches of 100: the padding does not count."""
    _, run = run_steps(experiment(), splits, ONE, 0)
    small = experiment(evaluation_batch_size=36)
    _, other = run_steps(small, splits, ONE, 0)
    np.testing.assert_allclose(
        run.evaluate(splits.validation),
        other.evaluate(splits.validation),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.fixture(scope="module")
def whole_run(splits, tmp_path_factory):
    """20 steps in one go."""
    model_dir = tmp_path_factory.mktemp("whole") / "run"
    strategy = tf.distribute.MirroredStrategy(ONE)
    run = trainer.train(experiment(), splits, strategy, model_dir, "config")
    return model_dir, run


def records(model_dir):
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_what_a_run_leaves(whole_run):
    model_dir, run = whole_run
    assert run.step == 20
    train = [r for r in records(model_dir) if r["split"] == "train"]
    assert [r["step"] for r in train] == [5, 10, 15, 20]
    for record in records(model_dir):
        terms = [record[f"bits_per_dim/{t}"] for t in Losses._fields]
        assert abs(sum(terms) - record["bits_per_dim/total"]) < 1e-5
    images = {path.name for path in (model_dir / "images").iterdir()}
    assert images == {
        f"{name}_0000020.png"
        for name in ("samples_t0.7", "samples_t1.0", "reconstructions", "switches")
    }
    for split in ("train", "eval"):
        (events,) = (model_dir / split).glob("events*")
        tags = set()
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            tags |= {value.tag for value in event.summary.value}
        assert {f"bits_per_dim/{t}" for t in ("total", *Losses._fields)} <= tags
        assert ("config" in tags) == (split == "train")


def test_stopped_and_resumed(splits, whole_run, tmp_path):
    """10 steps and again to 20 give what 20 steps give."""
    strategy = tf.distribute.MirroredStrategy(ONE)
    trainer.train(experiment(num_steps=10), splits, strategy, tmp_path, "config")
    resumed = trainer.train(experiment(), splits, strategy, tmp_path, "config")
    for a, b in zip(resumed.model.variables, whole_run[1].model.variables):
        np.testing.assert_array_equal(a, b)
    kept = {"images_per_second"}
    for a, b in zip(records(tmp_path), records(whole_run[0]), strict=True):
        assert {k: v for k, v in a.items() if k not in kept} == pytest.approx(
            {k: v for k, v in b.items() if k not in kept}
        )


def test_resuming_drops_lines_from_after_the_checkpoint(splits, whole_run, tmp_path):
    shutil.copytree(whole_run[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 25, "split": "train"}\n{"step": 3')
    strategy = tf.distribute.MirroredStrategy(ONE)
    trainer.train(experiment(), splits, strategy, tmp_path / "run", "config")
    assert records(tmp_path / "run") == records(whole_run[0])


def test_load_after_a_move(splits, whole_run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(whole_run[0], moved)
    images = splits.test.first(5)
    trained = whole_run[1].model
    for checkpoint in ("latest", "best"):
        model = vf.load(moved, checkpoint)
        assert model.config == trained.config
        np.testing.assert_array_equal(model.decode(*model.encode(images)), images)
    np.testing.assert_allclose(
        vf.load(moved).losses(images).total, trained.losses(images).total, rtol=1e-5
    )
    with pytest.raises(ValueError, match="initialised already"):
        vf.load(moved).initialize(images)


def test_last_checkpoints_and_the_best_are_kept(splits, tmp_path):
    config = experiment(keep_checkpoints=2, checkpoint_every=5, images_every=0)
    strategy = tf.distribute.MirroredStrategy(ONE)
    trainer.train(config, splits, strategy, tmp_path, "config")
    checkpoints = tmp_path / "checkpoints"
    steps = sorted(path.stem for path in checkpoints.glob("*.index"))
    assert steps == ["step-15", "step-20"]
    evaluations = [r for r in records(tmp_path) if r["split"] == "eval"]
    best = min(evaluations, key=lambda r: r["bits_per_dim/total"])
    (index,) = (checkpoints / "best").glob("*.index")
    assert index.stem == f"step-{best['step']}"


def test_a_loss_that_is_not_finite_ends_the_run(splits, tmp_path):
    config = experiment(log_every=1)
    hot = cfg.OptimizerConfig(learning_rate=1e30, warmup_steps=0)
    config = cfg.ExperimentConfig(
        model=config.model,
        data=config.data,
        objective=config.objective,
        optimizer=hot,
        training=config.training,
    )
    strategy = tf.distribute.MirroredStrategy(ONE)
    message = r"loss is (nan|inf) between steps|matrix .* is not invertible"
    with pytest.raises(UserError, match=message):
        trainer.train(config, splits, strategy, tmp_path, "config")


def test_weights_that_are_not_finite_are_not_saved(splits, whole_run, tmp_path):
    run = whole_run[1]
    assert run.weights_are_finite()
    variable = run.model.trainable_variables[0]
    value = variable.numpy()
    variable.assign(np.full_like(value, np.nan))
    assert not run.weights_are_finite()
    variable.assign(value)


def test_checkpoints_that_nothing_points_to(splits, whole_run, tmp_path):
    """Starting over would overwrite them: the run is refused."""
    shutil.copytree(whole_run[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint").unlink()
    strategy = tf.distribute.MirroredStrategy(ONE)
    with pytest.raises(UserError, match="holds checkpoints, but the file 'checkpoint'"):
        trainer.train(experiment(), splits, strategy, tmp_path / "run", "config")


def test_uneven_batches_are_refused():
    strategy = tf.distribute.MirroredStrategy(TWO)
    with pytest.raises(UserError, match="TrainingConfig.batch_size is 15, which 2"):
        trainer.Trainer(experiment(batch_size=15), strategy)


def test_strategy_takes_all_devices():
    assert make_strategy().num_replicas_in_sync == 2  # conftest makes two


def test_another_model_in_the_directory(splits, tmp_path):
    other = tiny_model_config(image_shape=(8, 8, 1), n_bins=17, flow=tiny_flow())
    write_description(tmp_path, other)
    assert read_description(tmp_path) == other
    strategy = tf.distribute.MirroredStrategy(ONE)
    with pytest.raises(UserError, match="model.flow.hidden is .* there and"):
        trainer.train(experiment(), splits, strategy, tmp_path, "config")


def tiny_flow():
    return cfg.FlowConfig(num_steps=[0, [1], 1], hidden=[4, 4, 4], factors=[4])
