import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import random_images, randomize, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.common.errors import UserError


@pytest.fixture(scope="module")
def model():
    """A tiny model, initialised and then moved away from the identity."""
    model = vf.build_model(tiny_model_config(), seed=1)
    model.initialize(random_images(64))
    randomize(model, scale=0.05)
    return model


@pytest.fixture(scope="module")
def images():
    return random_images(12, seed=3)


@pytest.fixture(scope="module")
def plain():
    """The same without z."""
    model = vf.build_model(tiny_model_config(latent_dim=0, encoder=None, prior=None))
    model.initialize(random_images(64))
    randomize(model, scale=0.05)
    return model


def test_variables_and_gradients(model, images):
    """Every variable is there once, and every one gets a finite gradient."""
    keras_variables = {id(v.value) for v in model.encoder.resnet.variables}
    found = [id(v) for v in model.variables]
    assert len(found) == len(set(found)) and keras_variables <= set(found)
    with tf.GradientTape() as tape:
        draws = model.draw_loss_noise(0, len(images), 2)
        losses = model.losses_given_noise(images, draws, training=True)
        loss = tf.reduce_mean(losses.total)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert gradient is not None, variable.name
        assert np.isfinite(gradient).all(), variable.name
        assert np.abs(gradient).max() > 0, variable.name


def test_same_seed_same_weights():
    a, b, c = (vf.build_model(tiny_model_config(), seed) for seed in (5, 5, 6))
    for x, y in zip(a.variables, b.variables):
        np.testing.assert_array_equal(x, y)
    kernels = [
        (x, y)
        for x, y in zip(a.trainable_variables, c.trainable_variables)
        if x.shape.rank > 1
    ]
    assert all(np.abs(x - y).max() > 0 for x, y in kernels)
    first, second, *_ = a.flow.levels[0][0].steps[0].members[2:4]
    same_shape = first.network.first.kernel, second.network.second.kernel
    assert np.std(same_shape[0]) > 0 and np.std(same_shape[1]) > 0


def test_initialize_once_only():
    model = vf.build_model(tiny_model_config())
    assert not model.initialized.numpy()
    images = random_images(128)
    model.initialize(images)
    z, v = model.encode(images)
    assert abs(np.mean(v)) < 0.05 and abs(np.std(v) - 1) < 0.2
    posterior = model.encoder(model.noise_free(images)).distribution
    assert np.abs(posterior.loc).max() < 0.1
    np.testing.assert_allclose(posterior.scale, 1, atol=0.1)
    with pytest.raises(ValueError, match="initialised already"):
        model.initialize(images)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_initialize_in_batches(kind):
    """The weights are those of all images at once, with a smaller last batch."""
    flow = cfg.FlowConfig([1, [1], 1], [4, 4, 4], [4], step="macow")
    local = cfg.FlowConfig([1, 1], [4, 4], conditioning="local_linear")
    config = tiny_model_config(
        flow=flow,
        dequantizer=cfg.DequantizerConfig(local, cfg.EncoderConfig([4], 2)),
    )
    labels = None
    if kind == "categorical":
        prior = cfg.PriorConfig(kind="categorical", num_classes=3)
        config = dataclasses.replace(config, prior=prior)
        labels = np.arange(40) % 3
    whole, batched = (vf.build_model(config) for _ in range(2))
    images = random_images(40)
    whole.initialize(images, labels=labels)
    batched.initialize(images, labels=labels, batch_size=9)
    for a, b in zip(whole.variables, batched.variables):
        if a.dtype.is_floating:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_bins", [2, 17, 32, 256])
