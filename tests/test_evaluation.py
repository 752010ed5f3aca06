"""Measures on models whose answer is known."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import random_images, randomize, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import data, evaluation
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.evaluation import figures, likelihood, page, probes, report, samples
from tfp_vaeflow.evaluation.measure import Drawing, Subject
from tfp_vaeflow.evaluation.measures import MEASURES


@pytest.fixture(scope="module")
def splits():
    settings = tiny_model_config(
        image_shape=(8, 8, 1), flow=cfg.FlowConfig([0, 1], [4, 4]), latent_dim=0
    )
    whole = data.load(cfg.DataConfig("digits"), settings)
    few = whole.test.subset(np.arange(50))
    return data.Splits(whole.train.subset(np.arange(400)), whole.validation, few)


def digits_model(latent_dim=4, **changes):
    settings = tiny_model_config(
        image_shape=(8, 8, 1),
        n_bins=17,
        latent_dim=latent_dim,
        flow=cfg.FlowConfig([0, 1], [4, 4]),
        **changes,
    )
    model = vf.build_model(settings)
    levels = random_images(64, (8, 8, 1))
    model.initialize(levels)
    return model


def test_mean_losses_equal_the_model_s(splits):
    model = digits_model()
    randomize(model, scale=0.05)
    images = splits.test.first(50)
    expected = model.losses(images, num_samples=2, seed=4)
    for batch_size in (50, 16):
        found = likelihood.bounds(model, splits.test, 2, batch_size, seed=4)
        for term, value in zip(expected, found.losses):
            np.testing.assert_allclose(value, np.mean(term), rtol=1e-5, atol=1e-5)
        totals = np.float64(expected.total)
        np.testing.assert_allclose(
            found.standard_error, totals.std(ddof=1) / 50**0.5, rtol=1e-4
        )


def test_real_images_are_compared_at_the_model_s_levels(splits):
    """A model of few levels gives back fewer values of pixels than files have."""
    model = vf.build_model(dataclasses.replace(digits_model().config, n_bins=3))
    model.initialize(random_images(64, (8, 8, 1)))
    full = splits.test.mapped(lambda images: images | 15)
    subject = Subject(model, full, full, cfg.EvaluationConfig(), print)
    assert set(np.unique(full.first(50))) > {15, 255}
    for part in (subject.train, subject.split, subject.compared):
        expected = model.decode(*model.encode(full.first(50)))
        np.testing.assert_array_equal(part.first(50), expected)


@pytest.mark.parametrize("kind", ["flow", "normal"])
def test_the_importance_weighted_bound(splits, kind):
    """Never below the ELBO, equal to it for one sample, and tighter with more."""
    model = digits_model(prior=cfg.PriorConfig(kind, num_steps=1, hidden=4))
    randomize(model, scale=0.05)
    falling = []
    for num_samples in (1, 5, 50):
        found = likelihood.bounds(model, splits.test, num_samples, 25, seed=4)
        gain = found.importance_weighted_by_image - found.elbo_by_image
        assert found.elbo_by_image.shape == (50,) and gain.min() > -1e-9
        assert gain.max() < 1e-9 if num_samples == 1 else gain.min() > 0
        np.testing.assert_allclose(
            found.losses.total, -found.elbo_by_image.mean(), rtol=1e-9
        )
        falling.append(found.importance_weighted)
    assert falling[0] > falling[1] > falling[2]


def test_an_ignored_z_has_no_gap(splits):
    """A fresh model's couplings are the identity, so z changes nothing."""
    model = digits_model()
    gaps = likelihood.z_gaps(model, splits.test, 16, 0)
    assert set(gaps) == {"shuffled", "prior", "zeros"}
    assert max(map(abs, gaps.values())) < 1e-4
    randomize(model, scale=0.2)
    whole = likelihood.z_gaps(model, splits.test, 50, 0)
    parts = likelihood.z_gaps(model, splits.test, 16, 0)
    for name in gaps:
        assert abs(whole[name]) > 1e-3
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-4)


def test_exactly_decoded(splits):
    model = digits_model()
    assert likelihood.exactly_decoded(model, splits.test, 16) == 50
    decode = model.decode
    model.decode = lambda z, v: tf.where(
        tf.reshape(tf.range(len(v)) == 3, [-1, 1, 1, 1]), 0, decode(z, v)
    )
    assert likelihood.exactly_decoded(model, splits.test, 50) == 49


class Copies:
    """Stands in for a model that samples given images."""

    config = tiny_model_config()

    def __init__(self, images):
        self._images = images

    def sample(self, num_images, temperature, seed, batch_size, labels):
        assert labels is None
        return tf.constant(self._images[:num_images])


def test_sample_check(splits):
    images, labels = splits.train.first(400), splits.train.labels
    real = samples.sample_check(Copies(images), splits.train, 400, 0.7, 0, 50)
    assert real["mean_top_probability"] > 0.95 and real["min_class_share"] > 0.05
    zeros = Copies(images[labels == 0])
    count = int((labels == 0).sum())
    one_class = samples.sample_check(zeros, splits.train, count, 0.7, 0, 50)
    assert one_class["min_class_share"] == 0


def test_a_probe_of_fewer_images_than_principal_components():
    labels = np.arange(60) % 2
    features = np.random.default_rng(0).standard_normal((60, 200)) + labels[:, None]
    assert (
        probes.logistic_probe(features[:40], labels[:40]).score(
            features[40:], labels[40:]
        )
        > 0.9
    )


