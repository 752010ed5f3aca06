"""Mixed precision: bfloat16 inside the networks, float32 everywhere else."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from exports import build
from testing import (
    load_digits,
    random_images,
    randomize,
    tiny_experiment,
    tiny_model_config,
)
from tfp_vaeflow import compute, data
from tfp_vaeflow import config as cfg
from tfp_vaeflow.bijectors import ChannelSplit, make_coupling, make_masked_conv
from tfp_vaeflow.compute import convolutions
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks import Initializer
from tfp_vaeflow.serving import bundle
from tfp_vaeflow.training import Trainer
from tfp_vaeflow.training.devices import mirrored

CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")


def types_of(graph_def, operations):
    """How many operations of a graph, functions included, there are of each type."""
    nodes = [
        *graph_def.node,
        *(n for f in graph_def.library.function for n in f.node_def),
    ]
    return Counter(
        tf.as_dtype(node.attr["T"].type) for node in nodes if node.op in operations
    )


def steps(mixed):
    """Losses and gradient norms of some steps of a small model, and its trainer."""
    whole = tiny_experiment(micro_batches=1, mixed_precision=mixed)
    config = cfg.ExperimentConfig(
        model=tiny_model_config(
            image_shape=(8, 8, 1),
            n_bins=17,
            flow=cfg.FlowConfig(num_steps=[0, 1], hidden=[4, 16], factors=[]),
        ),
        optimizer=whole.optimizer,
        training=whole.training,
    )
    split = load_digits(config).train
    trainer = Trainer(config, mirrored(["CPU:0"]))
    trainer.initialize(split)
    batches = data.training_batches(split, config.data, 48, config.training.seed, 0)
    results = []
    for batch in batches.take(5):
        result = trainer.train_step(batch)
        results.append([*result.losses, result.gradient_norm])
    return np.array(results), trainer, trainer.graph(batch).as_graph_def()


@pytest.fixture(scope="module")
def mixed():
    """On a processor that has bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "multiplies_bfloat16", lambda: True)
        return steps(True)


def test_a_step_is_that_of_float32_but_for_rounding(mixed):
    exact, _, graph = steps(False)
    results, *_ = mixed
    assert (results[:, 1] != exact[:, 1]).all()
    np.testing.assert_allclose(results, exact, rtol=0.03, atol=1e-6)
    assert set(types_of(graph, CONVOLUTIONS)) == {tf.float32}


def test_networks_compute_in_bfloat16_and_nothing_else_does(mixed):
    _, trainer, graph = mixed
    forward, by_input, by_kernel = (
        set(types_of(graph, [name])) for name in CONVOLUTIONS
    )
    assert forward == by_input == {tf.bfloat16}
    # The encoder's kernels have their gradients in float32.
    assert by_kernel == {tf.bfloat16, tf.float32}
    products = types_of(graph, ["MatMul"])
    # The 1x1 convolutions of the flow and the conditioning stay exact.
    assert products[tf.bfloat16] and products[tf.float32]
    assert set(types_of(graph, ["Qr", "Exp", "Log"])) == {tf.float32}
    assert set(types_of(graph, ["ResourceApplyAdam", "L2Loss"])) == {tf.float32}
    floating = {v.dtype for v in trainer.model.variables if v.dtype.is_floating}
    assert floating == {tf.float32}


def test_a_processor_without_bfloat16_multiplies_its_numbers_in_float32(
    mixed, monkeypatch
):
    monkeypatch.setattr(convolutions, "multiplies_bfloat16", lambda: False)
    results, _, graph = steps(True)
    assert set(types_of(graph, (*CONVOLUTIONS, "MatMul"))) == {tf.float32}
    assert types_of(graph, ["Elu"])[tf.bfloat16]
    np.testing.assert_allclose(results[0], mixed[0][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results, mixed[0], rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (1, 1, 6, 5), (3, 3, 5, 6), (3, 3, 6, 5)])
