"""What XLA compiles, on a CPU here, gives what graphs give."""

import dataclasses
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
import whole_list
from test_compute import distance, losses_and_gradients
from test_parity import FOLDERS, load_model, load_vectors
from test_variants import VARIANTS
from testing import randomize, tiny_model_config
from tfp_vaeflow import compute
from tfp_vaeflow.model.objective import Losses

QUICK = ("5 bits",)


TOOLS = Path(__file__).parents[1] / "tools"


def test_operations_and_traffic_are_counted():
    """A product and a tanh a turn, whatever XLA joins with them."""
    program_of = runpy.run_path(str(TOOLS / "hlo_program.py"))["Program"]

    def program(turns, size=8):
        @compute.compiled
        def run(x):
            def body(x):
                return (tf.tanh(x @ x) + tf.transpose(x),)

            return tf.while_loop(lambda _: True, body, (x,), maximum_iterations=turns)

        ir = run.experimental_get_compiler_ir(tf.ones([size, size]))
        return program_of(ir("optimized_hlo"))

    one, ten, twenty = (program(turns).operations() for turns in (1, 10, 20))
    assert 2 <= one <= 12
    assert twenty - ten >= 10 * 2 and (twenty - ten) % 10 == 0
    # At least: the product writes, the sum reads it and x, and writes.
    matrix = 4 * 256**2
    a_turn = (program(20, 256).traffic() - program(10, 256).traffic()) / 10
    assert 4 * matrix <= a_turn <= 12 * matrix


def test_a_slice_counts_as_its_size():
    program_of = runpy.run_path(str(TOOLS / "hlo_program.py"))["Program"]
    text = """
fused (a: f32[100,8], i: s32[]) -> f32[1,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,8]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,8}
}

ENTRY main (a: f32[100,8], i: s32[]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,8]{1,0} fusion(%a, %i), kind=kLoop, calls=%fused
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%a, %row, %i, %zero)
}
"""
    program = program_of(text)
    assert program.operations() == 2
    assert program.traffic() == (32 + 4 + 32) + 2 * 32


def test_a_gpu_program_says_what_it_needs():
    command = [sys.executable, "tools/gpu_program.py", "pyproject.toml"]
    run = subprocess.run(command, cwd=TOOLS.parent, capture_output=True, text=True)
    assert run.returncode == 1
    assert "No module named 'jax'" in run.stderr and "--help" in run.stderr


class Scaled(tf.Module):
    factor = compute.Weight()

    def __init__(self, number: int):
        super().__init__()
        self.factor = np.linspace(0.5, 1.5, 4, dtype=np.float32) + number

    def forward(self, x, _):
        return tf.tanh(self.factor * x), tf.zeros_like(x[..., 0])


def test_turns_of_loops_are_known():
    """Also of their gradients: else a GPU waits for the host after each turn."""
    modules, stacks = compute.stacked(Scaled, 3)

    def learn(x):
        with tf.GradientTape() as tape:
            y, _ = compute.in_turn(modules, Scaled.forward, x, None)
            loss = tf.reduce_sum(y)
        return compute.gradient(tape, loss, stacks)

    x = tf.random.stateless_normal([5, 4], [1, 2])
    run = compute.compiled(learn)
    np.testing.assert_allclose(run(x), learn(x), rtol=1e-5)
    hlo = run.experimental_get_compiler_ir(x)("optimized_hlo")
    loops = [line for line in hlo.splitlines() if " while(" in line]
    assert len(loops) == 2
    assert all('"known_trip_count":{"n":"3"}' in line for line in loops)


def test_in_parts():
    """Batches of any size; how many sizes are compiled, tests/test_serving.py says."""
    signature = tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int64)
    run = compute.compiled_in_parts(
        lambda x, y: (x * x, {"more": y + 1}), signature, (1, 2, 4)
    )
    for rows in (0, 1, 2, 3, 9):
        x, y = np.random.rand(rows, 2).astype(np.float32), np.arange(rows)
        squares, more = run(x, y)
        np.testing.assert_array_equal(squares, x * x)
        np.testing.assert_array_equal(more["more"], y + 1)


