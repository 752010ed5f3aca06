"""What users do with a model, from first to last, through the public methods.

Nothing here runs eagerly that runs as a graph for them.
"""

from pathlib import Path

import numpy as np

import tfp_vaeflow as vf
from testing import random_images, randomize
from tfp_vaeflow import client
from tfp_vaeflow import config as cfg
from tfp_vaeflow.bijectors import ActNorm, Conv1x1
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.networks import WeightNormLinear
from tfp_vaeflow.serving import bundle
from tfp_vaeflow.training import Trainer
from tfp_vaeflow.training.devices import make_strategy

SAMPLES = 2  # of each image, in scores
SEED = 5


def data_for(config: cfg.ModelConfig, count: int = 24):
    """Images, and their labels if the model takes labels."""
    labels = None
    if config.is_class_conditional:
        labels = np.arange(count) % config.prior.num_classes
    return random_images(count, config.image_shape), labels


def quantised(images: np.ndarray, n_bins: int) -> np.ndarray:
    """What `decode` gives back for the codes of images."""
    levels = images.astype(int) * n_bins // 256
    return -(-256 * levels // n_bins)


def check_codes_and_samples(model: vf.VAEFlow, images, labels=None) -> None:
    """`encode`, `decode` and `sample`."""
    z, v = model.encode(images, labels=labels)
    assert z is None or np.isfinite(z).all()
    pixels = quantised(images, model.config.n_bins)
    np.testing.assert_array_equal(model.decode(z, v), pixels)
    samples = model.sample(3, seed=SEED).numpy()
    np.testing.assert_array_equal(model.sample(2, seed=SEED), samples[:2])
    # Where x is NaN, pixels are 0.
    assert all(len(np.unique(sample)) > 1 for sample in samples)


def maps_of(model: vf.VAEFlow, losses: vf.Losses, images, labels=None):
    """`likelihood_map`, after a check of both maps' sums."""
    drawn = {"num_samples": SAMPLES, "seed": SEED, "labels": labels}
    maps = model.likelihood_map(images, **drawn)
    sums = np.sum(maps, (1, 2), np.float64)
    np.testing.assert_allclose(sums, -losses.generation, rtol=1e-4)
    of_u = model.dequantization_map(images, **drawn)
    sums = np.sum(of_u, (1, 2), np.float64)
    np.testing.assert_allclose(sums, losses.dequantization, rtol=1e-4, atol=1e-4)
    return maps


def check(config: cfg.ExperimentConfig, directory: Path) -> None:
    """The whole list: train, save, load, every method, export, and the client.

    Args:
      config: of a tiny experiment.
      directory: for the model and its export.
    """
    images, labels = data_for(config.model)
    trainer = Trainer(config, make_strategy("one_device"))
    _train(trainer, in_memory(images, labels))
    checkpoints.write_description(directory, config.model)
    checkpoints.CheckpointKeeper(directory, 1, trainer.state).save(1)
    model = vf.load(directory)
    for ours, theirs in zip(model.variables, trainer.evaluated.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, ours.name)
    images, labels = images[:4], labels if labels is None else labels[:4]
    losses = model.losses(images, SAMPLES, SEED, labels=labels)
    assert all(np.isfinite(term).all() for term in losses)
    score = model.score(images, SAMPLES, SEED, labels=labels)
    np.testing.assert_allclose(score["total"], model.bits_per_dim(losses), rtol=1e-6)
    variational = config.model.dequantizer is not None
    assert (np.abs(losses.dequantization) > 0).all() == variational
    maps = maps_of(model, losses, images, labels)
    check_codes_and_samples(model, images, labels)
    _check_served(model, images, labels, score, maps, directory / "served")


def _train(trainer: Trainer, split) -> None:
    """Initialisation and a step, which changes every variable."""
    trainer.initialize(split)
    # Else couplings would be the identity.
    randomize(trainer.model, scale=0.1)
    trainer.start_average()
    variables = trainer.model.trainable_variables
    before = [variable.numpy() for variable in variables]
    result = trainer.train_step(next(iter(trainer.training_batches(split, 0))))
    assert result.what_is_not_finite() is None
    assert result.skipped_in_a_row == 0
    assert trainer.weights_are_finite()
    for variable, old in zip(variables, before):
        assert (variable.numpy() != old).any(), variable.name


def _check_served(model, images, labels, score, maps, directory) -> None:
    """Exports a model, which is folded by that; the client gives the same answers."""
    n_bins, with_switch = model.config.n_bins, model.config.has_posterior

    def made_by(model):
        """Pictures, of the Python API or by the same methods of the client."""
        pictures = [model.sample(3, seed=SEED)]
        if labels is not None:
            pictures.append(model.sample(3, seed=SEED, labels=labels[:3]))
        if with_switch:
            pictures += model.switch(images[:2], images[2:])
        return pictures

    z, v = model.encode(images, labels=labels)
    expected = made_by(model)
    bundle.export(model, directory, SAMPLES)
    kinds = {type(module) for module in model.submodules}
    assert not kinds & {ActNorm, Conv1x1, WeightNormLinear}
    remote = client.connect(directory)
    assert ("switch" in remote.methods) == with_switch
    served_z, served_v = remote.encode(images, labels)
    close = {"rtol": 1e-4, "atol": 1e-4}
    if z is None:
        assert served_z is None
    else:
        np.testing.assert_allclose(served_z, z, **close)
    np.testing.assert_allclose(served_v, v, **close)
    pixels = quantised(images, n_bins)
    np.testing.assert_array_equal(remote.decode(served_z, served_v), pixels)
    served = remote.score(images, SEED, labels)
    assert set(served) == set(score)
    for name, value in score.items():
        np.testing.assert_allclose(served[name], value, err_msg=name, **close)
    served = remote.likelihood_map(images, SEED, labels)
    np.testing.assert_allclose(np.sum(served, (1, 2)), np.sum(maps, (1, 2)), rtol=1e-4)
    np.testing.assert_allclose(served, maps, rtol=1e-3, atol=1e-3)
    # The client refuses what is not finite.
    for ours, theirs in zip(made_by(remote), expected, strict=True):
        _assert_same_pixels(ours, theirs, n_bins)
    _assert_same_pixels(remote.reconstruct(images, SEED, labels), pixels, n_bins)


def _assert_same_pixels(ours, theirs, n_bins: int) -> None:
    """Equal but for a few that lie within rounding of the edge of their bin."""
    ours, theirs = (np.asarray(a).astype(int) * n_bins // 256 for a in (ours, theirs))
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1 and difference.mean() < 0.01
