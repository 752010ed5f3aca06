"""Golden vectors of the reference implementation (see the README beside them).

Read from `../shared/parity` beside the project where it exists, otherwise the part
of them that lies in `tests/data`.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfp_vaeflow import compute, reference
from tfp_vaeflow.config import OptimizerConfig
from tfp_vaeflow.model import LossNoise, build_model
from tfp_vaeflow.training.optimization import AdamW

COMMITTED = Path(__file__).parent / "data" / "parity"
SHARED = Path(__file__).parents[2] / "shared" / "parity"
FOLDERS = [
    "gaussian-uniform",
    "glow-uniform",
    "gaussian-5bit",
    "gaussian-variational",
    "categorical-uniform",
    "macow-gaussian-uniform",
    "group-norm",
    "global-attention",
    "additive",
    "relu-transform",
    "nlsq-transform",
    "symm-elu-transform",
]
# Relative and absolute tolerance of each term of the losses.
TERMS = {
    "generation": dict(rtol=2e-5, atol=1e-3),
    "kl": dict(rtol=2e-5, atol=1e-4),
    "dequantization": dict(rtol=2e-5, atol=1e-3),
}


def path_of(folder: str, name: str) -> Path:
    for root in (SHARED, COMMITTED):
        if (root / folder / name).exists():
            return root / folder / name
    message = f"no golden vectors {folder}/{name}: neither {SHARED} nor {COMMITTED}"
    if os.environ.get("REQUIRE_PARITY"):
        pytest.fail(message)
    pytest.skip(message)


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1)


def load_model(folder: str, weights: str = "model.pt", vectors=None):
    vectors = vectors or load_vectors(folder)
    size = vectors["pixels"].shape[-2:]
    config = reference.read_config(
        path_of(folder, "config.json"), size, 2 ** int(vectors["n_bits"])
    )
    model = build_model(config)
    reference.assign(model, reference.read_state_dict(path_of(folder, weights)))
    return model


def load_vectors(folder: str) -> dict[str, np.ndarray]:
    with np.load(path_of(folder, "vectors.npz")) as file:
        return dict(file)


def loss_noise(vectors: dict[str, np.ndarray], prefix: str) -> LossNoise:
    posterior = vectors.get(f"{prefix}/noise_1_normal")
    uniform = vectors.get(f"{prefix}/noise_0_uniform")
    if uniform is not None:
        return LossNoise(tf.constant(nhwc(uniform)), posterior)
    # The eps of a variational dequantizer: the K samples of an image are neighbours.
    eps = nhwc(vectors[f"{prefix}/noise_0_normal"])
    count = len(vectors["pixels"])
    eps = eps.reshape(count, -1, *eps.shape[1:])
    return LossNoise(tf.constant(eps), posterior)


def init_noise(vectors: dict[str, np.ndarray]) -> LossNoise:
    """Of the initialisation: here the posterior's noise comes first."""
    dequantization = vectors.get("init/noise_1_normal")
    if dequantization is None:
        dequantization = vectors["init/pixels"].astype(np.float32)  # not looked at
    return LossNoise(
        tf.constant(nhwc(dequantization))[:, tf.newaxis],
        vectors["init/noise_0_normal"].reshape(len(dequantization), 1, -1),
    )


