"""Checks of the arguments of models and clients, and interpolation; no TensorFlow.

Arrays are tensors or numpy arrays: anything with a `dtype` and a `shape`. Models and
clients raise a `UserError` with the same line for the same mistake.
"""

import math
from collections.abc import Sequence

import numpy as np

from tfp_vaeflow.common.errors import UserError


def check_at_least_one(name: str, value: int) -> None:
    """Checks a number of things, such as samples."""
    if value < 1:
        raise UserError(f"{name} is {value}; expected at least 1")


def check_temperature(temperature: float) -> None:
    """Checks for a finite number that is not negative."""
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature is {temperature}; expected at least 0")


def check_images(images, image_shape: tuple[int, int, int]) -> None:
    """Checks for uint8 images `[B, H, W, C]`, one or more."""
    shape = tuple(images.shape)
    if images.dtype.name != "uint8" or shape[1:] != tuple(image_shape):
        raise UserError(
            f"images are {images.dtype.name} of shape {shape}; expected uint8 of "
            f"shape (batch, {', '.join(map(str, image_shape))})"
        )
    if shape[0] == 0:
        raise UserError("images are an empty batch; expected at least one image")


def check_labels(labels, count: int, is_class_conditional: bool) -> None:
    """Checks for integers `[count]` if the model is class-conditional, else None."""
    if not is_class_conditional:
        if labels is not None:
            raise UserError(
                "labels are given, but this model is not class-conditional "
                "(PriorConfig.kind = 'categorical'); leave them out"
            )
        return
    if labels is None:
        raise UserError("labels are missing; this model is class-conditional")
    shape, dtype = tuple(labels.shape), labels.dtype.name
    if "int" not in dtype or shape != (count,):
        raise UserError(
            f"labels are {dtype} of shape {shape}; expected integers of shape "
            f"({count},)"
        )


def check_codes(z, v, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
    """Checks for z `[B, D]` (None for a model without z) and v `[B, H, W, C]`."""
    shape = tuple(v.shape)
    if shape[1:] != tuple(image_shape) or not shape[0]:
        expected = "batch", *image_shape
        raise UserError(
            f"v is of shape {shape}; expected ({', '.join(map(str, expected))}), with "
            "one row or more"
        )
    if not latent_dim:
        if z is not None:
            raise UserError("z is given, but this model has none; pass None")
    elif z is None:
        raise UserError("z is None; expected the global codes of the images")
    elif tuple(z.shape) != (shape[0], latent_dim):
        raise UserError(
            f"z is of shape {tuple(z.shape)}; expected {(shape[0], latent_dim)}"
        )


def check_finite(name: str, are_finite: bool) -> None:
    """Checks that codes are finite."""
    if not are_finite:
        raise UserError(f"{name} holds NaN or infinity; expected finite codes")


def grid_of(
    alphas: Sequence[float], betas: Sequence[float]
) -> list[tuple[float, float]]:
    """All pairs of positions between two images, betas changing fastest."""
    if np.ndim(alphas) != 1 or np.ndim(betas) != 1 or not len(alphas) * len(betas):
        raise UserError(
            f"alphas and betas are {alphas} and {betas}; expected two lists of "
            "numbers, neither of them empty"
        )
    return [(float(alpha), float(beta)) for alpha in alphas for beta in betas]


def moved(z, v, direction, strengths: Sequence[float]) -> tuple:
    """Codes with z moved along a direction, and v kept: `z + strength * direction`.

    Args:
      z: numpy array `[B, D]`.
      v: numpy array `[B, H, W, C]`.
      direction: `[D]`.
      strengths: S numbers.

    Returns:
      z `[B S, D]` and v `[B S, H, W, C]`; the strength changes fastest.
    """
    direction, strengths = np.asarray(direction), np.asarray(strengths, np.float32)
    if direction.shape != z.shape[1:] or strengths.ndim != 1 or not len(strengths):
        raise UserError(
            f"the direction is of shape {direction.shape}, the strengths are "
            f"{strengths.tolist()}; expected {z.shape[1:]}, and a list of numbers"
        )
    steps = strengths[:, np.newaxis] * direction
    z = (z[:, np.newaxis] + steps).reshape(-1, z.shape[1]).astype(np.float32)
    return z, np.repeat(v, len(strengths), axis=0)


def between(z: Sequence, v: Sequence, alpha, beta) -> tuple:
    """The codes between two images: z by alpha, v by beta; 0 gives the first image.

        z = (1 - alpha) z_a + alpha z_b,  v = (1 - beta) v_a + beta v_b

    Args:
      z: `(z_a, z_b)`, each `[B, D]`, or two Nones for a model without z.
      v: `(v_a, v_b)`, each `[B, H, W, C]`.
      alpha, beta: numbers, or arrays `[B, 1]` and `[B, 1, 1, 1]`.
    """
    (z_a, z_b), (v_a, v_b) = z, v
    mixed = None if z_a is None else (1 - alpha) * z_a + alpha * z_b
    return mixed, (1 - beta) * v_a + beta * v_b
