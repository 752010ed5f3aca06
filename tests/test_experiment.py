"""Every shipped experiment is parsed, built and stepped once, at a reduced size."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from testing import random_images
from tfp_vaeflow import data, experiment
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.trainer import Trainer

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.name for path in (ROOT / "gin").glob("*.gin"))
# Bindings that shrink an experiment: fewer levels, one step each, few channels.
REDUCED = {
    "digits.gin": [
        "FlowConfig.num_steps = [0, [1, 1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
    ],
    "cifar10.gin": [
        "FlowConfig.num_steps = [1, [1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "FlowConfig.factors = [4]",
        "EncoderConfig.planes = [4, 4, 4]",
        "PriorConfig.hidden = 4",
    ],
    "cifar10_small.gin": [
        "FlowConfig.num_steps = [1, [1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "EncoderConfig.planes = [4, 4, 4]",
        "PriorConfig.hidden = 4",
    ],
    "folder.gin": [
        "ModelConfig.image_shape = (16, 16, 3)",
        "FlowConfig.num_steps = [1, [1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "FlowConfig.factors = [4]",
        "EncoderConfig.planes = [4]",
        "PriorConfig.hidden = 4",
    ],
    "celeba.gin": [
        "ModelConfig.image_shape = (32, 32, 3)",
        "ModelConfig.latent_dim = 8",
        "FlowConfig.num_steps = [0, [1], [1], 1]",
        "FlowConfig.hidden = [4, 4, 4, 4]",
        "FlowConfig.factors = [4, 4]",
        "EncoderConfig.planes = [4, 4]",
        "PriorConfig.hidden = 4",
    ],
}


def test_every_shipped_experiment_is_covered():
    assert set(REDUCED) | {"base.gin"} == set(SHIPPED)


@pytest.mark.parametrize("name", REDUCED)
def test_parsed_built_and_stepped(name):
    bindings = REDUCED[name] + [
        "TrainingConfig.batch_size = 2",
        "TrainingConfig.evaluation_batch_size = 2",
    ]
    config = experiment.load([f"gin/{name}"], bindings)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    trainer = Trainer(config, strategy)
    images = random_images(8, config.model.image_shape)
    split = data.Split(8, lambda i: tf.gather(tf.constant(images), i), None)
    trainer.model.initialize(images)
    before = trainer.model.flow.trainable_variables[0].numpy()
    batches = data.training_batches(split, config.data, 2, 0, 1)  # step 0: rate 1e-7
    losses = trainer.train_step(next(iter(batches))).losses
    assert all(np.isfinite(term) for term in losses)
    assert (trainer.model.flow.trainable_variables[0].numpy() != before).any()
    assert trainer.step == 1


@pytest.mark.parametrize(
    "name, count", [("cifar10", 51_860_457), ("celeba", 100_610_735)]
)
def test_the_papers_experiments_name_their_parameter_count(name, count):
    """The counts themselves are held in test_model, on the same architectures."""
    config = experiment.load([f"gin/{name}.gin"])
    text = (ROOT / "gin" / f"{name}.gin").read_text()
    assert f"{count:,} parameters" in text
    from test_model import PAPER

    key = {"cifar10": "cifar10", "celeba": "celeba256"}[name]
    (shape, bins, latent, steps, hidden), (planes, out, prior), counts = PAPER[key]
    model = config.model
    assert counts[0] == count
    assert (model.image_shape, model.n_bins, model.latent_dim) == (shape, bins, latent)
    assert model.flow.hidden == tuple(hidden)
    assert [
        list(entry) if isinstance(entry, tuple) else entry
        for entry in model.flow.num_steps
    ] == steps
    assert model.encoder.planes == tuple(planes) and model.encoder.out_planes == out
    assert model.prior.hidden == prior


@pytest.mark.parametrize("name", REDUCED)
def test_first_line_is_the_command(name):
    lines = (ROOT / "gin" / name).read_text().splitlines()
    assert lines[0].startswith(f"# python -m tfp_vaeflow.train --gin_file=gin/{name}")
    assert any("Hardware" in line for line in lines[:8])


def test_works_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment.load(["gin/digits.gin"]).data.name == "digits"


def test_saved_experiment_is_the_same(tmp_path):
    bindings = ["TrainingConfig.num_steps = 7", "DataConfig.shift = 0"]
    config = experiment.load(["gin/digits.gin"], bindings)
    operative = experiment.save(tmp_path)
    assert "TrainingConfig.num_steps = 7" in operative
    assert experiment.load_saved(tmp_path) == config
    changed = experiment.load_saved(tmp_path, ["EvaluationConfig.num_samples = 2"])
    assert changed.evaluation.num_samples == 2


def test_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text(
        "include 'gin/digits.gin'\nTrainingConfig.batch_size = 3\n"
    )
    assert experiment.load(["mine.gin"]).training.batch_size == 3


@pytest.mark.parametrize(
    "binding, message",
    [
        ("TrainingConfig.bach_size = 3", "doesn't have a parameter named 'bach_size'"),
        ("TrainerConfig.batch_size = 3", "No configurable matching 'TrainerConfig'"),
        ("TrainingConfig.batch_size = ", "Unable to parse"),
        ("TrainingConfig.batch_size = 'many'", "TrainingConfig.batch_size is 'many'"),
        ("TrainingConfig.batch_size = 2.5", "TrainingConfig.batch_size is 2.5"),
        ("FlowConfig.hidden = 64", "FlowConfig.hidden is 64; expected tuple"),
        ("ModelConfig.latent_dim = None", "ModelConfig.latent_dim is None"),
        ("FlowConfig.num_steps = [0, [-2, 2], 2]", "expected no negative number"),
        ("FlowConfig.prior_transform = 'x'", "FlowConfig.prior_transform is 'x'"),
        ("EncoderConfig.planes = [0, 64]", "expected at least 1 everywhere"),
        ("PriorConfig.num_steps = -3", "PriorConfig.num_steps is -3"),
        ("OptimizerConfig.beta_1 = 1.0", "expected at least 0 and less than 1"),
        ("OptimizerConfig.learning_rate = 1e999", "learning_rate is inf"),
        ("import nothing_like_that", "nothing_like_that"),
    ],
)
def test_mistakes_are_named(binding, message):
    with pytest.raises(UserError, match=message):
        experiment.load(["gin/digits.gin"], [binding])
