"""Helpers that several test modules share."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import config as cfg
from tfp_vaeflow.noise import Initializer


def tiny_model_config(**changes) -> cfg.ModelConfig:
    """A 3-level model for 8x8 RGB images that builds in a moment."""
    values = {
        "image_shape": (8, 8, 3),
        "n_bins": 256,
        "latent_dim": 4,
        "flow": cfg.FlowConfig(num_steps=[1, [1], 1], hidden=[4, 4, 4], factors=[4]),
        "encoder": cfg.EncoderConfig(planes=[4], out_planes=2),
        "prior": cfg.PriorConfig(num_steps=1, hidden=4),
    }
    return cfg.ModelConfig(**{**values, **changes})


def random_images(count: int, shape=(8, 8, 3), seed: int = 0) -> np.ndarray:
    """Smooth-ish random uint8 images, so that initialisation sees unequal channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (count, shape[0] // 2, shape[1] // 2, shape[2]))
    fine = rng.integers(0, 56, (count, *shape))
    return (coarse.repeat(2, 1).repeat(2, 2) + fine).astype(np.uint8)


def randomize(module: tf.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Moves every floating-point variable away from its start.

    A fresh coupling is the identity, and a test of it would test nothing.
    """
    rng = np.random.default_rng(seed)
    for variable in module.variables:
        if variable.dtype.is_floating and variable.trainable:
            variable.assign_add(scale * rng.standard_normal(variable.shape))


def float64_init(seed: int = 0) -> Initializer:
    return Initializer(seed, tf.float64)


def assert_valid_bijector(
    bijector,
    event_shape: tuple[int, ...],
    conditioning_dim: int = 0,
    scale: float = 0.3,
) -> None:
    """Checks all that a bijector promises, in float64 on random weights.

    Round trips from both sides, the log-dets of both directions against autodiff
    Jacobians, that it is not the identity, that examples do not see each other, and
    that every variable and input gets a finite gradient.

    Args:
      bijector: built with `float64_init`.
      event_shape: of one example; keep its size small, the Jacobian is dense.
      conditioning_dim: length of the conditioning; 0 for none.
      scale: how far the weights are moved; deep flows lose digits when it is large.
    """
    randomize(bijector, scale=scale)
    rng = np.random.default_rng(1)
    batch = 3
    x = tf.constant(rng.standard_normal((batch, *event_shape)))
    kwargs, conditioning = {}, None
    if conditioning_dim:
        conditioning = tf.constant(rng.standard_normal((batch, conditioning_dim)))
        kwargs = {"conditioning": conditioning}
    ndims = len(event_shape)
    close = dict(rtol=0, atol=1e-8)

    # tf.identity keeps TFP's cache, which goes by tensor, from answering.
    y = bijector.forward(x, **kwargs)
    np.testing.assert_allclose(bijector.inverse(tf.identity(y), **kwargs), x, **close)
    back = bijector.inverse(tf.identity(x), **kwargs)
    again = bijector.forward(tf.identity(back), **kwargs)
    np.testing.assert_allclose(again, x, **close)
    assert np.abs(y - x).max() > 1e-2, "the bijector is the identity"

    size = int(np.prod(event_shape))
    for run, fldj in (
        (bijector.forward, bijector.forward_log_det_jacobian),
        (bijector.inverse, bijector.inverse_log_det_jacobian),
    ):
        value = tf.identity(x)
        with tf.GradientTape() as tape:
            tape.watch(value)
            result = run(value, **kwargs)
        jacobian = tape.batch_jacobian(result, value)
        matrices = tf.reshape(jacobian, [batch, size, size])
        expected = np.linalg.slogdet(matrices.numpy())[1]
        fresh = tf.identity(value)
        log_det = fldj(fresh, event_ndims=ndims, **kwargs)
        np.testing.assert_allclose(log_det, expected, **close)

    # The methods that return both agree with TFP's.
    both = bijector.inverse_and_log_det(x, conditioning)
    np.testing.assert_allclose(both[0], back, **close)
    np.testing.assert_allclose(both[1], log_det, **close)
    assert both[1].shape == (batch,)

    for index in range(batch):
        one = {k: v[index : index + 1] for k, v in kwargs.items()}
        alone = bijector.forward(x[index : index + 1], **one)
        np.testing.assert_allclose(alone[0], y[index], **close)

    variables = bijector.trainable_variables
    with tf.GradientTape() as tape:
        inputs = [x, *kwargs.values()]
        tape.watch(inputs)
        value, log_det = bijector.inverse_and_log_det(*inputs)
        loss = tf.reduce_sum(value**2) - tf.reduce_sum(log_det)
    for target, gradient in zip(
        [*variables, *inputs], tape.gradient(loss, [*variables, *inputs])
    ):
        assert gradient is not None, getattr(target, "name", "input")
        assert np.isfinite(gradient).all(), getattr(target, "name", "input")
        used = conditioning is None or target is not conditioning
        assert not used or np.abs(gradient).max() > 0, getattr(target, "name", "input")