@pytest.mark.parametrize("latent_dim", [4, 0])
def test_report(splits, latent_dim, tmp_path, tmp_path_factory):
    """Of models with and without z, of data with and without labels: what is told."""
    model = digits_model(latent_dim)
    other = "digits"
    if latent_dim:
        other = tmp_path_factory.mktemp("other")
        for number, image in enumerate(random_images(10, (8, 8, 1))):
            name = "train/cat" if number < 6 else "test/dog"
            figures.write_png(f"{other}/{name}/{number}.png", image)
    settings = cfg.EvaluationConfig(
        num_samples=1,
        generated_images=20,
        probe_seeds=2,
        probe_images=100,
        classifier_steps=20,
        switch_pairs=20,
        temperatures=[0.7, 1.0],
        other_data=str(other),
    )
    told = []
    result = report.evaluate(model, splits, "test", settings, told.append)
    assert any("50 images" in line for line in told)
    json.dumps(result, allow_nan=False)
    has_z = bool(latent_dim)
    assert ("z" in result["probe"]) == has_z
    assert (result["shuffled_z_gap_nats"] is not None) == has_z
    assert (result["usage"] is not None) == has_z
    assert (result["decoupling"]["encoder"] is not None) == has_z
    if not has_z:  # there is nothing to switch
        found = result["decoupling"]
        assert found["classifier"] | found["without_z"] == found["classifier"]
    text = page.table(result)
    found = result["novelty"]
    if has_z:  # all of the folder, by class
        sizes = {row["class"]: row["num_images"] for row in found["by_class"]}
        assert sizes == {"cat": 6, "dog": 4} and found["num_other_images"] == 10
        assert "  cat, 6 images" in text
    else:
        assert abs(found["likelihood_auc"] - 0.5) < 0.2  # its own kind of data
    for name in ("likelihood_auc", "typicality_auc"):  # a mean over pairs of images
        areas = sum(row["num_images"] * row[name] for row in found["by_class"])
        assert areas / found["num_other_images"] == pytest.approx(found[name])
    assert "50 of 50" in text and f"{result['bits_per_dim']:.4f}" in text
    drawing = Drawing(model, splits.test, result, [], tmp_path, 50)
    captions = report.draw(drawing)
    drawn = {"temperature.png"}
    drawn |= {"z_dimensions.png", "z_map.png", "switch_matrix.png"} if has_z else set()
    assert set(captions) == drawn == {path.name for path in tmp_path.iterdir()}
    markdown = page.markdown(result, "Title", captions)
    assert "![Distance of samples from real images](temperature.png)" in markdown
    assert f"| bits/dim | {result['bits_per_dim']:.4f} ±" in markdown
    for measure in MEASURES[1:]:  # an earlier version's evaluation may lack one
        old = {k: result[k] for k in set(result) - set(measure.result.__annotations__)}
        assert "50 of 50" in page.table(old)
    part = report.evaluate(model, splits, "test", settings, only=["probes", "bound"])
    assert part["measures"] == ["bound", "probes"] and part["fidelity"] is None
    assert "fidelity" not in page.table(part) and "50 of 50" in page.table(part)
    assert report.merged(result, part) == result
    if has_z:
        return
    zeros = [
        dataclasses.replace(s, read_labels=lambda n=s.num_images: np.zeros(n, int))
        for s in splits
    ]
    result = report.evaluate(model, data.Splits(*zeros), "test", settings)
    assert result["probe"] is None and result["samples"] is None
    assert result["fidelity"] is None
    assert "training images are all of one class, 0" in page.table(result)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_figures_that_are_not_finite(splits, tmp_path):
    """One image on which the flow overflows must not cost all other figures."""
    model = digits_model(1, prior=cfg.PriorConfig("normal"))
    randomize(model, scale=0.05)
    settings = cfg.EvaluationConfig(num_samples=2, batch_size=50, probe_seeds=1)
    settings = dataclasses.replace(settings, other_data="digits")
    only = ["bound", "usage", "probes", "by_class", "decoupling"]

    def measured():
        result = report.evaluate(model, splits, "test", settings, only=only)
        json.dumps(result, allow_nan=False)
        return result

    result = measured()
    assert not result["notes"] and result["num_samples"] == 2
    drawing = Drawing(model, splits.test, result, [], tmp_path, 50)
    assert "z_map.png" in report.draw(drawing)  # of a z with one entry
    # The encoder's last bias makes z infinite.
    model.encoder.trainable_variables[-1].assign_add(np.float32([np.inf, 0]))
    result = measured()
    assert set(result["notes"]) >= {"bound", "usage", "probes"}
    assert "Some figures are not finite" in page.table(result)
    assert "of 50" not in page.table(result)
    report.draw(Drawing(model, splits.test, result, [], tmp_path, 50))


def test_a_measure_that_is_none(splits):
    with pytest.raises(UserError, match="no measure 'fid'; expected some of bound, us"):
        report.evaluate(
            digits_model(0), splits, "test", cfg.EvaluationConfig(), only=["fid"]
        )


def test_other_data_that_is_none(splits):
    settings = cfg.EvaluationConfig(other_data="nowhere")
    with pytest.raises(UserError, match="EvaluationConfig.other_data is 'nowhere'"):
        report.evaluate(digits_model(), splits, "test", settings)


def test_every_measure_is_listed():
    names = {path.stem for path in Path(evaluation.__path__[0]).glob("*.py")}
    modules = [importlib.import_module(f"tfp_vaeflow.evaluation.{n}") for n in names]
    found = [module.MEASURE for module in modules if hasattr(module, "MEASURE")]
    assert set(found) == set(MEASURES) and len(found) == len(MEASURES) > 5
