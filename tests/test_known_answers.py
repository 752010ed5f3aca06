"""The whole evaluation, run on models whose answers are known."""

import numpy as np
import pytest

from testing import random_images
from tfp_vaeflow import config as cfg
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.evaluation import likelihood, novelty, page, report
from tfp_vaeflow.model.objective import nats_per_bit_dim
from toys import (
    LENGTHS,
    LabelEncoder,
    LinearGaussian,
    labelled_splits,
    model_with,
    unlabelled,
)

SETTINGS = cfg.EvaluationConfig(
    num_samples=50,
    batch_size=250,
    probe_seeds=1,
    probe_images=500,
    classifier_steps=150,
    switch_pairs=300,
    generated_images=200,
    temperatures=(0.0, 1.0),
)


def nats(toy, bits):
    """bits/dim -> nats of log p(x) on the scale of x."""
    config = toy.model.config
    constant = config.num_dims * np.log(config.n_bins / 2)
    return constant - bits * nats_per_bit_dim(config)


@pytest.fixture(scope="module", params=[1.0, 1.5], ids=["exact", "inflated"])
def linear(request):
    """A toy with the exact posterior, and with a wider one; and its evaluation."""
    toy = LinearGaussian(request.param)
    splits = unlabelled(toy.splits(1000))
    return toy, splits, report.evaluate(toy.model, splits, "test", SETTINGS)


def test_bounds_of_a_linear_gaussian_model(linear):
    toy, splits, result = linear
    scale = nats_per_bit_dim(toy.model.config)
    elbo, weighted = (
        nats(toy, result[name]) for name in ("bits_per_dim", "iw_bits_per_dim")
    )
    assert (
        abs(elbo - (toy.log_prob - toy.excess)) < 3 * scale * result["standard_error"]
    )
    bias = (toy.second_moment - 1) / (2 * SETTINGS.num_samples)
    expected = toy.log_prob - bias
    assert abs(weighted - expected) < 3 * scale * result["iw_standard_error"]
    # Between the two of one image there is far less noise.
    found = likelihood.bounds(toy.model, splits.test, 50, 250, SETTINGS.seed)
    gain = found.importance_weighted_by_image - found.elbo_by_image
    error = gain.std() / np.sqrt(len(gain))
    expected = toy.excess - bias + toy.gain_of_u
    assert abs(gain.mean() - expected) < 3 * error + 1e-4
    single = likelihood.bounds(toy.model, splits.test, 1, 250, SETTINGS.seed)
    np.testing.assert_allclose(
        single.elbo_by_image, single.importance_weighted_by_image, atol=1e-9
    )


def test_kl_of_a_linear_gaussian_model(linear):
    toy, splits, result = linear
    losses = toy.model.losses(splits.test.first(1000), seed=0)
    error = np.std(losses.kl) / np.sqrt(1000)
    assert abs(np.mean(losses.kl) - toy.kl) < 3 * error
    # The estimate from 50 samples an image has hardly more noise.
    assert abs(result["kl_nats"] - toy.kl) < 3.5 * error


def test_use_of_z_by_a_linear_gaussian_model(linear):
    toy, _, result = linear
    usage = result["usage"]
    assert usage["active_units"] == np.count_nonzero(LENGTHS)
    found = usage["mutual_information"]
    information = toy.information_by_dimension.sum()
    assert abs(found["nats"] - information) < 3 * found["standard_error"]
    assert found["ceiling"] == pytest.approx(np.log(1000)) and not found["saturated"]
    # log of a variance that is estimated from 1,000 images: sqrt(2 / 1000) / 2.
    np.testing.assert_allclose(
        usage["kl_by_dimension"], toy.information_by_dimension, atol=3 * 0.0224
    )
    assert result["shuffled_z_gap_nats"] > result["zeros_z_gap_nats"] > 1


@pytest.fixture(scope="module")
def labelled():
    """The exact one again, with labels, and with other images to tell."""
    toy = LinearGaussian(1.0)
    return report.evaluate(toy.model, toy.splits(1000), "test", SETTINGS)


