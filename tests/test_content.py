"""Whether z is about the content, and the classifier that judges it."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import random_images, randomize, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.bijectors.base import watched
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.evaluation import classifier, content, latents, page, probes, report
from toys import (
    DIM,
    LabelEncoder,
    LinearFlow,
    LinearGaussian,
    labelled_splits,
    model_with,
    unlabelled,
)

SETTINGS = cfg.EvaluationConfig(
    num_samples=1,
    batch_size=250,
    probe_seeds=2,
    probe_images=500,
    classifier_steps=150,
    switch_pairs=300,
    generated_images=50,
    temperatures=(1.0,),
)


def test_parts_of_v_by_level():
    """The split priors' last channels, and the output of the top level."""
    flow = cfg.FlowConfig([1, [1, 1], [1], 1], [4] * 4, factors=[4, 2])
    model = vf.build_model(tiny_model_config(image_shape=(16, 16, 3), flow=flow))
    randomize(model, scale=0.1)
    left, tops = [], []
    priors = [block.split_prior for level in model.flow.levels[1:-1] for block in level]

    def note(layer, v, log_det_map):
        if layer in priors:
            left.append(v[..., layer.kept :].numpy())
        else:
            tops.append(v.numpy())

    [top] = model.flow.levels[-1][0].steps
    with watched([*priors, top], note):
        x, z = tf.random.stateless_normal([2, 16, 16, 3], [1, 2]), tf.zeros([2, 4])
        v, _ = model.flow.inverse_and_log_det(x, z)
    first, second, last = model.flow.by_level(v)
    np.testing.assert_array_equal(first, np.concatenate(left[1::-1], axis=-1))
    np.testing.assert_array_equal(second, left[2])
    np.testing.assert_array_equal(last, tops[0])
    assert sum(tf.size(part) for part in (first, second, last)) == tf.size(v)


def test_sensitivity_has_closed_forms():
    rng = np.random.default_rng(0)
    # Smooth, so that a crop looks like the whole.
    slope, height = rng.uniform(-60, 60, 400), rng.uniform(100, 150, 400)
    across = np.linspace(-1, 1, 32)[:, np.newaxis]
    images = height[:, None, None, None] + slope[:, None, None, None] * across
    images = np.broadcast_to(images, (400, 32, 32, 3))
    split = in_memory(np.uint8(images), None)

    def found(encode):
        return content.sensitivity(
            lambda x: encode(np.float64(x))[:, np.newaxis], split, 100, seed=0
        )

    mean = found(lambda x: x.mean(axis=(1, 2, 3)))
    assert mean["flip"] == pytest.approx(0, abs=1e-12)
    # The mean of z squared is its variance: 4 var / 2 var.
    tilt = found(lambda x: x[:, :, 16:].mean((1, 2, 3)) - x[:, :, :16].mean((1, 2, 3)))
    assert tilt["flip"] == pytest.approx(2, rel=0.02)
    assert tilt["crop"] < 0.1 and mean["change of colour"] > 0.1
    constant = found(lambda x: np.zeros(len(x)))
    assert set(constant.values()) == {0.0}


def test_total_correlation_of_a_gaussian():
    """-1/2 log det of the correlation matrix of means plus noise."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(2000, 3)) @ [[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1.0]]
    wide = latents.Posteriors(mixed, np.full_like(mixed, 0.5))
    covariance = np.array([[1.25, 0.8, 0], [0.8, 1.25, 0], [0, 0, 1.25]])
    expected = -0.5 * np.linalg.slogdet(covariance / 1.25)[1]
    assert latents.total_correlation(wide, seed=0).nats == pytest.approx(
        expected, abs=0.05
    )
    assert not latents.total_correlation(wide, seed=0).saturated
    apart = latents.Posteriors(rng.normal(size=(2000, 3)), np.full((2000, 3), 0.5))
    assert latents.total_correlation(apart, seed=0).nats == pytest.approx(0, abs=0.05)


def test_total_correlation_that_cannot_be_known():
    """Each z lies near one image alone, so the dimensions seem to depend."""
    rng = np.random.default_rng(0)
    narrow = latents.Posteriors(rng.normal(size=(400, 50)), np.full((400, 50), 0.1))
    found = latents.total_correlation(narrow, seed=0)
    assert found.saturated and found.nats > 50


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 12, 3)])
def test_changes_of_images(shape):
    """They keep shapes, and depend on an image's position, not on its batch."""
    images = tf.constant(random_images(6, shape))
    for change in content.CHANGES.values():
        whole = change(images, 3, 0)
        assert whole.shape == images.shape and whole.dtype == tf.uint8
        assert np.any(whole != images)
        np.testing.assert_array_equal(change(images[4:], 3, 4), whole[4:])
    assert np.any(content.cropped(images, 3, 0) != content.cropped(images, 4, 0))


