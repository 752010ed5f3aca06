"""The models that come with the package."""

import numpy as np
import pytest

import tfp_vaeflow as vf
from tfp_vaeflow import data, pretrained
from tfp_vaeflow.common import typical_scores
from tfp_vaeflow.config import experiment
from tfp_vaeflow.evaluation import likelihood
from tfp_vaeflow.model import checkpoints


@pytest.fixture(scope="module")
def model():
    return vf.load_pretrained("digits")


def test_digits(model):
    pictures = pretrained.pictures("digits")
    assert sorted(pictures.labels[:10]) == [*range(10)]
    images = pictures.first(20)
    np.testing.assert_array_equal(model.decode(*model.encode(images)), images)
    bits = model.score(pictures.first(200))["total"].numpy().mean()
    typical = typical_scores.read(pretrained.directory("digits"))["latest"]
    assert abs(bits - typical.mean) < 0.2


def test_the_pictures_are_not_of_the_training_part():
    config = experiment.load(["gin/digits.gin"])
    splits = data.load(config.data, config.model)
    known = {image.tobytes() for image in splits.train.first(2000)}
    shown = pretrained.pictures("digits").first(200)
    assert len(shown) == 200
    assert sum(image.tobytes() in known for image in shown) == 0


def test_another_name():
    with pytest.raises(vf.UserError, match="there is no pretrained model 'cats'; exp"):
        vf.load_pretrained("cats")


@pytest.mark.slow
def test_the_experiment_still_gives_that_model(model, run, tmp_path):
    """As `tools/demo.sh` trains it."""
    arguments = ["--gin_file=gin/digits.gin", f"--model_dir={tmp_path}"]
    done = run("train", *arguments, cwd=tmp_path, optimized=True)
    assert done.returncode == 0, done.stderr
    made, step = checkpoints.load_with_step(tmp_path)
    assert checkpoints.last_step(pretrained.directory("digits")) == step
    assert made.config == model.config
    config = experiment.load_saved(tmp_path)
    test = data.load(config.data, config.model).test
    bits = [
        likelihood.image_bits_per_dim(m, likelihood.bounds(m, test, 4, 400, 0)).mean()
        for m in (made, model)
    ]
    assert abs(bits[0] - bits[1]) < 0.02