def test_decoupling_of_a_linear_gaussian_model(labelled):
    """The label goes by the first z, so a switch takes it along."""
    found = labelled["decoupling"]
    assert found["classifier"]["accuracy"] > 0.8
    assert found["classifier"]["score"] > 0.6 and found["encoder"]["score"] > 0.6
    assert found["without_z"]["score"] < -0.6
    assert found["consistency"]["cosine_to_a"] > 0.9
    assert abs(found["consistency"]["cosine_by_chance"]) < 0.2
    assert found["consistency"]["top_1"] < 1  # z is read off with some noise
    assert found["consistency"]["median_rank"] < 200


def test_fidelity_of_a_linear_gaussian_model(labelled):
    """At temperature 1 the samples are as good as other images; at 0 they lack v."""
    found = labelled["fidelity"]
    cold, warm = found["by_temperature"]
    assert found["measure"] == "kid" and found["best_temperature"] == 1.0
    assert abs(warm["kid"] - found["floor"]["kid"]) < 3 * warm["kid_stddev"]
    assert cold["kid"] > warm["kid"]


@pytest.mark.parametrize("pixel, by_likelihood", [(250, 1.0), (128, 0.0)])
def test_novelty_for_a_linear_gaussian_model(pixel, by_likelihood):
    """Images of one grey are strange: a bright one by its likelihood, and one at the
    mean because it is likelier than any real one."""
    toy = LinearGaussian(1.0)
    splits = toy.splits(300)
    grey = in_memory(np.full((50, 2, 2, 3), pixel, np.uint8), None)
    found = novelty.novelty(toy.model, splits.train, splits.test, grey, 200, 100, 0)
    assert found["num_images"] == 200 and found["num_other_images"] == 50
    assert found["likelihood_auc"] == pytest.approx(by_likelihood, abs=0.01)
    assert found["typicality_auc"] > 0.98
    own = novelty.novelty(
        toy.model, splits.train, splits.test, splits.validation, 300, 100, 0
    )
    assert abs(own["likelihood_auc"] - 0.5) < 0.1


@pytest.fixture(scope="module")
def labels():
    return labelled_splits(500, 5)


def evaluated(splits, ignored):
    model = model_with(LabelEncoder(5, ignored), 5)
    model.initialized.assign(True)
    model.flow.initialize(
        model.noise_free(random_images(64, (2, 2, 3))), np.zeros((64, 5), np.float32)
    )
    return report.evaluate(model, splits, "test", SETTINGS)


def test_an_ignored_z(labels):
    result = evaluated(unlabelled(labels), ignored=True)
    usage = result["usage"]
    assert usage["active_units"] == 0
    assert usage["mutual_information"]["nats"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(usage["kl_by_dimension"], 0, atol=1e-9)
    for name in likelihood.OTHER_CODES:
        assert result[f"{name}_z_gap_nats"] == pytest.approx(0, abs=1e-4)
    assert "regression on" not in page.table(result)  # there are no labels
    same = result["decoupling"]["consistency"]
    assert same["median_rank"] == same["median_rank_by_chance"]


def test_a_z_that_is_the_label(labels):
    """Which the decoder does not look at: the picture of a switch is b."""
    result = evaluated(labels, ignored=False)
    assert all(found["z"]["mean"] == 1.0 for found in result["probes"].values())
    assert result["probe"]["pixels"] > 0.8  # which hold the label too, less plainly
    information = result["usage"]["mutual_information"]
    assert 0.2 < information["nats"] < np.log(5)
    found = result["decoupling"]
    shares = {name: found["classifier"][name] for name in found["without_z"]}
    assert shares == found["without_z"]
    assert found["encoder"]["of_b"] == 1.0 and found["encoder"]["of_a"] == 0.0
    assert found["encoder"]["score"] == -1.0
    text = page.table(result)
    for name in ("active units", "score -1.000", "RBF SVM on z", "100.0%"):
        assert name in text
