"""`tfp_vaeflow.train`: training on arrays, with what the command does around it."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfp_vaeflow as vf
from testing import TINY
from tfp_vaeflow import data
from tfp_vaeflow.config import experiment
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.training import given

SHORT = [
    *TINY,
    "TrainingConfig.images_every = 0",
    "TrainingConfig.checkpoint_every = 4",
]


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return np.ceil(256 * found.images / 17).astype(np.uint8)[:400], found.target[:400]


def train(images, labels, directory, steps, **arguments):
    bindings = [*SHORT, f"TrainingConfig.num_steps = {steps}"]
    return vf.train(
        "gin/digits.gin",
        images,
        labels,
        model_dir=directory,
        bindings=bindings,
        **arguments,
    )


def test_a_run_and_its_continuation(digits, tmp_path, capsys):
    images, labels = digits
    aside = {"validation": (images[300:], labels[300:])}
    train(images[:300], labels[:300], tmp_path, 4, **aside)
    model = train(images[:300], labels[:300], tmp_path, 8, **aside)
    said = capsys.readouterr().out
    assert "arrays: 300 training, 100 validation, 0 test images" in said
    assert "resumed from step 4" in said and "step 8: validation" in said
    kept, step = checkpoints.load_with_step(tmp_path)
    assert step == 8
    for ours, theirs in zip(model.variables, kept.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(vf.UserError, match="were given from Python; name a .npy"):
        config = experiment.load_saved(tmp_path)
        data.load(config.data, config.model)


@pytest.mark.parametrize("has_validation", [False, True])
def test_divided_as_a_file(digits, tmp_path, monkeypatch, has_validation):
    """So `evaluate --data_dir=FILE` measures images that were not trained on."""
    images, labels = digits
    aside = images[300:], labels[300:]
    arguments = {"validation": aside} if has_validation else {}
    found = []
    monkeypatch.setattr(given.training, "run", lambda *args: found.append(args[-1]))
    with pytest.raises(AttributeError):  # there is no trainer
        train(images, labels, tmp_path, 1, **arguments)
    config = experiment.load(["gin/digits.gin"])
    arrays = {"images": images, "labels": labels}
    if has_validation:
        arrays |= {"validation_images": aside[0], "validation_labels": aside[1]}
    np.savez(tmp_path / "digits.npz", **arrays)
    file = dataclasses.replace(config.data, data_dir=str(tmp_path / "digits.npz"))
    expected = data.load(file, config.model)
    for ours, theirs in zip(found[0](config.data, config.model, None), expected):
        np.testing.assert_array_equal(ours.first(400), theirs.first(400))
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    sizes = [400, 100, 0] if has_validation else [324, 36, 40]
    assert [part.num_images for part in expected] == sizes


def test_the_first_images_are_of_all_classes(digits, tmp_path):
    """They initialise the model, and arrays often go class by class."""
    images, labels = digits
    order = np.argsort(labels, kind="stable")
    np.savez(tmp_path / "sorted.npz", images=images[order], labels=labels[order])
    config = experiment.load(["gin/digits.gin"])
    file = dataclasses.replace(config.data, data_dir=str(tmp_path / "sorted.npz"))
    train_part = data.load(file, config.model).train
    assert len(set(train_part.labels[:64])) == 10
    by_images = {image.tobytes(): label for image, label in zip(images, labels)}
    for image, label in zip(train_part.first(64), train_part.labels):
        assert by_images[image.tobytes()] == label


def test_a_damaged_compressed_file(digits, tmp_path):
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, images=digits[0])
    whole, config = path.read_bytes(), experiment.load(["gin/digits.gin"])
    file = dataclasses.replace(config.data, data_dir=str(path))
    for place in range(150, 900, 10):  # zlib, zipfile and NumPy notice it
        path.write_bytes(whole[:place] + b"\0\xff\xff" + whole[place + 3 :])
        with pytest.raises(vf.UserError, match="is no NumPy file"):
            data.load(file, config.model)


def test_arrays_that_do_not_fit(digits, tmp_path):
    images, labels = digits
    with pytest.raises(
        vf.UserError, match=r"the arrays: images are of shape \(7, 8, 1"
    ):
        train(images[:, :7], labels, tmp_path, 1)
    with pytest.raises(vf.UserError, match="the arrays: labels are int64 of shape"):
        train(images, labels[:3], tmp_path, 1)
    assert not [*tmp_path.iterdir()]
