"""Every shipped experiment is parsed, built and stepped once, at a reduced size."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from testing import random_images
from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import experiment
from tfp_vaeflow.model import build_model
from tfp_vaeflow.training import Trainer
from tfp_vaeflow.training.devices import mirrored

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.name for path in (ROOT / "gin").glob("*.gin"))
# Bindings that shrink an experiment: fewer levels, one step each, few channels.
FOLDER_SMALL = [
    "ModelConfig.image_shape = (16, 16, 3)",
    "FlowConfig.num_steps = [0, [1], 1]",
    "FlowConfig.hidden = [4, 4, 4]",
    "FlowConfig.factors = [4]",
    "EncoderConfig.planes = [4]",
    "PriorConfig.hidden = 4",
]
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
    "cifar10_content.gin": [
        "FlowConfig.num_steps = [1, [1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "EncoderConfig.planes = [4, 4, 4]",
        "ModelConfig.latent_dim = 6",
        "ModelConfig.principal_components = 4",
    ],
    "folder.gin": [
        "ModelConfig.image_shape = (16, 16, 3)",
        "FlowConfig.num_steps = [1, [1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "FlowConfig.factors = [4]",
        "EncoderConfig.planes = [4]",
        "PriorConfig.hidden = 4",
    ],
    "folder_small.gin": FOLDER_SMALL,
    "folder_content.gin": [
        *FOLDER_SMALL,
        "ModelConfig.latent_dim = 6",
        "ModelConfig.principal_components = 4",
    ],
    "digits_classes.gin": [
        "FlowConfig.num_steps = [0, [1, 1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
    ],
    "digits_variational.gin": [
        "FlowConfig.num_steps = [0, [1, 1], 1]",
        "FlowConfig.hidden = [4, 4, 4]",
        "dequantizer/FlowConfig.num_steps = [0, 1]",
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


# Fragments that others include.
PARTS = {"base.gin", "variational.gin", "without_z.gin"}
# The paper's experiments and their parameters. Those that are not in REDUCED only take
# other values of the same fields.
PAPER = {
    "cifar10": 51_860_457,
    "cifar10_variational": 54_835_291,
    "cifar10_classes": 50_494_081,
    "cifar10_glow": 46_521_601,
    "cifar10_glow_variational": 49_496_435,
    "cifar10_macow": 54_156_721,
    "imagenet64": 107_418_435,
    "lsun_bedroom": 102_092_843,
    "lsun_church_outdoor": 102_092_843,
    "lsun_tower": 102_092_843,
    "celeba": 100_610_735,
    "celeba_macow": 210_358_477,
}
# Their baselines without z, by the fragment.
BASELINES = {
    "imagenet64": 91_288_387,
    "lsun_bedroom": 69_922_475,
    "celeba": 70_714_159,
}
# What is counted and stepped by default; the others are long tests.
QUICK = {"cifar10_variational"}
STEPPED = {"cifar10.gin", "digits_classes.gin"}


def test_every_shipped_experiment_is_covered():
    paper = {f"{name}.gin" for name in PAPER}
    assert set(REDUCED) | PARTS | paper == set(SHIPPED)


def reduced(name):
    sizes = ["batch_size = 2", "evaluation_batch_size = 2"]
    bindings = REDUCED[name] + [f"TrainingConfig.{size}" for size in sizes]
    return experiment.load([f"gin/{name}"], bindings)


@pytest.mark.parametrize("name", REDUCED)
def test_parsed_and_built(name):
    model = build_model(reduced(name).model)
    assert model.parameter_counts()["total"] > 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in STEPPED else pytest.mark.slow)
        for name in REDUCED
    ],
)
def test_stepped(name):
    config = reduced(name)
    strategy = mirrored(["CPU:0"])
    trainer = Trainer(config, strategy)
    images = random_images(8, config.model.image_shape)
    classes = np.arange(8)
    split = data.Split(8, lambda i: tf.gather(tf.constant(images), i), lambda: classes)
    trainer.initialize(split)
    before = trainer.model.flow.trainable_variables[0].numpy()
    batches = data.training_batches(  # at step 0 the rate is 1e-7
        split, config.data, 2, 0, 1, config.model.is_class_conditional
    )
    losses = trainer.train_step(next(iter(batches))).losses
    assert all(np.isfinite(term) for term in losses)
    assert (trainer.model.flow.trainable_variables[0].numpy() != before).any()
    assert trainer.step == 1


def count_of(files: list[str]) -> int:
    model = build_model(experiment.load(files).model)
    count = sum(v.shape.num_elements() for v in model.trainable_variables)
    assert count == model.parameter_counts()["total"]
    return count


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in PAPER
        if name not in ("lsun_church_outdoor", "lsun_tower")  # the bedrooms' model
    ],
)
def test_parameter_counts_of_the_paper(name):
    assert count_of([f"gin/{name}.gin"]) == PAPER[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_parameter_counts_without_z(name):
    assert count_of([f"gin/{name}.gin", "gin/without_z.gin"]) == BASELINES[name]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_name_their_parameter_count(name):
    text = (ROOT / "gin" / f"{name}.gin").read_text().replace("\n# ", " ")
    assert f"{PAPER[name]:,} parameters" in text
    experiment.load([f"gin/{name}.gin"])


def test_lsun_differs_in_the_category_alone():
    bedroom, tower, church = (
        experiment.load([f"gin/lsun_{name}.gin"])
        for name in ("bedroom", "tower", "church_outdoor")
    )
    assert bedroom.model == tower.model == church.model
    assert tower.data.name == "tfds:lsun/tower"
    assert church.data.name == "tfds:lsun/church_outdoor"


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - PARTS))
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


def test_includes_lie_beside_the_file_that_includes_them(tmp_path, monkeypatch):
    """In files of files, and from wherever the command runs."""
    (tmp_path / "mine" / "parts").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name, text in {
        "mine/run.gin": "include 'base2.gin'  # mine\nTrainingConfig.batch_size = 3\n",
        "mine/base2.gin": 'include "parts/data.gin"\nTrainingConfig.num_steps = 5\n',
        "mine/parts/data.gin": "include 'more.gin'\nDataConfig.shift = 1\n",
        "mine/parts/more.gin": "include 'gin/digits.gin'\nTrainingConfig.seed = 9\n",
        "elsewhere/base2.gin": "TrainingConfig.num_steps = 6\n",
        "mine/lost.gin": "include 'nowhere.gin'\n",
        "mine/round.gin": "include 'round.gin'\n",
        "mine/bad.gin": "include 'parts/bad.gin'\n",
        "mine/parts/bad.gin": "\nTrainingConfig.batch_size = \n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = experiment.load(["../mine/run.gin"])
    found = config.training
    assert (found.batch_size, found.num_steps, found.seed) == (3, 5, 9)
    assert config.data.shift == 1
    for name, message in (
        ("lost", "no experiment file nowhere.gin"),
        ("round", "round.gin includes .*round.gin: the files include each other"),
        ("bad", r"Unable to parse value. \(bad.gin, line 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            experiment.load([f"../mine/{name}.gin"])
    config = experiment.load(["gin/digits.gin"], ["include '../mine/base2.gin'"])
    assert config.training.num_steps == 5


def test_paths_are_saved_as_absolute_ones(tmp_path, monkeypatch):
    """And `~` is the home directory; names that are no paths stay names."""
    (tmp_path / "here" / "pics").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    bindings = [
        "DataConfig.data_dir = 'pics'",
        "TrainingConfig.init_from = '~/runs/x'",
        "EvaluationConfig.other_data = 'digits'",
        "EvaluationConfig.feature_network = '~/net.keras'",
    ]
    config = experiment.load(["gin/digits.gin"], bindings)
    experiment.save(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert experiment.load_saved(tmp_path / "run") == config
    assert config.data.data_dir == f"{tmp_path}/here/pics"
    assert config.training.init_from == f"{tmp_path}/home/runs/x"
    assert config.evaluation.other_data == "digits"
    assert config.evaluation.feature_network == f"{tmp_path}/home/net.keras"
    others = ["EvaluationConfig.other_data = 'here'", "DataConfig.data_dir = 'gs://a/'"]
    config = experiment.load_saved(tmp_path / "run", others)
    assert config.evaluation.other_data == f"{tmp_path}/here"
    assert config.data.data_dir == "gs://a"


ALWAYS = "ObjectiveConfig.prior_always_learns = True"


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
        ("DataConfig.shift = 8", "shift is 8 for images of 8 pixels; expected less"),
        ("DataConfig.data_dir = ''", "DataConfig.data_dir is ''; expected a path"),
        (f"{ALWAYS}\nObjectiveConfig.free_nats = 0.0", "True with free_nats = 0"),
        (f"{ALWAYS}\nPriorConfig.kind = 'normal'", "a prior that learns from z"),
        (f"{ALWAYS}\nModelConfig.latent_dim = 0", "a prior that learns from z"),
    ],
)
def test_mistakes_are_named(binding, message):
    with pytest.raises(UserError, match=message):
        experiment.load(["gin/digits.gin"], [binding])
