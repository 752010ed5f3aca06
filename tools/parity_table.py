"""Writes docs/parity.md: how far the model is from the reference implementation.

Reads the golden vectors that tests/test_parity.py compares the model with, from
../shared/parity beside the project.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import tensorflow as tf

import test_parity as parity
from tfp_vaeflow import reference

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Parity with the reference implementation

Largest error of each quantity against golden vectors of
[the reference](https://github.com/XuezheMax/wolf) (commit 1d23ca2, PyTorch, float32),
given the same weights, inputs and noise. `python tools/parity_table.py` writes this
table; `tests/test_parity.py` holds the tolerances.

- *generation, KL, dequantization*: nats (of thousands), the largest over images, and
  over one sample, three samples, and batch norm in training mode.
- *z, v, x, log-det*: absolute, of `encode` without noise and of the decoder.
- *gradients*: the largest over all parameters of `norm(error) / norm(gradient)`, of
  those whose norm is above 1e-3.
- *initialised*: weights after data-dependent initialisation, absolute, where it was
  recorded.

"""
COLUMNS = [
    "generation",
    "kl",
    "dequantization",
    "z",
    "v",
    "x",
    "log-det",
    "gradients",
    "initialised",
]


def largest(found, expected) -> float:
    return float(np.max(np.abs(np.asarray(found) - expected)))


def losses(model, vectors, prefix, training=False):
    return model.losses_given_noise(
        parity.nhwc(vectors["pixels"]),
        parity.loss_noise(vectors, prefix),
        training,
        vectors["labels"],
    )


def gradient_error(model, vectors) -> tuple[float, dict[str, float]]:
    prefix = "train_loss_k1"
    with tf.GradientTape() as tape:
        terms = losses(model, vectors, prefix, training=True)
        loss = tf.reduce_mean(terms.total)
    named = [weight for weight in reference.weights(model) if weight[1].trainable]
    weights = [weight for _, weight, _ in named]
    gradients = parity.gradients_by(tape, loss, weights)
    errors = []
    for (name, _, layout), gradient in zip(named, gradients):
        expected = layout(vectors[f"train_grad/{name}"])
        norm = np.linalg.norm(expected)
        if norm > 1e-3:
            errors.append(np.linalg.norm(gradient - expected) / norm)
    of_terms = {
        name: largest(value, vectors[f"{prefix}/{name}"])
        for name, value in terms._asdict().items()
    }
    return max(errors), of_terms


def row(folder: str) -> dict[str, float]:
    """The errors of one folder, by column."""
    vectors = parity.load_vectors(folder)
    model = parity.load_model(folder, vectors=vectors)
    errors = {}
    for prefix in ("eval_loss_k1", "eval_loss_k3"):
        for name, value in losses(model, vectors, prefix)._asdict().items():
            error = largest(value, vectors[f"{prefix}/{name}"])
            errors[name] = max(error, errors.get(name, 0.0))
    z, v = model.encode(
        parity.nhwc(vectors["pixels"]), 0.0, labels=parity.labels_of(model, vectors)
    )
    if z is not None:
        errors["z"] = largest(z, vectors["encode/z"])
    expected_v = parity.nhwc(vectors["encode/v"])
    errors["v"] = largest(v, expected_v)
    x, log_det = model.flow.forward_and_log_det(expected_v, vectors.get("encode/z"))
    errors["x"] = largest(x, parity.nhwc(vectors["decode/x"]))
    errors["log-det"] = largest(log_det, vectors["decode/log_det"])
    errors["gradients"], of_terms = gradient_error(model, vectors)  # updates batch norm
    for name, error in of_terms.items():
        errors[name] = max(error, errors[name])
    if parity.SHARED.joinpath(folder, "before_init.pt").exists():
        model = parity.load_model(folder, "before_init.pt", vectors)
        images = tf.constant(parity.nhwc(vectors["init/pixels"]))
        model.initialize_given_noise([images], [parity.init_noise(vectors)])
        tensors = reference.read_state_dict(parity.SHARED / folder / "after_init.pt")
        errors["initialised"] = max(
            largest(variable, layout(tensors[name]))
            for name, variable, layout in reference.weights(model)
        )
    return errors


def main() -> None:
    tf.config.run_functions_eagerly(True)
    lines = [f"| variant | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for folder in parity.FOLDERS:
        errors = row(folder)
        cells = [f"{errors[c]:.0e}" if c in errors else "" for c in COLUMNS]
        lines.append(f"| {folder} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    (ROOT / "docs" / "parity.md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
