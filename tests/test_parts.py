"""Encoder, priors and objective on their own."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from testing import randomize, tiny_model_config
from tfp_vaeflow import compute
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import EncoderConfig, ObjectiveConfig, PriorConfig
from tfp_vaeflow.model.objective import Losses, bits_per_dim_terms, training_objective
from tfp_vaeflow.model.priors import build_prior
from tfp_vaeflow.networks import Initializer, WeightNormLinear
from tfp_vaeflow.networks.encoders import build_global_resnet
from tfp_vaeflow.networks.norms import BatchNormalization

tfd = tfp.distributions


def test_batch_norm_keeps_the_unbiased_variance():
    layer = BatchNormalization()
    x = np.random.default_rng(0).standard_normal((4, 2, 3, 5)).astype(np.float32)
    y = layer(x, training=True)
    biased = x.var(axis=(0, 1, 2))
    expected = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(biased + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    unbiased = x.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * unbiased, rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_mean, 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6
    )


def gradients(function, upstream, *inputs):
    inputs = [tf.constant(value) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return y, *tape.gradient(y, inputs, upstream)


def test_the_gradient_of_batch_norm():
    rng = np.random.default_rng(0)
    x, upstream = rng.standard_normal((2, 4, 2, 3, 5)) + 0.3
    layer = BatchNormalization(dtype="float64")
    layer.build(x.shape)
    layer.gamma.assign(scale := rng.standard_normal(5))
    layer.beta.assign(offset := rng.standard_normal(5))

    def expected(x, scale, offset):
        moments = tf.nn.moments(x, [0, 1, 2])
        return tf.nn.batch_normalization(x, *moments, offset, scale, 1e-5)

    with tf.GradientTape() as tape:
        tape.watch(given := tf.constant(x))
        y = layer(given, training=True)
    wanted = [given, layer.gamma.value, layer.beta.value]
    actual = y, *tape.gradient(y, wanted, upstream)
    for one, other in zip(actual, gradients(expected, upstream, x, scale, offset)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("height", [1, 31, 65])
@pytest.mark.parametrize("size", [1, 3])
def test_even_convolutions_are_convolutions(height, size):
    check_convolution(compute.conv2d_same, height, (size, size, 3, 4))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 4, 3), (3, 5, 4, 3), (3, 5, 3, 4), (3, 5, 2, 120), (1, 3, 1, 60)],
    ids=["product", "fewer channels", "more", "many more", "many more, one row"],
)
def test_kernels_convolve(shape):
    check_convolution(compute.linear, 4, shape)


@pytest.mark.parametrize("function", [compute.linear, compute.conv2d_same])
def test_no_images_have_the_channels_of_the_kernel(function):
    y = tf.function(function)(tf.zeros([0, 4, 4, 3]), tf.zeros([3, 3, 3, 5]))
    assert y.numpy().shape == (0, 4, 4, 5)


def check_convolution(function, height, shape):
    """Compares it and its gradients with TensorFlow's, in double precision."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, 5, shape[2]))
    upstream = rng.standard_normal((2, height, 5, shape[3]))
    kernel = rng.standard_normal(shape)

    def expected(x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME")

    actual = gradients(function, upstream, x, kernel)
    for one, other in zip(actual, gradients(expected, upstream, x, kernel)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_strided_convolutions_pad_both_sides():
    """The first row of a stride-2 layer sees the padding, as in the reference."""
    resnet = build_global_resnet(EncoderConfig([2], 1), (4, 4, 1), Initializer())
    layer = resnet.get_layer("level0_block1_conv1")
    kernel = np.zeros((3, 3, 2, 2), np.float32)
    kernel[0, 0] = np.eye(2)
    layer.kernel.assign(kernel)
    padding = resnet.get_layer("level0_block1_conv1_padding")
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 2)).astype(np.float32)
    y = layer(padding(x)).numpy()
    np.testing.assert_allclose(y[0, 1, 1], x[0, 1, 1])
    assert (y[0, 0] == 0).all() and (y[0, :, 0] == 0).all()


def test_encoder_kernels_start_within_their_fan_in():
    resnet = build_global_resnet(EncoderConfig([8], 4), (8, 8, 3), Initializer())
    for layer in resnet.layers:
        if not hasattr(layer, "kernel"):
            continue
        fan_in = np.prod(layer.kernel.shape[:-1])
        size = np.abs(layer.kernel).max()
        assert 0.5 / np.sqrt(fan_in) < size <= 1 / np.sqrt(fan_in), layer.name


