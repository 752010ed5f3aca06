"""Pictures that show what a model has learned so far."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import figures
from tfp_vaeflow.model import VAEFlow

_COLUMNS = 8
_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
_MATRIX_SIDE = 6
_POSITIONS = np.linspace(0, 1, 7)


def model_pictures(
    model: VAEFlow, originals: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Grids of samples, reconstructions, switches and an interpolation.

    Samples are of the same codes every time, so that progress is seen.

    Args:
      model: as it is now.
      originals: uint8 validation images, an even number of them.
      labels: theirs, for a class-conditional model; samples are of these classes.

    Returns:
      uint8 images `[H, W, C]` by name.
    """
    z, v = model.sample_codes(len(originals), labels=labels)
    codes = {f"samples_t{t}": (z, t * v) for t in _TEMPERATURES}
    if model.encoder is not None:
        z, v = model.encode(originals)
        side = min(_MATRIX_SIDE, len(originals) // 2)
        rows, columns = slice(side), slice(side, 2 * side)
        codes["z_a_v_b"] = z[0::2], v[1::2]
        codes["z_b_v_a"] = z[1::2], v[0::2]
        codes["matrix"] = model.codes_of_all_pairs(z[rows], v[columns])
        codes["between"] = model.codes_between(z[:2], v[:2], _POSITIONS, _POSITIONS)
    made = _decoded(model, codes)
    found = {
        name: figures.grid(images, _COLUMNS)
        for name, images in made.items()
        if name.startswith("samples")
    }
    back = model.reconstruct(originals, labels=labels).numpy()
    pairs = np.stack([originals, back], axis=1).reshape(-1, *originals.shape[1:])
    found["reconstructions"] = figures.grid(pairs, _COLUMNS)
    if model.encoder is not None:
        a, b = originals[0::2], originals[1::2]
        switched = made["z_a_v_b"], made["z_b_v_a"]
        found["switches"] = figures.switch_grid(a, b, *switched, _COLUMNS // 2)
        found["switch_matrix"] = figures.framed_grid(
            originals[rows], originals[columns], made["matrix"]
        )
        found["interpolation"] = figures.grid(made["between"], len(_POSITIONS))
    return found


def _decoded(model: VAEFlow, codes: dict) -> dict[str, np.ndarray]:
    """The images of named batches of codes (z, v), in as few runs as possible."""
    vs = [v for _, v in codes.values()]
    zs = [z for z, _ in codes.values()]
    z = None if zs[0] is None else tf.concat(zs, axis=0)
    images = model.decode(z, tf.concat(vs, axis=0)).numpy()
    ends = np.cumsum([len(v) for v in vs])[:-1]
    return dict(zip(codes, np.split(images, ends)))