def test_decode_undoes_encode(n_bins):
    model = vf.build_model(tiny_model_config(n_bins=n_bins))
    images = random_images(64)
    model.initialize(images)
    randomize(model, scale=0.05)
    levels = images.astype(int) * n_bins // 256
    quantised = (-(-levels * 256 // n_bins)).astype(np.uint8)
    np.testing.assert_array_equal(model.decode(*model.encode(images)), quantised)
    np.testing.assert_array_equal(model.decode(*model.encode(quantised)), quantised)


def test_decode_undoes_encode_without_z(plain, images):
    z, v = plain.encode(images)
    assert z is None
    np.testing.assert_array_equal(plain.decode(z, v), images)
    np.testing.assert_array_equal(plain.reconstruct(images), images)
    assert np.all(plain.losses(images).kl == 0)
    assert plain.sample(3).shape == (3, 8, 8, 3)


def test_codes(model, images):
    z, v = model.encode(images)
    assert z.shape == (12, 4) and v.shape == images.shape
    other = model.encode(images, u=0.0)
    np.testing.assert_array_equal(other[0], z)  # the encoder does not see u
    assert np.abs(other[1] - v).max() > 1e-3
    assert (model.decode(z + 1, v).numpy() != images).any()


def test_losses_do_not_depend_on_the_batch(model, images):
    whole = model.losses(images, num_samples=3, seed=7)
    parts = model.losses(images, num_samples=3, seed=7, batch_size=5)
    first = model.losses(images[:4], num_samples=3, seed=7)
    for term in range(3):
        np.testing.assert_allclose(parts[term], whole[term], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(first[term], whole[term][:4], rtol=1e-5, atol=1e-4)
    other = model.losses(images, num_samples=3, seed=8)
    assert np.abs(other.generation - whole.generation).max() > 1e-3


def test_k_samples_are_averaged(model, images):
    draws = model.draw_loss_noise(0, len(images), 3)
    singles = [
        model.losses_given_noise(
            images, type(draws)(*(part[:, k : k + 1] for part in draws))
        )
        for k in range(3)
    ]
    together = model.losses_given_noise(images, draws)
    for term in range(3):
        mean = np.mean([single[term] for single in singles], axis=0)
        np.testing.assert_allclose(together[term], mean, rtol=1e-5, atol=1e-4)


def test_score_and_bits_per_dim(model, images):
    losses = model.losses(images)
    score = model.score(images)
    np.testing.assert_allclose(model.bits_per_dim(losses), score["total"], rtol=1e-6)
    terms = score["generation"] + score["kl"] + score["dequantization"]
    np.testing.assert_allclose(terms, score["total"], rtol=1e-6)
    assert "standard_error" not in score


def test_a_score_of_several_samples(model, images):
    """Its log-likelihood is importance-weighted, and it says how exact it is."""
    draws = model.draw_loss_noise(3, len(images), 4)
    nats = np.float64(model.losses_of_samples(images, draws).total)
    score = model.score(images, num_samples=4, seed=3)
    bits = nats / (model.config.num_dims * np.log(2))
    error = np.std(bits, axis=1, ddof=1) / 2
    np.testing.assert_allclose(score["standard_error"], error, rtol=1e-3)
    log_mean = np.logaddexp.reduce(-nats, axis=1) - np.log(4)
    constant = model.config.num_dims * np.log(model.config.n_bins / 2)
    np.testing.assert_allclose(score["log_prob"], log_mean - constant, rtol=1e-5)


def test_the_model_is_a_distribution_over_levels():
    """Over all images of one pixel with 4 levels, probabilities sum to about 1."""
    flow = cfg.FlowConfig(num_steps=[0, 1], hidden=[4, 4])
    config = tiny_model_config(image_shape=(2, 2, 1), n_bins=2, latent_dim=0, flow=flow)
    model = vf.build_model(config)
    model.initialize(random_images(64, (2, 2, 1)))
    randomize(model, scale=0.1)
    everything = np.array(list(np.ndindex(2, 2, 2, 2)), np.uint8).reshape(-1, 2, 2, 1)
    draws = model.draw_loss_noise(0, 16, 2000)
    x, _ = model.dequantized(everything * 128, {}, draws)
    log_density = model.log_prob(x, None)
    volume = (2 / 2) ** 4  # of one level's cell in x
    probabilities = np.mean(np.exp(log_density), axis=1) * volume
    assert 0.5 < probabilities.sum() < 1.02  # some mass lies outside of [-1, 1)
    samples = model.decoder.sample(20_000, seed=2)
    inside = np.mean(np.all(np.abs(samples) < 1, axis=(1, 2, 3)))
    assert abs(probabilities.sum() - inside) < 0.03


def test_samples(model):
    many = model.sample(16, temperature=0.7, seed=1)
    assert many.dtype == tf.uint8 and many.shape == (16, 8, 8, 3)
    np.testing.assert_array_equal(model.sample(8, temperature=0.7, seed=1), many[:8])
    np.testing.assert_array_equal(
        model.sample(16, temperature=0.7, seed=1, batch_size=5), many
    )
    later = model.sample(6, temperature=0.7, seed=1, first=10)
    np.testing.assert_array_equal(later, many[10:])
    assert (model.sample(16, temperature=0.7, seed=2) != many).numpy().any()
    z, v = model.sample_codes(16, temperature=0.7, seed=1)
    z_again, v_again = model.sample_codes(16, temperature=1.4, seed=1)
    np.testing.assert_array_equal(z, z_again)  # temperature scales v only
    np.testing.assert_allclose(2 * v, v_again, rtol=1e-6)


def test_layers_run_one_by_one_only_within_their_block(model):
    with pytest.raises(ZeroDivisionError), model.by_layers():
        assert model._is_by_layers
        1 / 0  # noqa: B018
    assert not model._is_by_layers


def test_move_along_a_direction(model, images):
    """From the mean z of some images to that of others, with v kept."""
    z, v = (code.numpy() for code in model.encode(images))
    direction = model.direction(images[3:], images[:3], batch_size=2)
    np.testing.assert_allclose(direction, z[3:].mean(0) - z[:3].mean(0), atol=1e-5)
    made = model.move(images, direction, [0.0, 2.0, -1.0], batch_size=4)
    assert made.shape == (len(images), 3, *model.config.image_shape)
    np.testing.assert_array_equal(made[:, 0], images)
    expected = model.decode(z + 2 * np.asarray(direction), v)
    np.testing.assert_array_equal(made[:, 1], expected)
    for bad in ((direction[:-1], [1.0]), (direction, []), (direction, 1.0)):
        with pytest.raises(UserError, match="the direction is of shape"):
            model.move(images, *bad)


def test_switch_and_interpolate(model, images):
    a, b = images[:6], images[6:]
    z_a_v_b, z_b_v_a = model.switch(a, b)
    z_a, v_a = model.encode(a)
    z_b, v_b = model.encode(b)
    np.testing.assert_array_equal(z_a_v_b, model.decode(z_a, v_b))
    np.testing.assert_array_equal(z_b_v_a, model.decode(z_b, v_a))
    path = model.interpolate(a[0], b[0], [0, 0.5, 1], [0, 1])
    assert path.shape == (3, 2, 8, 8, 3)
    np.testing.assert_array_equal(path[0, 0], a[0])
    np.testing.assert_array_equal(path[2, 1], b[0])
    np.testing.assert_array_equal(path[2, 0], z_b_v_a[0])
    np.testing.assert_array_equal(path[0, 1], z_a_v_b[0])


def test_reconstruct(model, images):
    back = model.reconstruct(images, seed=1).numpy().astype(int)
    assert np.abs(back - images).max() <= 1 and (back != images).mean() < 0.01
    np.testing.assert_array_equal(back, model.reconstruct(images, seed=1))


def test_decoder_is_a_transformed_distribution(model, images):
    z, v = model.encode(images, u=0.0)
    kwargs = {"conditioning": z}
    x = model.noise_free(images)
    log_prob = model.decoder.log_prob(x, bijector_kwargs=kwargs)
    base = -0.5 * np.sum(np.square(v) + np.log(2 * np.pi), axis=(1, 2, 3))
    log_det = model.flow.inverse_log_det_jacobian(x, event_ndims=3, **kwargs)
    np.testing.assert_allclose(log_prob, base + log_det, rtol=1e-5)
    samples = model.decoder.sample(12, seed=1, bijector_kwargs=kwargs)
    assert samples.shape == images.shape


def test_group_norm_and_normal_prior(images):
    config = tiny_model_config(
        encoder=cfg.EncoderConfig([4, 8], 2, norm="group", num_groups=[2, 4]),
        prior=cfg.PriorConfig(kind="normal"),
    )
    model = vf.build_model(config)
    model.initialize(random_images(32))
    losses = model.losses(images)
    assert (losses.kl.numpy() >= 0).all()  # analytic
    assert np.isfinite(losses.total).all()


def test_description_survives_json():
    config = tiny_model_config()
    values = dataclasses.asdict(config)
    assert cfg.model_config_from_dict(values) == config


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, x: m.encode(x.astype(np.float32)), "float32 of shape .*uint8"),
        (lambda m, x: m.encode(x[0]), "uint8 of shape \\(8, 8, 3\\)"),
        (lambda m, x: m.encode(x[:0]), "empty batch"),
        (lambda m, x: m.encode(x, u=1.0), "u is 1.0; expected"),
        (lambda m, x: m.losses(x, num_samples=0), "num_samples is 0"),
        (lambda m, x: m.losses(x, batch_size=0), "batch_size is 0"),
        (lambda m, x: m.sample(0), "num_images is 0"),
        (lambda m, x: m.sample(2, temperature=float("nan")), "temperature is nan"),
        (lambda m, x: m.sample(2, temperature=float("inf")), "temperature is inf"),
        (lambda m, x: m.decode(None, np.zeros(x.shape)), "z is None"),
        (lambda m, x: m.decode(np.zeros((3, 4)), np.zeros(x.shape)), "z is of shape"),
        (lambda m, x: m.switch(x[:3], x[:2]), "switch got 3 and 2 images"),
        (lambda m, x: m.interpolate(x[:1], x[1], [0], [0]), "expected one image"),
        (lambda m, x: m.interpolate(x[0], x[1], [], [0]), "expected two lists"),
        (lambda m, x: m.interpolate(x[0], x[1], 0.5, [0]), "expected two lists"),
    ],
)
def test_wrong_calls_are_answered(model, images, call, message):
    with pytest.raises(vf.UserError, match=message):
        call(model, images)