def test_a_wide_z_stays_whole():
    """The label is in one of 200 entries of z, which have equal variances."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    z = rng.normal(size=(600, 200))
    z[:, 137] += 4 * labels
    split = in_memory(np.zeros((600, 2, 2, 3), np.uint8), labels)
    for width, least, most in ((200, 0.8, 1.0), (20, 0.3, 0.75)):
        fitted = probes.fit_probes(z, split, 1, ["logistic"], (width,))
        [found] = probes.score_probes(fitted, z, split).values()
        assert least < found["mean"] <= most


def test_content_in_z():
    """z is the label, which the flow takes out of v and puts into x."""
    model = model_with(LabelEncoder(5), 5)
    weights = np.zeros((5, DIM))
    weights[:, 0] = 20 * np.arange(5) / 128
    model.flow = LinearFlow(weights)
    result = report.evaluate(
        model, labelled_splits(500, 5), "test", SETTINGS, only=["content", "decoupling"]
    )
    found = result["content"]
    probes = found["probes"]
    assert set(probes) == {"z", "v_128"}  # v has 12 entries
    assert probes["z"]["mean"] == 1.0 and abs(probes["v_128"]["mean"] - 0.2) < 0.1
    assert found["margin"] > 0.7
    judge = result["decoupling"]["classifier"]
    assert found["score"] == judge["score"] and found["score"] > 0.2
    # The mean of +1 for a's class, -1 for b's and 0 for another, over the pairs.
    signs = np.repeat(
        [1, -1, 0],
        np.round(
            300
            * np.array(
                [judge["of_a"], judge["of_b"], 1 - judge["of_a"] - judge["of_b"]]
            )
        ).astype(int),
    )
    error = signs.std() / np.sqrt(len(signs))
    assert found["score_error"] == pytest.approx(error, rel=1e-6)
    text = page.table(result)
    assert "yes: z tells the class better than v; z decides it in a switch" in text
    assert "by a small classifier of the training images" in text


def test_content_that_the_decoder_ignores():
    model = model_with(LabelEncoder(5), 5)
    model.flow.initialize(
        model.noise_free(random_images(64, (2, 2, 3))), np.zeros((64, 5), np.float32)
    )
    result = report.evaluate(
        model, labelled_splits(500, 5), "test", SETTINGS, only=["content"]
    )
    assert result["content"]["probes"]["z"]["mean"] == 1.0
    assert result["content"]["score"] < -0.2
    assert result["decoupling"] is None  # it was not asked for
    text = page.table(result)
    assert "in part: z tells the class better than v; v decides it" in text


def test_no_content_to_measure():
    model = vf.build_model(
        tiny_model_config(
            image_shape=(2, 2, 3), latent_dim=0, flow=cfg.FlowConfig([1], [4])
        )
    )
    model.initialize(random_images(64, (2, 2, 3)))
    result = report.evaluate(
        model, labelled_splits(50, 3), "test", SETTINGS, only=["content"]
    )
    assert result["content"] is None
    assert "infers no z" in page.table(result)


def test_a_kept_classifier_judges_alike(tmp_path):
    """The one that an evaluation trains is written, and gives the same figures."""
    toy = LinearGaussian(1.0)
    splits = toy.splits(300)
    only = ["decoupling", "fidelity"]
    first = report.evaluate(
        toy.model, splits, "test", SETTINGS, only=only, folder=str(tmp_path)
    )
    [path] = tmp_path.iterdir()
    told = []
    given = dataclasses.replace(SETTINGS, classifier=str(path))
    again = report.evaluate(toy.model, splits, "test", given, told.append, only=only)
    assert not any("classifier" in line for line in told)
    for found in (first, again):
        del found["decoupling"]["classifier"]["name"]
    assert first["fidelity"].pop("network").startswith("a small classifier")
    assert again["fidelity"].pop("network").startswith("classifier.keras")
    assert json.dumps(again) == json.dumps(first)


def keras_file(path, shape, classes):
    inputs = keras.Input(shape)
    x = keras.layers.Dense(classes, "softmax")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, x).save(path)
    return str(path)


def test_classifiers_from_files(tmp_path):
    images = random_images(20, (4, 4, 3))
    path = keras_file(tmp_path / "own.keras", (4, 4, 3), 3)
    found = classifier.read(path, (4, 4, 3), 3, 8)
    expected = keras.models.load_model(path)(np.float32(images)).numpy()
    np.testing.assert_array_equal(found.labels(images), expected.argmax(axis=1))
    np.testing.assert_allclose(found.features(images), expected, rtol=1e-5)
    for shape, classes, message in (
        ((4, 4, 3), 5, r"gives \(3,\) values per image; expected \(5,\)"),
        ((8, 8, 3), 3, r"does not take images of shape \(8, 8, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            classifier.read(path, shape, classes, 8)
    with pytest.raises(UserError, match="the classifier .* cannot be read"):
        classifier.read(str(tmp_path / "none.keras"), (4, 4, 3), 3, 8)


def test_the_outputs_of_a_classifier(tmp_path):
    """One, under any name, or several with one that is called logits."""
    images = random_images(9, (4, 4, 3))
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    values = keras.layers.Dense(3)(x)
    expected = np.argmax(keras.Model(inputs, values)(np.float32(images)), axis=1)
    for number, outputs in enumerate(({"any": values}, {"logits": values, "more": x})):
        path = str(tmp_path / f"{number}.keras")
        keras.Model(inputs, outputs).save(path)
        found = classifier.read(path, (4, 4, 3), 3, 8)
        np.testing.assert_array_equal(found.labels(images), expected)
        assert found.features(images).shape == (9, 3)
    path = str(tmp_path / "two.keras")
    keras.Model(inputs, {"one": values, "other": x}).save(path)
    with pytest.raises(UserError, match="several outputs; expected one, or one that"):
        classifier.read(path, (4, 4, 3), 3, 8)
    keras.Model(inputs, values).export(tmp_path / "saved", verbose=False)
    found = classifier.read(str(tmp_path / "saved"), (4, 4, 3), 3, 8)
    np.testing.assert_array_equal(found.labels(images), expected)


def test_a_classifier_without_labels_to_judge(tmp_path):
    path = keras_file(tmp_path / "own.keras", (2, 2, 3), 5)
    settings = dataclasses.replace(SETTINGS, classifier=path)
    with pytest.raises(UserError, match="nothing to judge: .* have no labels"):
        report.evaluate(
            model_with(LabelEncoder(5), 5),
            unlabelled(labelled_splits(50, 5)),
            "test",
            settings,
            only=["fidelity"],
        )


def test_a_named_classifier_is_checked_first(tmp_path):
    path = keras_file(tmp_path / "own.keras", (2, 2, 3), 7)
    settings = dataclasses.replace(SETTINGS, classifier=path)
    told = []
    with pytest.raises(UserError, match="one per class"):
        report.evaluate(
            model_with(LabelEncoder(5), 5),
            labelled_splits(50, 5),
            "test",
            settings,
            told.append,
            only=["decoupling"],
        )
    assert not told
