"""z that starts as principal components, and the map that couplings see of it."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import (
    assert_valid_bijector,
    float64_init,
    random_images,
    tiny_model_config,
)
from tfp_vaeflow import bijectors
from tfp_vaeflow import config as cfg
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.networks import Initializer, MapLinear, PrincipalComponents, Projection

SHAPE = (8, 8, 3)
MAP = {"conditioning": "code_map", "map_size": 2, "map_channels": 3}


def drawn(count, seed=0):
    """Pictures of a probabilistic PCA with known components: x, W and the noise.

    c = W z + sqrt(0.01) eps on coarse pictures of 4x4, and x has four pixels of each.
    """
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(48, 3)))[0]
    weights = directions * [3.0, 2.0, 1.0]
    c = rng.normal(size=(count, 3)) @ weights.T + 0.1 * rng.normal(size=(count, 48))
    c = c.reshape(-1, 4, 4, 3) + 0.5
    return c.repeat(2, axis=1).repeat(2, axis=2), weights


def fitted(count=20_000):
    x, weights = drawn(count)
    components = PrincipalComponents(SHAPE, 2, 3, float64_init())
    projection = Projection(components, float64_init())
    log_variance = projection.initialize([tf.constant(x[:9000]), tf.constant(x[9000:])])
    return components, projection, log_variance, weights


def test_probabilistic_pca():
    """The fit finds what the pictures were drawn from, and its exact posterior."""
    components, projection, log_variance, weights = fitted()
    assert components.noise.numpy() == pytest.approx(0.01, rel=0.01)
    np.testing.assert_allclose(components.variances, [9.01, 4.01, 1.01], rtol=0.05)
    np.testing.assert_allclose(components.mean, 0.5, atol=0.1)
    found = components.basis * components.deviations()
    signs = np.sign(np.sum(found * weights, axis=0))
    np.testing.assert_allclose(found, weights * signs, atol=0.1)
    # E[z | c] = M^-1 W' (c - mean), Var[z | c] = noise M^-1 with M = W' W + noise I.
    x, _ = drawn(50, seed=1)
    w, noise = found.numpy(), components.noise.numpy()
    inverse = np.linalg.inv(w.T @ w + noise * np.eye(3))
    centered = components.coarse(tf.constant(x)).numpy() - components.mean.numpy()
    expected = centered @ w @ inverse
    np.testing.assert_allclose(projection(tf.constant(x), 5)[:, :3], expected)
    assert not np.any(projection(tf.constant(x), 5)[:, 3:])
    np.testing.assert_allclose(
        log_variance, np.log(noise * np.diag(inverse)), rtol=1e-6
    )


def test_a_fit_goes_by_the_images_alone():
    """Not by how they are batched, nor by the sign that a library happens to choose."""
    x = tf.constant(drawn(300)[0])
    whole, parts = (PrincipalComponents(SHAPE, 2, 3, 0) for _ in range(2))
    whole.initialize([x])
    parts.initialize(tf.split(x, 3))
    for one, other in zip(whole.variables, parts.variables):
        np.testing.assert_allclose(one, other, atol=1e-5)
    largest = np.abs(whole.basis).argmax(axis=0)
    assert np.all(whole.basis.numpy()[largest, range(3)] > 0)


def test_fewer_images_than_components():
    components = PrincipalComponents(SHAPE, 1, 20, 0)
    with pytest.raises(UserError, match="39 images .* 20 principal .* at least 40"):
        components.initialize([tf.constant(random_images(39) / 255, tf.float32)])
    components.initialize([tf.zeros([40, *SHAPE])])  # all alike
    assert components.noise.numpy() > 0
    assert np.all(components.variances.numpy() >= components.noise.numpy())


def coarse_picture():
    components = fitted(500)[0]
    return bijectors.CoarsePicture(components, float64_init())


def test_coarse_picture():
    layer = coarse_picture()
    layer.initialize(tf.constant(drawn(9)[0]), tf.zeros([9, 5], tf.float64))
    assert_valid_bijector(layer, SHAPE, conditioning_shape=5)
    with pytest.raises(ValueError, match="expected a conditioning"):
        layer.inverse(tf.zeros([1, *SHAPE], tf.float64))


def test_the_picture_is_that_of_the_components():
    """Of blocks, whose means it gives where neighbours are equal."""
    layer = coarse_picture()
    known, z = layer.components, np.random.default_rng(0).normal(size=(4, 3))
    layer.initialize(tf.constant(drawn(9)[0]), tf.zeros([9, 3], tf.float64))
    coarse = (z * known.deviations()) @ known.basis.numpy().T + known.mean
    coarse = np.reshape(coarse, (4, 4, 4, 3))
    expected = tf.image.resize(coarse, (8, 8), "bilinear")
    np.testing.assert_allclose(layer.picture(tf.constant(z)), expected, atol=1e-5)


def test_conditioned_through():
    init = float64_init()
    coupling = bijectors.make_coupling(
        6, cfg.CouplingConfig(4, 3), bijectors.ChannelSplit(), init
    )
    kernel = np.random.default_rng(0).normal(size=(5, 3))
    layer = bijectors.ConditionedThrough(coupling, lambda z: z @ kernel)
    assert_valid_bijector(layer, (2, 2, 6), conditioning_shape=5)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (1, 2)])
def test_the_map_at_every_resolution(shape):
    layer = MapLinear(2, 2 * 2 * 3, 5, Initializer(0))
    cells = np.random.default_rng(0).normal(size=(7, 2, 2, 3)).astype(np.float32)
    h = layer(tf.zeros([7, *shape, 1]), tf.reshape(cells, [7, -1]))
    assert h.shape == (7, *shape, 5)
    at_cells = cells @ layer.kernel.numpy() + layer.bias.numpy()
    for row, column in np.ndindex(*shape):
        # The cells that a position covers, or the one that covers it.
        rows = range(2) if shape[0] == 1 else [row * 2 // shape[0]]
        columns = range(2) if shape[1] == 1 else [column * 2 // shape[1]]
        expected = at_cells[:, list(rows)][:, :, list(columns)].mean(axis=(1, 2))
        np.testing.assert_allclose(h[:, row, column], expected, atol=1e-5)


def test_a_flow_that_sees_the_map():
    config = cfg.FlowConfig([1, [1], 1], [4] * 3, factors=[4], **MAP)
    flow = bijectors.MultiScaleFlow(config, 2, 3, float64_init())
    assert_valid_bijector(flow, (4, 4, 2), conditioning_shape=3, scale=0.1)


def model_with_components(**changes):
    settings = tiny_model_config(latent_dim=6, principal_components=4, **changes)
    model = vf.build_model(settings, seed=1)
    images = random_images(300)
    model.initialize(images)
    return model, images


def test_z_starts_as_principal_components():
    """So the picture of z has the coarse content, and the flow has the rest."""
    flow = cfg.FlowConfig([1, [1], 1], [4] * 3, factors=[4], **MAP)
    model, images = model_with_components(flow=flow, coarse_block=4)
    mean, stddev = model.posterior(images)
    x = model.noise_free(images)
    components = model.encoder.projection.components
    expected = model.encoder.projection(x, 6)
    np.testing.assert_allclose(mean, expected, atol=0.1)  # and what the head gives
    posterior = components.noise / components.variances
    np.testing.assert_allclose(stddev[:, :4] ** 2, [posterior] * 300, rtol=0.1)
    np.testing.assert_allclose(stddev[:, 4:], 1.0, rtol=0.1)
    np.testing.assert_allclose(np.var(mean, axis=0)[:4] + posterior, 1, rtol=0.1)
    picture = model.flow.members[0].picture(mean)
    rest = components.coarse(x - picture)
    assert np.var(rest) < 0.9 * np.var(components.coarse(x))
    # The coarse picture has no log-det: the density is that of the rest.
    z = tf.constant(mean)[:, tf.newaxis]
    rest = bijectors.Sequential(model.flow.members[1:])
    v, log_det = rest.inverse_and_log_det(x - picture, mean)
    base = model.decoder.distribution.log_prob(v)
    found = model.log_prob(x[:, tf.newaxis], z)[:, 0]
    np.testing.assert_allclose(found, base + log_det, rtol=1e-4, atol=1e-2)


def test_components_are_not_trained():
    model, _ = model_with_components()
    fixed = model.encoder.projection.components.variables
    trained = {variable.ref() for variable in model.trainable_variables}
    assert len(fixed) == 4 and not any(v.ref() in trained for v in fixed)
    # One copy, for the encoder and the decoder.
    of_flow = {variable.ref() for variable in model.flow.variables}
    assert all(variable.ref() in of_flow for variable in fixed)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"principal_components": 5}, "expected at most 4"),
        (
            {"principal_components": 3, "coarse_block": 8},
            "coarse pictures of 3 numbers",
        ),
        ({"principal_components": 2, "coarse_block": 3}, "a divisor of both sides"),
        ({"principal_components": 2, "latent_dim": 0}, "no encoder infers z"),
        ({"principal_components": -1}, "at least 0"),
        ({"flow": {**MAP, "map_size": 3}}, "map_size is 3, but a side"),
        ({"flow": {**MAP, "map_channels": 0}}, "at least 1"),
        ({"image_shape": (10, 8, 3), "flow": MAP}, "halves the sides"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        if "flow" in changes:
            changes = {
                **changes,
                "flow": cfg.FlowConfig([1, [1], 1], [4] * 3, (4,), **changes["flow"]),
            }
        dataclasses.replace(tiny_model_config(), **changes)


def test_components_need_more_images():
    model = tiny_model_config(principal_components=4)
    training = cfg.TrainingConfig(initialization_images=4)
    with pytest.raises(
        UserError, match="initialization_images is 4; expected at least 8"
    ):
        cfg.ExperimentConfig(model, training=training)


def test_a_map_has_whole_cells_and_positions():
    for settings in ({"conditioning_dim": 5}, {"conditioning_dim": 8, "dense": True}):
        with pytest.raises(UserError, match="a multiple of 4, the cells of the map"):
            cfg.CouplingConfig(4, conditioning="code_map", map_size=2, **settings)


def test_large_coarse_pictures_are_refused():
    with pytest.raises(UserError, match="take larger blocks"):
        tiny_model_config(
            image_shape=(128, 128, 3), principal_components=2, coarse_block=2
        )
