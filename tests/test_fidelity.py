"""FID and KID against formulas, by networks from files."""

import keras
import numpy as np
import pytest

from exports import build, grey_digits
from testing import random_images
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.evaluation import fidelity

SHAPE = (8, 8, 3)


def test_frechet_distance_of_gaussians():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(20_000, 3))
    other = rng.normal(size=(20_000, 3)) * 2.0 + [1.0, 0.0, 0.0]
    assert fidelity.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert fidelity.frechet_distance(one, other) == pytest.approx(1 + 3, rel=0.03)
    turned = rng.normal(size=(20_000, 2)) @ [[1.0, 0.9], [0.0, 0.5]]
    plain = rng.normal(size=(20_000, 2))
    covariance = np.cov(turned, rowvar=False)
    roots = np.sqrt(np.linalg.eigvalsh(covariance))  # the other covariance is I
    expected = np.trace(covariance) + 2 - 2 * roots.sum()
    found = fidelity.frechet_distance(turned, plain)
    assert found == pytest.approx(expected, abs=0.02)


def test_kernel_distance_of_gaussians():
    """With one feature and means 0 and 1 the moments give 4 + 32 - 2 * 7."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2000, 1))
    same, deviation = fidelity.kernel_distance(one, other)
    assert abs(same) < deviation < 2
    found, deviation = fidelity.kernel_distance(one, other + 1)
    assert abs(found - 22) < 2 * deviation
    # Unbiased: also small sets have the same mean.
    means = [
        fidelity.kernel_distance(*rng.normal(size=(2, 40, 1)), seed)[0]
        for seed in range(36)
    ]
    assert abs(np.mean(means)) < 3 * np.std(means) / 6


def network(path):
    inputs = keras.Input((6, 6, 3))
    outputs = keras.layers.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, outputs)
    if path.suffix:
        model.save(path)
    else:
        model.export(path, verbose=False)
    return model


@pytest.mark.parametrize("name", ["net.keras", "saved_model"])
def test_networks_from_files(tmp_path, name):
    """Resized to what they take, grey to colour, positions averaged."""
    model = network(tmp_path / name)
    loaded = fidelity.load_network(str(tmp_path / name), (-1.0, 1.0), SHAPE)
    images = random_images(5, (6, 6, 3))
    found = loaded.features(images)
    expected = np.mean(model(images / 127.5 - 1.0), axis=(1, 2))
    assert found.shape == (5, 4) and loaded.name == name
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert loaded.features(random_images(4, (8, 8, 1))).shape == (4, 4)


class Unknown(keras.layers.Layer):
    """A layer that Keras cannot find by its name."""

    def call(self, x):
        return x


def test_networks_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="expected 'inception' or the path"):
        fidelity.load_network(str(tmp_path / "none"), (0.0, 1.0), SHAPE)
    (tmp_path / "net.keras").write_text("no network")
    with pytest.raises(UserError, match="cannot be read"):
        fidelity.load_network(str(tmp_path / "net.keras"), (0.0, 1.0), SHAPE)
    flat = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    flat.save(tmp_path / "flat.keras")
    with pytest.raises(UserError, match="expected images"):
        fidelity.load_network(str(tmp_path / "flat.keras"), (0.0, 1.0), SHAPE)
    inputs = keras.Input((6, 6, 1))
    for layer, message in (
        (Unknown(), "Unknown"),
        (
            keras.layers.Conv2D(2, 3),
            "does not give one vector of features per image, for images of shape",
        ),
        (keras.layers.Reshape((6, 6)), "does not give one vector of features"),
    ):
        path = tmp_path / f"{layer.name}.keras"
        keras.Model(inputs, layer(inputs)).save(path)
        with pytest.raises(UserError, match=f"{path} .*{message}"):
            fidelity.load_network(str(path), (0.0, 1.0), SHAPE)


def test_what_inceptions_figures_are_not(monkeypatch, tmp_path):
    """A small network stands in: its weights are not at hand everywhere."""
    small = network(tmp_path / "net.keras")
    monkeypatch.setattr(keras.applications, "InceptionV3", lambda **_: small)
    loaded = fidelity.load_network("inception", (0.0, 1.0), SHAPE)
    assert "Keras' weights (not comparable with published FID)" in loaded.name


@pytest.mark.slow
def test_a_saved_inception(tmp_path):
    path = tmp_path / "inception.keras"
    keras.utils.set_random_seed(0)
    keras.applications.InceptionV3(include_top=False, pooling="avg", weights=None).save(
        path
    )
    loaded = fidelity.load_network(str(path), (-1.0, 1.0), SHAPE)
    real, made = random_images(24, (32, 32, 3)), random_images(24, (32, 32, 3), seed=1)
    dark = loaded.features(real // 4)
    real, made = loaded.features(real), loaded.features(made)
    assert real.shape == (24, 2048)
    for distance in (
        fidelity.frechet_distance,
        lambda *sets: fidelity.kernel_distance(*sets)[0],
    ):
        assert distance(real, real) < distance(real, made) < distance(real, dark)


def test_a_sample_that_is_not_finite_is_an_image_like_others():
    """A flow as prior may give an infinite z for one sample in a thousand."""
    model = build(**grey_digits())
    expected = model.sample(5)
    biases = [v for v in model.prior.trainable_variables if v.shape.rank == 1]
    for bias in biases:
        bias.assign(np.nan * bias)
    assert not np.isfinite(model.sample_codes(5)[0]).any()
    found = np.concatenate([*fidelity._samples(model, 5, 1.0, 0, 2)])
    assert found.dtype == np.uint8 and found.shape == expected.shape