@pytest.fixture(autouse=True)
def eager(request):
    """Each function runs once or twice here: tracing it would take longer."""
    tf.config.run_functions_eagerly("trajectory" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def labels_of(model, vectors) -> np.ndarray | None:
    return vectors["labels"] if model.config.is_class_conditional else None


@pytest.fixture(scope="module", params=FOLDERS)
def case(request):
    vectors = load_vectors(request.param)
    return load_model(request.param, vectors=vectors), vectors


@pytest.mark.parametrize("prefix", ["eval_loss_k1", "eval_loss_k3"])
def test_losses(case, prefix):
    model, vectors = case
    losses = model.losses_given_noise(
        nhwc(vectors["pixels"]), loss_noise(vectors, prefix), labels=vectors["labels"]
    )
    for term, tolerance in TERMS.items():
        expected = vectors[f"{prefix}/{term}"]
        np.testing.assert_allclose(getattr(losses, term), expected, **tolerance)


def gradients_by(tape, loss, weights) -> list[tf.Tensor]:
    """The gradient by each weight, which may be a part of a variable."""
    places = [compute.variable_of(weight) for weight in weights]
    variables = {id(variable): variable for variable, _ in places}
    gradients = dict(zip(variables, tape.gradient(loss, list(variables.values()))))
    return [gradients[id(variable)][part] for variable, part in places]


def test_training_losses_and_gradients(case):
    model, vectors = case
    statistics = [(v, v.numpy()) for v in model.variables if not v.trainable]
    with tf.GradientTape() as tape:
        losses = model.losses_given_noise(
            nhwc(vectors["pixels"]),
            loss_noise(vectors, "train_loss_k1"),
            training=True,
            labels=vectors["labels"],
        )
        loss = tf.reduce_mean(losses.total)
    for variable, value in statistics:
        variable.assign(value)  # batch norm has moved them
    for term, tolerance in TERMS.items():
        expected = vectors[f"train_loss_k1/{term}"]
        np.testing.assert_allclose(getattr(losses, term), expected, **tolerance)
    named = [w for w in reference.weights(model) if w[1].trainable]
    gradients = gradients_by(tape, loss, [weight for _, weight, _ in named])
    assert {name for name, _, _ in named} == {
        key.removeprefix("train_grad/") for key in vectors if "train_grad/" in key
    }
    for (name, _, layout), gradient in zip(named, gradients):
        expected = layout(vectors[f"train_grad/{name}"])
        error = np.linalg.norm(gradient - expected)
        assert error <= max(2e-3 * np.linalg.norm(expected), 1e-5), name


def test_encode(case):
    model, vectors = case
    images = nhwc(vectors["pixels"])
    z, v = model.encode(images, u=0.0, labels=labels_of(model, vectors))
    np.testing.assert_allclose(v, nhwc(vectors["encode/v"]), rtol=0, atol=2e-4)
    assert (z is not None) == ("encode/z" in vectors)
    if z is not None:
        np.testing.assert_allclose(z, vectors["encode/z"], rtol=0, atol=1e-5)


def test_decode(case):
    model, vectors = case
    z, v = vectors.get("encode/z"), nhwc(vectors["encode/v"])
    x, log_det = model.flow.forward_and_log_det(v, z)
    np.testing.assert_allclose(x, nhwc(vectors["decode/x"]), rtol=0, atol=2e-4)
    np.testing.assert_allclose(log_det, vectors["decode/log_det"], rtol=0, atol=1e-3)


def test_decode_undoes_encode_exactly(case):
    model, vectors = case
    images = nhwc(vectors["pixels"])
    codes = model.encode(images, labels=labels_of(model, vectors))
    step = 256 // model.config.n_bins
    np.testing.assert_array_equal(model.decode(*codes), images // step * step)


def test_sample(case):
    model, vectors = case
    prefix = "synthesize_tau0.7"
    if model.config.is_class_conditional:
        pytest.skip("the draw of the classes is not recorded")
    z = None
    if model.prior is not None:
        z = model.prior.from_noise(vectors[f"{prefix}/noise_1_normal"])
    images = model.decode(z, 0.7 * nhwc(vectors[f"{prefix}/noise_0_normal"]))
    step = 256 // model.config.n_bins
    expected = np.rint(nhwc(vectors[f"{prefix}/images"]) * 255)
    # The reference writes 255 where x is too large; the last level begins lower.
    expected = np.minimum(expected, 256 - step)
    # floor of x that differs in the last bits may fall on either side of a level.
    difference = np.abs(images - expected)
    assert difference.max() <= step and (difference > 0).mean() < 0.002


def assert_weights(model, path: Path, tolerance: float) -> None:
    tensors = reference.read_state_dict(path)
    for name, variable, layout in reference.weights(model):
        np.testing.assert_allclose(
            variable, layout(tensors[name]), rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize(
    "folder",
    [
        "gaussian-uniform",
        "gaussian-variational",
        "group-norm",
        "macow-gaussian-uniform",
    ],
)
def test_data_dependent_initialisation(folder):
    vectors = load_vectors(folder)
    model = load_model(folder, "before_init.pt", vectors)
    model.initialize_given_noise(
        [tf.constant(nhwc(vectors["init/pixels"]))], [init_noise(vectors)]
    )
    assert_weights(model, path_of(folder, "after_init.pt"), 2e-5)


def test_training_trajectory():
    folder = "gaussian-uniform"
    with np.load(path_of(folder, "trajectory.npz")) as file:
        trajectory = dict(file)
    model = load_model(folder, "train_start.pt")
    optimizer = AdamW(OptimizerConfig(warmup_steps=10))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images, u, eps):
        with tf.GradientTape() as tape:
            losses = model.losses_given_noise(images, LossNoise(u, eps), training=True)
            loss = tf.reduce_mean(losses.total)
        gradients = tape.gradient(loss, model.trainable_variables)
        rate = tf.convert_to_tensor(optimizer.learning_rate)
        optimizer.apply_if(tf.constant(True), gradients, model.trainable_variables)
        return tf.stack([tf.reduce_mean(term) for term in losses]), rate

    for t, expected in enumerate(trajectory["losses"]):
        terms, rate = step(
            nhwc(trajectory["pixels"][t]),
            nhwc(trajectory["noise_0_uniform"][t]),
            trajectory["noise_1_normal"][t],
        )
        np.testing.assert_allclose(rate, trajectory["learning_rates"][t], rtol=1e-5)
        np.testing.assert_allclose(
            terms, expected, rtol=1e-4, atol=1e-6, err_msg=f"step {t}"
        )
    assert_weights(model, path_of(folder, "train_end.pt"), 1e-4)
