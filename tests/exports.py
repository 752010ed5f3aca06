"""Small models, initialised and exported, for the tests of what serves them."""

from pathlib import Path

from testing import random_images, randomize, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.model import VAEFlow, build_model
from tfp_vaeflow.serving import bundle


def build(seed: int = 1, **changes) -> VAEFlow:
    """A tiny model whose every layer does something; see `tiny_model_config`."""
    config = tiny_model_config(**changes)
    model = build_model(config, seed)
    images = random_images(64, config.image_shape)
    labels = None
    if config.is_class_conditional:
        labels = [i % config.prior.num_classes for i in range(len(images))]
    model.initialize(images, labels=labels)
    randomize(model, scale=0.05)
    return model


def export_tiny(
    directory: Path, num_samples: int = 2, jit_compile: bool = False, **changes
) -> VAEFlow:
    """Exports a tiny model; returns another one with the same weights, not folded."""
    bundle.export(build(**changes), directory, num_samples, jit_compile=jit_compile)
    return build(**changes)


def grey_digits() -> dict:
    """What makes the tiny model one of the digits."""
    return {
        "image_shape": (8, 8, 1),
        "n_bins": 17,
        "flow": cfg.FlowConfig(num_steps=[0, [1], 1], hidden=[8, 8, 8], factors=[4]),
    }
