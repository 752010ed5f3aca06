"""The law of the room `compute`: it changes no number, only what numbers cost."""

import numpy as np
import pytest
import tensorflow as tf

import plain_compute
from test_parity import FOLDERS, labels_of, load_model, load_vectors, loss_noise, nhwc
from tfp_vaeflow import compute
from tfp_vaeflow.model import LossNoise

QUICK = ("group-norm",)


def test_every_function_has_a_plain_form():
    assert plain_compute.FORMS.keys() | plain_compute.KEPT == set(compute.__all__)


def losses_and_gradients(model, vectors, wrap=tf.function, **mode):
    """Those of a training step, in a graph that `wrap` makes."""
    draws = loss_noise(vectors, "train_loss_k1")
    labels = labels_of(model, vectors)
    variables = model.trainable_variables

    @wrap
    def run(images, draws):
        with compute.using(**mode), tf.GradientTape() as tape:
            losses = model.losses_given_noise(images, draws, True, labels)
            loss = tf.reduce_mean(losses.total)
        return list(losses), tape.gradient(loss, variables)

    others = [(v, v.numpy()) for v in model.variables if not v.trainable]
    draws = LossNoise(*(None if d is None else tf.constant(d) for d in draws))
    losses, gradients = run(tf.constant(nhwc(vectors["pixels"])), draws)
    moved = [v.numpy() for v, _ in others]
    for variable, value in others:
        variable.assign(value)
    return [np.array(term) for term in losses], list(map(np.array, gradients)), moved


def distance(found, expected):
    """The norm of the difference, relative to that of what is expected."""
    difference = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(found, expected)))
    return difference / np.sqrt(sum((b**2).sum() for b in expected))


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=() if folder in QUICK else pytest.mark.slow)
        for folder in FOLDERS
    ],
)
def test_the_room_changes_no_number(folder):
    vectors = load_vectors(folder)
    model = load_model(folder, vectors=vectors)
    with plain_compute.plain():
        expected = losses_and_gradients(model, vectors)
    for recompute in (False, True):
        losses, gradients, moved = losses_and_gradients(
            model, vectors, graphs=compute.SharedGraphs(), recompute=recompute
        )
        for ours, plain in zip(losses, expected[0]):
            np.testing.assert_allclose(ours, plain, rtol=2e-5, atol=1e-3)
        assert distance(gradients, expected[1]) < 1e-4
        for ours, plain in zip(moved, expected[2]):
            np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
    for recompute in (False, True):
        losses, gradients, _ = losses_and_gradients(
            model,
            vectors,
            graphs=compute.SharedGraphs(),
            recompute=recompute,
            mixed_precision=True,
        )
        # bfloat16 has 8 bits of mantissa.
        assert 0 < distance(losses, expected[0]) < 1e-2
        assert 0 < distance(gradients, expected[1]) < 5e-2