def build(name: str):
    """A model of a variant with two steps alike, images, and their labels if any."""
    config = tiny_model_config(**VARIANTS[name])
    steps = [(2,) if isinstance(n, tuple) else n for n in config.flow.num_steps]
    if len(steps) == 3:
        flow = dataclasses.replace(config.flow, num_steps=steps)
        config = dataclasses.replace(config, flow=flow)
    model = vf.build_model(config, seed=1)
    images, labels = whole_list.data_for(config)
    model.initialize(images, labels=labels)
    randomize(model, scale=0.1)
    return model, images[:4], labels if labels is None else labels[:4]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_losses_gradients_and_codes(name):
    model, images, labels = build(name)
    variables = model.trainable_variables
    statistics = [v for v in model.variables if not v.trainable]
    before = [v.numpy() for v in statistics]

    def learn(images):
        with tf.GradientTape() as tape:
            draws = model.draw_loss_noise(1, images.shape[0], 2)
            losses = model.losses_given_noise(images, draws, True, labels)
            loss = tf.reduce_mean(losses.total)
        return Losses(*losses), tape.gradient(loss, variables)

    results = []
    for wrap in (tf.function, compute.compiled):
        for variable, value in zip(statistics, before):
            variable.assign(value)
        losses, gradients = wrap(learn)(tf.constant(images))
        moved = [v.numpy() for v in statistics]
        results.append((np.array(losses), list(map(np.array, gradients)), moved))
    (losses, gradients, moved), (ours, our_gradients, our_moved) = results
    np.testing.assert_allclose(ours, losses, rtol=1e-5, atol=1e-5)
    assert distance(our_gradients, gradients) < 1e-5
    for a, b in zip(our_moved, moved):
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=1e-5, atol=1e-5)

    encode = compute.compiled(lambda x: model.encode_batch(x, 0.5, labels))
    z, v = encode(tf.constant(images))
    pixels = whole_list.quantised(images, model.config.n_bins)
    decode = compute.compiled(lambda v: model.decode_batch(z, v))
    np.testing.assert_array_equal(decode(v), pixels)
    expected_z, expected_v = model.encode(images, labels=labels)
    np.testing.assert_allclose(v, expected_v, rtol=1e-3, atol=1e-3)
    if z is not None:
        np.testing.assert_allclose(z, expected_z, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_use_is_compiled_for_few_sizes(monkeypatch, capsys):
    """Where there is a GPU, as it seems here: the public methods."""
    model, images, _ = build("5 bits")
    expected = model.losses(images[:3], seed=1), model.encode(images[:3])
    samples = model.sample(3, seed=1)
    for module in (compute, compute.compilation):
        monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(compute.compilation, "_graph_calls", 1)
    compiled = vf.build_model(model.config)
    for ours, theirs in zip(compiled.variables, model.variables, strict=True):
        ours.assign(theirs)
    for calls in (1, 2):
        losses = compiled.losses(images[:3], seed=1)
        np.testing.assert_allclose(losses, expected[0], rtol=1e-5, atol=1e-4)
        z, v = compiled.encode(images[:3])
        np.testing.assert_allclose(z, expected[1][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(
            compiled.decode(z, v), whole_list.quantised(images[:3], 32)
        )
        if calls == 1:
            assert not capsys.readouterr().err
        assert np.abs(np.float32(compiled.sample(3, seed=1)) - samples).max() <= 8
    compiled.decode(z[:2], v[:2])
    said = capsys.readouterr().err
    assert said.count("from codes to images for batches of 8:") == 1
    assert "batches of 2:" not in said and "batches of 3:" not in said


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_golden_vectors(folder):
    """Losses and gradients of the reference's models."""
    vectors = load_vectors(folder)
    model = load_model(folder, vectors=vectors)
    plain = losses_and_gradients(model, vectors)
    ours = losses_and_gradients(model, vectors, wrap=compute.compiled)
    # Terms are differences of large numbers: to 1e-5 bits/dim.
    nats = 1e-5 * model.config.num_dims * np.log(2)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-5, atol=nats)
    assert distance(ours[1], plain[1]) < 1e-5