def test_weight_norm():
    layer = WeightNormLinear((3, 4), Initializer())
    np.testing.assert_allclose(layer.kernel, layer.direction, rtol=1e-6)
    x = noise.normal(0, Stream.PRIOR, 100, (3,))
    y = layer.initialize(x, 0.3)
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(y, 0, ddof=1), 0.3, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(layer.kernel, axis=0), layer.gain)


def posterior(batch=5, dim=3):
    mean = noise.normal(0, Stream.PRIOR, batch, (1, dim))
    std = 0.2 + noise.uniform(0, Stream.PRIOR, batch, (1, dim))
    return tfd.Independent(tfd.Normal(mean, std), 1)


def test_kl_to_the_normal_prior_is_analytic():
    prior = build_prior(PriorConfig("normal"), 3, Initializer())
    q = posterior()
    mean, std = q.distribution.loc, q.distribution.scale
    expected = np.sum((mean**2 + std**2 - 1) / 2 - np.log(std), axis=(1, 2))
    np.testing.assert_allclose(prior.kl(q, None), expected, rtol=1e-5)
    eps = noise.normal(0, Stream.PRIOR, 4, (3,))
    np.testing.assert_array_equal(prior.from_noise(eps), eps)


def test_flow_prior():
    prior = build_prior(PriorConfig("flow", 2, 8), 3, Initializer())
    randomize(prior, scale=0.1)
    q = posterior()
    eps = noise.normal(0, Stream.POSTERIOR, 5, (4000, 3))
    z = q.distribution.loc + q.distribution.scale * eps
    kl = prior.kl(q, z)
    assert kl.shape == (5,)
    assert (kl.numpy() > 0).all()  # a mean over many samples
    single = [prior.kl(q, z[:, k : k + 1]) for k in range(3)]
    together = prior.kl(q, z[:, :3])
    np.testing.assert_allclose(together, np.mean(single, 0), rtol=1e-4, atol=1e-5)
    # What it samples is what it scores.
    draw = noise.normal(1, Stream.PRIOR, 6, (3,))
    samples = prior.from_noise(draw)
    back = prior.flow.inverse(tf.identity(samples))
    np.testing.assert_allclose(back, draw, atol=1e-4)
    assert np.abs(samples - draw).max() > 0.01


def losses(generation=0.0, kl=0.0, dequantization=0.0):
    return Losses(*(tf.constant([x]) for x in (generation, kl, dequantization)))


def test_bits_per_dim_of_the_uniform_density():
    """log p(x) = -D ln 2 on [-1, 1) gives every level 1 / n_bins."""
    for n_bins in (2, 17, 256):
        config = tiny_model_config(n_bins=n_bins)
        uniform = losses(generation=config.num_dims * np.float32(np.log(2)))
        total = bits_per_dim_terms(uniform, config)["total"]
        np.testing.assert_allclose(total, [np.log2(n_bins)], rtol=1e-5)


@pytest.mark.parametrize(
    "config, step, expected",
    [
        ({}, 0, 10 + 3 + 1),
        ({"kl_weight": 0.5}, 0, 10 + 1.5 + 1),
        ({"kl_warmup_steps": 10}, 0, 10 + 1),
        ({"kl_warmup_steps": 10}, 5, 10 + 1.5 + 1),
        ({"kl_warmup_steps": 10}, 99, 10 + 3 + 1),
        ({"free_nats": 2.0}, 0, 10 + 3 + 1),
        ({"free_nats": 7.0}, 0, 10 + 7 + 1),
        ({"free_nats": 7.0, "kl_weight": 0.5}, 0, 10 + 3.5 + 1),
    ],
)
def test_training_objective(config, step, expected):
    value = training_objective(
        losses(10.0, 3.0, 1.0), ObjectiveConfig(**config), tf.constant(step)
    )
    np.testing.assert_allclose(value, [expected], rtol=1e-6)


def test_free_nats_take_the_gradient_of_a_small_kl_away():
    """All but that of the prior: below them, it still learns from the example."""
    for kl, of_posterior, of_prior in ((3.0, 0.0, 1.0), (9.0, 1.0, 0.0)):
        value, prior = tf.constant([kl]), tf.constant([5.0])
        with tf.GradientTape() as tape:
            tape.watch([value, prior])
            terms = Losses(tf.zeros(1), value, tf.zeros(1))
            config = ObjectiveConfig(free_nats=7.0)
            objective = training_objective(terms, config, tf.constant(0), prior)
        assert objective.numpy() == [max(kl, 7.0)]
        found = tape.gradient(objective, [value, prior])
        assert [g.numpy()[0] for g in found] == [of_posterior, of_prior]
