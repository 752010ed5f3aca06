"""The elementwise transforms of couplings, far from the origin too."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_vaeflow.bijectors.elementwise import make_transform
from tfp_vaeflow.config.flow import TRANSFORMS

VALUES = np.array([0.0, 1e-30, -1e-6, 0.3, -2.0, 7.0, -60.0, 1e4, -1e4])


def inputs(transform, scale, dtype=np.float64, seed=0):
    """Every value with several draws of the parameters."""
    rng = np.random.default_rng(seed)
    x = np.tile(VALUES, 20).astype(dtype)[:, np.newaxis]
    params = scale * rng.standard_normal((len(x), transform.num_parameters))
    return tf.constant(x), tf.constant(params.astype(dtype))


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_round_trip(name, scale):
    transform = make_transform(name, 1.0)
    x, params = inputs(transform, scale)
    v, log_det = transform.inverse_and_log_derivative(x, params)
    back, back_log_det = transform.forward_and_log_derivative(v, params)
    assert all(np.isfinite(t).all() for t in (v, log_det, back, back_log_det))
    # What rounding v moves x by, and the code's own size.
    slope = np.exp(np.minimum(log_det, 0))
    room = 1e-13 * (np.abs(v) + np.abs(params).max() + 1) / slope + 1e-12 * np.abs(x)
    assert (np.abs(back - x) <= room + 1e-12).all()
    # Close to a kink, or where it is almost flat, the slope is another one nearby.
    close = (np.abs(back - x) < 1e-6) & (np.abs(x) >= 0.3)
    np.testing.assert_allclose(
        back_log_det[close], -log_det[close], rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_round_trip_in_single_precision(name):
    transform = make_transform(name, 1.0)
    x, params = inputs(transform, 1.0, np.float32)
    v, log_det = transform.inverse_and_log_derivative(x, params)
    assert v.dtype == log_det.dtype == tf.float32
    back, back_log_det = transform.forward_and_log_derivative(v, params)
    assert back.dtype == back_log_det.dtype == tf.float32
    slope = np.exp(np.minimum(log_det, 0))
    assert (np.abs(back - x) <= 3e-6 * (np.abs(x) + np.abs(v) + 1) / slope).all()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_log_derivatives_are_autodiffs(name, alpha):
    transform = make_transform(name, alpha)
    x, params = inputs(transform, 1.0)
    for run in (
        transform.inverse_and_log_derivative,
        transform.forward_and_log_derivative,
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value, log_det = run(x, params)
        slope = tape.gradient(value, x)
        assert (slope.numpy() > 0).all()
        np.testing.assert_allclose(np.log(slope), log_det, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_of_the_way_back(name):
    """With respect to code and parameters, of value and log-derivative."""
    transform = make_transform(name, 1.0)
    rng = np.random.default_rng(1)
    v = tf.constant(rng.standard_normal((6, 1)))
    params = tf.constant(rng.standard_normal((6, transform.num_parameters)))

    def run(v, params):
        return tf.concat(transform.forward_and_log_derivative(v, params), -1)

    theory, numeric = tf.test.compute_gradient(run, [v, params], delta=1e-5)
    for one, other in zip(theory, numeric):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_parameters_of_zero_are_the_identity(name):
    transform = make_transform(name, 1.0)
    x, params = inputs(transform, 0.0)
    for run in (
        transform.inverse_and_log_derivative,
        transform.forward_and_log_derivative,
    ):
        value, log_det = run(x, params)
        np.testing.assert_allclose(value, x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(log_det, 0, atol=1e-12)


def test_relu_at_a_known_point():
    transform = make_transform("relu", 1.0)
    x, params = tf.constant([[2.0], [-2.0]]), tf.constant([[0.5, 0.3]] * 2)
    v, log_det = transform.inverse_and_log_derivative(x, params)
    scale = 1 + np.tanh(0.3)
    np.testing.assert_allclose(v, [[2 * scale + 0.5], [-1.5]], rtol=1e-6)
    np.testing.assert_allclose(log_det, [[np.log(scale)], [0]], rtol=1e-6)


def test_symm_elu_at_a_known_point():
    transform = make_transform("symm_elu", 1.0)
    x, params = tf.constant([[2.0], [-2.0]]), tf.constant([[0.5, 0.3]] * 2)
    v, _ = transform.inverse_and_log_derivative(x, params)
    bend = np.tanh(0.15) * (1 - np.exp(-2))
    np.testing.assert_allclose(v, [[2.5 + bend], [-1.5 - bend]], rtol=1e-6)


def test_nlsq_at_a_known_point():
    transform = make_transform("nlsq", 1.0)
    a, log_b, c, log_d, g = 0.1, 0.5, 0.7, -0.3, 0.2
    x, params = tf.constant([[1.5]]), tf.constant([[a, log_b, c, log_d, g]])
    b, d = np.exp(0.4 * log_b), np.exp(0.4 * log_d)
    height = (8 * np.sqrt(3) / 9 - 0.05) * b / d * np.tanh(0.3 * c)
    expected = b * 1.5 + a + height / (1 + (d * 1.5 + g) ** 2)
    v, _ = transform.inverse_and_log_derivative(x, params)
    np.testing.assert_allclose(v, [[expected]], rtol=1e-6)
