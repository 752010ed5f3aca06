"""Variants of the model, as a whole: exact decoding, samples, labels.

Models that hold each value of each setting are in `test_combinations.py`.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
import whole_list
from testing import randomize, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.common.errors import UserError

# Level 0 without steps: one step and one split prior hold all that a variant changes.
TINY_FLOW = {"num_steps": [0, [1], 0], "hidden": [4, 4, 4], "factors": [4]}
ENCODER = cfg.EncoderConfig([4], 2)
CLASSES = {
    "encoder": None,
    "prior": cfg.PriorConfig("categorical", num_classes=3),
}


def dequantizer(**changes) -> cfg.DequantizerConfig:
    values = {"num_steps": [0, 1], "hidden": [4, 4], "conditioning": "local_linear"}
    flow = cfg.FlowConfig(**{**values, **changes})
    return cfg.DequantizerConfig(flow, cfg.EncoderConfig([4, 6], 2))


def flow(**changes) -> dict:
    return {"flow": cfg.FlowConfig(**{**TINY_FLOW, **changes})}


GREY = {"image_shape": (4, 8, 1), **flow()}
VARIANTS = {
    "relu": flow(transform="relu", prior_transform="relu"),
    "nlsq": flow(transform="nlsq", prior_transform="additive"),
    "symm_elu": flow(transform="symm_elu", prior_transform="nlsq"),
    "alpha": flow(alpha=0.5, activation="leaky_relu"),
    "factors": flow(num_steps=[0, [1, 0], [0], 0], hidden=[4] * 4, factors=[3, 2])
    | {
        "image_shape": (16, 8, 3),
        "encoder": cfg.EncoderConfig([4, 4, 6], 2, "relu", "group", [2, 2, 3]),
    },
    "attention": flow(conditioning="global_attn", norm="instance"),
    "group": flow(norm="group", num_groups=[2, 4, 1], activation="relu"),
    "batch": flow(norm="batch"),
    "macow attention": flow(step="macow", conditioning="global_attn"),
    "variational": {"dequantizer": dequantizer()},
    "variational macow": {"dequantizer": dequantizer(step="macow")},
    "grey variational": GREY | {"dequantizer": dequantizer()},
    "code map": flow(conditioning="code_map", map_size=2),
    "coarse": {"principal_components": 3},
    "coarse map": {"principal_components": 3}
    | flow(conditioning="code_map", map_size=4, step="macow"),
    "classes": CLASSES,
    "classes variational": CLASSES | {"dequantizer": dequantizer()},
    "grey": GREY | {"n_bins": 17},
    "5 bits": {"n_bins": 32},
}


@functools.cache
def build(name: str):
    """A model of a variant with random weights, images, and their labels if any."""
    config = tiny_model_config(**VARIANTS[name])
    model = vf.build_model(config, seed=1)
    images, labels = whole_list.data_for(config)
    model.initialize(images, labels=labels)
    randomize(model, scale=0.1)
    return model, images[:5], labels if labels is None else labels[:5]


@pytest.mark.parametrize("name", VARIANTS)
def test_exact_decoding_and_samples(name):
    whole_list.check_codes_and_samples(*build(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_whole_list(name, tmp_path):
    config = cfg.ExperimentConfig(
        tiny_model_config(**VARIANTS[name]),
        optimizer=cfg.OptimizerConfig(warmup_steps=0),
        training=cfg.TrainingConfig(batch_size=4, initialization_images=24),
    )
    whole_list.check(config, tmp_path)


def test_variational_density_of_the_noise():
    """`log q(u | x)` against the autodiff Jacobian of eps -> u."""
    model, images, _ = build("grey variational")
    found = model.statistics(images[:2])
    eps = tf.random.stateless_normal([2, 1, *model.config.image_shape], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(eps)
        u, log_density_map = model.dequantizer.sample(found, eps)
        flat = tf.reshape(u, [2, -1])
    assert np.min(u) > 0 and np.max(u) < 1
    size = flat.shape[1]
    jacobian = tf.reshape(tape.batch_jacobian(flat, eps), [2, size, size])
    log_det = np.linalg.slogdet(jacobian.numpy().astype(np.float64))[1]
    log_normal = np.sum(-(eps**2 + np.log(2 * np.pi)) / 2, axis=(1, 2, 3, 4))
    log_density = np.sum(log_density_map, (1, 2, 3))
    np.testing.assert_allclose(log_density, log_normal - log_det, atol=1e-3)


def test_dequantization_noise_depends_on_the_image():
    model, images, _ = build("variational")
    drawn = model.draw_loss_noise(0, 2, 1).dequantization[:1]
    one, other = (
        model.dequantizer.sample(model.statistics(images[i : i + 1]), drawn)[0]
        for i in range(2)
    )
    assert np.abs(one - other).max() > 1e-3


def test_labels():
    model, images, labels = build("classes")
    losses = model.losses(images, 2, labels=labels)
    np.testing.assert_allclose(losses.kl, np.log(3), rtol=1e-6)
    others = model.losses(images, 2, labels=(labels + 1) % 3)
    assert (np.abs(losses.generation - others.generation) > 1e-3).all()
    z, _ = model.encode(images, labels=labels)
    np.testing.assert_array_equal(z, model.prior.codes(labels))

    samples = model.sample(4, labels=[2, 0, 1, 2], seed=1)
    assert (samples[0] != model.sample(4, labels=[1, 0, 1, 2], seed=1)[0]).numpy().any()
    drawn = model.sample(6, seed=1)
    np.testing.assert_array_equal(drawn[:3], model.sample(3, seed=1))


def test_labels_are_drawn_by_their_probabilities():
    changes = CLASSES | {
        "prior": cfg.PriorConfig(
            "categorical", num_classes=3, class_probabilities=(0.5, 0.2, 0.3)
        )
    }
    prior = vf.build_model(tiny_model_config(**changes)).prior
    noise = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
    counts = np.bincount(prior.labels_from_noise(tf.constant(noise)))
    np.testing.assert_allclose(counts, [500, 200, 300], atol=1)
    np.testing.assert_allclose(prior.kl([2]), -np.log(0.3), rtol=1e-6)


@pytest.mark.parametrize(
    "labels, message",
    [
        (None, "labels are missing"),
        ([0.5] * 5, "labels are float32 of shape"),
        ([0, 1], r"expected integers of shape \(5,\)"),
        ([0, 1, 2, 3, 0], "labels run from 0 to 3; expected 0 to 2"),
        ([0, 1, 2, -1, 0], "labels run from -1"),
    ],
)
def test_bad_labels(labels, message):
    model, images, _ = build("classes")
    with pytest.raises(UserError, match=message):
        model.losses(images, labels=labels)


def test_what_a_class_conditional_model_cannot_do():
    model, images, labels = build("classes")
    with pytest.raises(UserError, match="z goes by the label"):
        model.switch(images, images)
    other, images, _ = build("5 bits")
    for run in (other.encode, other.losses, other.score, other.reconstruct):
        with pytest.raises(UserError, match="not class-conditional"):
            run(images, labels=labels)
    with pytest.raises(UserError, match="not class-conditional"):
        other.sample(5, labels=labels)


def test_codes_that_are_no_numbers():
    model, images, _ = build("5 bits")
    z, v = model.encode(images)
    for name, codes in (("z", (z * np.nan, v)), ("v", (z, v / 0))):
        with pytest.raises(UserError, match=f"{name} holds NaN or infinity"):
            model.decode(*codes)


@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda: flow(norm="group"), "FlowConfig.num_groups has 0 entries"),
        (lambda: flow(norm="group", num_groups=[3] * 3), "num_groups is 3 for 4"),
        (lambda: flow(num_groups=[2] * 3), "num_groups has 3 entries"),
        (lambda: flow(kernel_size=(2, 2)), "kernel_size is .* the width odd"),
        (lambda: flow(conditioning="local_linear"), "z is a vector"),
        (lambda: {"prior": cfg.PriorConfig("categorical")}, "num_classes is 0"),
        (
            lambda: {
                "prior": cfg.PriorConfig(
                    "categorical", num_classes=2, class_probabilities=(0.5, 0.4)
                )
            },
            "with the sum 0.9",
        ),
        (
            lambda: {"dequantizer": dequantizer(conditioning="global_linear")},
            "expected 'local_linear'",
        ),
        (lambda: {"image_shape": (2, 2, 3), **GREY_SAFE}, "divisible by 4"),
        (lambda: {"encoder": None}, "there is no encoder"),
    ],
)
def test_mistakes_in_the_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_model_config(**changes())


GREY_SAFE = {
    "flow": cfg.FlowConfig([1], [4]),
    "encoder": cfg.EncoderConfig([4], 2),
    "dequantizer": dequantizer(),
}


def test_batch_norm_in_couplings_sees_the_whole_batch():
    model = tiny_model_config(**VARIANTS["batch"])
    with pytest.raises(UserError, match="micro_batches is 2 with FlowConfig.norm"):
        cfg.ExperimentConfig(model, training=cfg.TrainingConfig(micro_batches=2))


def test_batch_norm_in_couplings_learns_its_statistics_in_training_alone():
    model, images, _ = build("batch")
    moving = [v for v in model.flow.variables if not v.trainable]
    assert moving
    draws = model.draw_loss_noise(0, len(images), 1)
    before = [v.numpy() for v in moving]
    alone = model.losses_given_noise(images[:1], model.draw_loss_noise(0, 1, 1)).total
    together = model.losses_given_noise(images, draws).total
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-4)
    assert all((v.numpy() == b).all() for v, b in zip(moving, before))
    model.losses_given_noise(images, draws, training=True)
    assert all((v.numpy() != b).any() for v, b in zip(moving, before))