def test_without_bfloat16_linear_maps_are_of_its_numbers(shape, monkeypatch):
    rng = np.random.default_rng(0)
    of_images = (2, 4, 4) if len(shape) == 4 else (2,)
    exact = [rng.standard_normal(size) for size in ((*of_images, shape[-2]), shape)]
    narrow = [tf.cast(values, tf.bfloat16) for values in exact]
    wide = [tf.cast(values, tf.float32) for values in narrow]

    def value_and_gradients(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = compute.linear(*arguments)
        return [y, *tape.gradient(y, arguments)]

    monkeypatch.setattr(convolutions, "multiplies_bfloat16", lambda: False)
    for found, expected in zip(value_and_gradients(narrow), value_and_gradients(wide)):
        assert found.dtype == tf.bfloat16
        np.testing.assert_array_equal(found, tf.cast(expected, tf.bfloat16))


def test_outside_of_the_step_the_encoder_is_float32(mixed):
    _, trainer, _ = mixed
    encode = tf.function(trainer.model.encoder.statistics)
    graph = encode.get_concrete_function(tf.zeros([2, 8, 8, 1])).graph.as_graph_def()
    assert set(types_of(graph, CONVOLUTIONS)) == {tf.float32}


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("conditioning", ["global_linear", "global_attn"])
def test_a_coupling_takes_and_gives_float32(norm, conditioning):
    config = CouplingConfig(
        hidden=8, conditioning_dim=3, norm=norm, num_groups=2, conditioning=conditioning
    )
    check_inverse(make_coupling(4, config, ChannelSplit(), Initializer()))


def test_a_masked_convolution_takes_and_gives_float32():
    config = CouplingConfig(hidden=8, conditioning_dim=3)
    check_inverse(make_masked_conv(4, config, "A", (2, 3), Initializer()))


# With batch norm the networks of the image flow are folded, those of the prior are not.
@pytest.mark.parametrize(
    "norm", [pytest.param("none", marks=pytest.mark.slow), "batch"]
)
def test_an_exported_model_computes_its_networks_in_bfloat16(
    norm, tmp_path, monkeypatch
):
    monkeypatch.setattr(convolutions, "multiplies_bfloat16", lambda: True)
    whole = tiny_model_config().flow
    changes = {"flow": dataclasses.replace(whole, norm=norm)}
    exact, served = (
        tf.saved_model.load(
            bundle.export(build(**changes), tmp_path / "tiny", mixed_precision=mixed)
        )
        for mixed in (False, True)
    )
    for model, expected in ((exact, tf.float32), (served, tf.bfloat16)):
        graph = model.signatures["sample"].graph.as_graph_def()
        assert set(types_of(graph, ["Conv2D"])) == {expected}
        assert types_of(graph, ["MatMul"])[tf.float32]  # the flow's 1x1 convolutions
        kept = {weight.dtype for weight in model.weights}
        assert kept == {expected, tf.float32}
    images = tf.constant(random_images(3))
    seed = tf.range(3, dtype=tf.int64)
    requests = {
        "encode": {"image": images},
        "sample": {"seed": seed, "temperature": tf.ones([3])},
        "score": {"image": images, "seed": seed},
    }
    theirs, ours = (
        {name: model.signatures[name](**rows) for name, rows in requests.items()}
        for model in (exact, served)
    )
    assert 0 < np.abs(ours["encode"]["v"] - theirs["encode"]["v"]).max() < 0.01
    pixels = (np.int32(found["sample"]["image"]) for found in (ours, theirs))
    assert np.abs(np.subtract(*pixels)).max() <= 1
    np.testing.assert_allclose(
        ours["score"]["total"], theirs["score"]["total"], rtol=1e-3
    )
    codes = {name: ours["encode"][name] for name in ("z", "v")}
    back = served.signatures["decode"](**codes)["image"]
    np.testing.assert_array_equal(back, images)


def check_inverse(bijector):
    """Same values as in float32 but for rounding; exact round trips all the same."""
    randomize(bijector, scale=0.1)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((2, 4, 4, 4)), tf.float32)
    z = tf.constant(rng.standard_normal((2, 3)), tf.float32)
    exact = bijector.inverse_and_log_det(x, z)
    with compute.using(mixed_precision=True):
        value, log_det = bijector.inverse_and_log_det(x, z)
        back, back_log_det = bijector.forward_and_log_det(value, z)
    assert value.dtype == log_det.dtype == back.dtype == tf.float32
    assert 0 < np.abs(value - exact[0]).max() < 0.05
    assert 0 < np.abs(log_det - exact[1]).max() < 0.5
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(back_log_det, -log_det, atol=1e-4)
