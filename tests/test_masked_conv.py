"""MaCow's layers: whom a pixel looks at, and what sampling costs."""

import numpy as np
import pytest
import tensorflow as tf

from testing import assert_valid_bijector, float64_init, randomize
from tfp_vaeflow import bijectors as tfvb
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks import Initializer

KERNEL = (2, 3)


def masked(order, channels=2, init=None, **changes) -> tfvb.MaskedConv:
    config = CouplingConfig(**{"hidden": 4, **changes})
    return tfvb.make_masked_conv(
        channels, config, order, KERNEL, init or float64_init()
    )


@pytest.mark.parametrize(
    "order, changes, conditioning_shape",
    [
        ("A", {}, 0),
        ("B", {"conditioning_dim": 2}, 2),
        ("C", {"conditioning_dim": 2, "conditioning": "local_linear"}, (3, 2, 2)),
        ("D", {"conditioning_dim": 2, "transform": "nlsq"}, 2),
    ],
)
def test_masked_conv(order, changes, conditioning_shape):
    layer = masked(order, **changes)
    assert_valid_bijector(layer, (3, 2, 2), conditioning_shape)


def test_unit():
    config = CouplingConfig(hidden=4, conditioning_dim=2)
    unit = tfvb.MaCowUnit(1, config, KERNEL, float64_init())
    assert_valid_bijector(unit, (2, 3, 1), 2, scale=0.1)


@pytest.mark.parametrize(
    "order, rows, columns",
    [
        ("A", range(4, 6), range(2, 5)),  # those below hear of a pixel at (3, 3)
        ("B", range(1, 3), range(2, 5)),
        ("C", range(2, 5), range(4, 6)),
        ("D", range(2, 5), range(1, 3)),
    ],
)
def test_which_pixels_hear_of_one(order, rows, columns):
    layer = masked(order)
    randomize(layer)
    x = np.random.default_rng(0).standard_normal((1, 7, 7, 2))
    moved = x.copy()
    moved[0, 3, 3] += 1
    difference = np.abs(layer.inverse(x) - layer.inverse(moved))[0].max(axis=-1)
    heard = {(i, j) for i, j in np.argwhere(difference > 1e-12).tolist()}
    assert heard == {(i, j) for i in rows for j in columns} | {(3, 3)}


def test_a_fresh_layer_is_the_identity_after_initialisation():
    layer = masked("A", channels=3)
    x = np.random.default_rng(0).standard_normal((4, 5, 6, 3))
    np.testing.assert_allclose(layer.initialize(x), x, atol=1e-12)


def test_the_width_follows_from_the_channels():
    for channels, hidden in ((3, 12), (96, 384), (97, 194), (300, 512)):
        config = CouplingConfig(hidden=1)
        unit = tfvb.MaCowUnit(channels, config, (1, 1), Initializer())
        assert unit.members[0].network.shifted.kernel.shape[-1] == hidden


@pytest.mark.parametrize("order", ["A", "D"])
def test_sampling_convolves_one_strip_a_row(order):
    """A loop over rows (columns), each turn a convolution of `[kh, W]` alone."""
    layer = masked(order, init=Initializer())
    height, width, batch = 6, 10, 2

    def sample(v):
        return layer.forward_and_log_det(v)

    spec = tf.TensorSpec([batch, height, width, 2])
    graph = tf.function(sample).get_concrete_function(spec).graph
    (loop,) = [
        op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")
    ]
    assert not [op for op in graph.get_operations() if op.type == "Conv2D"]
    body = graph._get_function(loop.get_attr("body").name).graph
    (strip,) = [op for op in body.get_operations() if op.type == "Conv2D"]
    (pointwise,) = [op for op in body.get_operations() if op.type == "MatMul"]
    across = width if order == "A" else height
    (kh, kw) = KERNEL
    assert strip.inputs[0].shape.as_list() == [batch, kh, across + kw - 1, 2]
    assert strip.outputs[0].shape.as_list() == [batch, 1, across, 4]
    assert pointwise.inputs[0].shape.as_list() == [batch * across, 4]


def test_there_are_four_orders():
    with pytest.raises(UserError, match="order is 'E'; expected A, B, C or D"):
        masked("E")


@pytest.mark.parametrize("built_with", [0, 2])
def test_missing_or_surplus_conditioning(built_with):
    layer = masked("A", conditioning_dim=built_with)
    x = tf.zeros([1, 3, 3, 2], tf.float64)
    z = None if built_with else tf.zeros([1, 2], tf.float64)
    for run in (layer.forward_and_log_det, layer.inverse_and_log_det):
        with pytest.raises(ValueError, match="masked_conv.*conditioning"):
            run(x, z)
