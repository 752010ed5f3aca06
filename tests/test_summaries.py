"""What TensorBoard is given."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector as projector_plugin

import tfp_vaeflow as vf
from testing import random_images, randomize, tiny_experiment, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.training.summaries import dashboard, projector, statistics


@pytest.mark.parametrize("kind", ["glow", "macow"])
def test_statistics(kind):
    """Log-dets of the levels add up to that of the flow."""
    flow = cfg.FlowConfig([1, [1], 1], [4, 4, 4], [4], step=kind)
    model = vf.build_model(tiny_model_config(flow=flow))
    images = random_images(6)
    model.initialize(images)
    randomize(model, scale=0.05)
    found = statistics.model_statistics(model, images, None, 4)
    levels = [found[f"log_det/level{level}"] for level in range(3)]
    draws = model.draw_loss_noise(0, 6, 1)
    generation = model.losses_given_noise(images, draws).generation
    found_of = model.statistics(images)
    z = model.global_code.sample(found_of, draws.posterior)
    x, _ = model.dequantized(images, found_of, draws)
    v, log_det = model.flow.inverse_and_log_det(x[:, 0], z[:, 0])
    np.testing.assert_allclose(sum(levels), log_det, rtol=1e-4, atol=1e-3)
    assert np.isfinite(generation).all()
    for level in range(3):
        actnorm = found[f"log_scale/level{level}/actnorm"]
        coupling = found[f"log_scale/level{level}/coupling"]
        assert len(actnorm) >= 6 and actnorm.std() > 0 and coupling.std() > 0
    assert found["posterior/mean"].shape == found["posterior/stddev"].shape == (6, 4)
    assert (found["posterior/stddev"] > 0).all()


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 32, 3)])
def test_projector_files(tmp_path, shape):
    images = random_images(5, shape)
    labels = np.array([3, 1, 4, 1, 5])
    flow = cfg.FlowConfig([0, 1], [4, 4])
    model = vf.build_model(tiny_model_config(image_shape=shape, flow=flow))
    z, _ = model.posterior(images)
    projector.write_projection(tmp_path, model, in_memory(images, labels), 2)
    config = projector_plugin.ProjectorConfig()
    text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    found = np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t")
    np.testing.assert_allclose(found, z, rtol=1e-4)
    lines = (tmp_path / embedding.metadata_path).read_text().split()
    assert lines == ["3", "1", "4", "1", "5"]
    width, height = embedding.sprite.single_image_dim
    assert max(width, height) == 32 and width / height == shape[1] / shape[0]
    sprite = np.asarray(Image.open(tmp_path / embedding.sprite.image_path))
    assert sprite.shape == (3 * height, 3 * width, 3)
    if shape[-1] == 1:  # the fourth image, in the second row, enlarged
        cell = sprite[height : height + 32 : 4, :32:4, :1]
        np.testing.assert_array_equal(cell, images[3])


def test_settings_are_plain():
    found = dashboard.settings(tiny_experiment())
    assert found["optimizer.learning_rate"] == 3e-3
    assert found["model.flow.hidden"] == "(8, 8, 8)"
    assert found["model.latent_dim"] == 4
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())
