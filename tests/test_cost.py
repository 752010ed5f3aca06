"""What a model costs, against counts by hand."""

import dataclasses

import pytest

import tfp_vaeflow as vf
from testing import tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.training.cost import costs


def test_flops_and_activations():
    config = tiny_model_config(
        flow=cfg.FlowConfig(num_steps=[1], hidden=[4], factors=[]),
        prior=cfg.PriorConfig("normal"),
    )
    parts = costs(vf.build_model(config))
    # Four couplings of 8x8 positions: 3x3 from a to 4, 1x1 from 4 to 4, 3x3 from 4 to
    # 2 b; z gives 4 numbers each; and the 1x1 convolution of three channels.
    # Of three channels, one is transformed.
    a, b = 2, 1
    couplings = 4 * (64 * 2 * (9 * a * 4 + 4 * 4 + 9 * 4 * 2 * b) + 2 * 4 * 4)
    assert parts["losses"].flops == pytest.approx(couplings + 64 * 2 * 9)
    # The encoder: two blocks on 8x8 and 4x4 (with projections), top, dense.
    block_0 = 64 * 2 * (9 * 3 * 4 + 9 * 4 * 4 + 3 * 4)
    block_1 = 16 * 2 * (9 * 4 * 4 + 9 * 4 * 4 + 4 * 4)
    head = 16 * 2 * 4 * 2 + 2 * 32 * 8
    assert parts["statistics"].flops == block_0 + block_1 + head
    # Each coupling keeps both of its hidden activations, 4 channels of float32.
    assert parts["losses"].activation_bytes > 4 * 2 * 64 * 4 * 4
    twice = costs(vf.build_model(config), num_samples=2)
    assert twice["statistics"] == parts["statistics"]
    assert twice["losses"].flops == pytest.approx(2 * parts["losses"].flops)
    ratio = twice["losses"].activation_bytes / parts["losses"].activation_bytes
    assert 1.8 < ratio <= 2
    plain = costs(vf.build_model(dataclasses.replace(config, latent_dim=0)))
    assert plain["statistics"].flops == 0


def test_more_components_than_half_the_default_number_of_images():
    config = tiny_model_config(
        image_shape=(32, 32, 3), latent_dim=260, principal_components=257
    )
    assert costs(vf.build_model(config))["losses"].flops > 0
