"""Pictures that show what a model has learned so far."""

import numpy as np

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
    found = {}
    for temperature in _TEMPERATURES:
        samples = model.sample(len(originals), temperature, seed=0, labels=labels)
        grid = figures.grid(samples.numpy(), _COLUMNS)
        found[f"samples_t{temperature}"] = grid
    back = model.reconstruct(originals, labels=labels).numpy()
    pairs = np.stack([originals, back], axis=1).reshape(-1, *originals.shape[1:])
    found["reconstructions"] = figures.grid(pairs, _COLUMNS)
    if model.encoder is None:
        return found
    a, b = originals[0::2], originals[1::2]
    found["switches"] = figures.switch_grid(a, b, *model.switch(a, b), _COLUMNS // 2)
    found["switch_matrix"] = figures.switch_matrix(
        model, originals[: 2 * _MATRIX_SIDE], batch_size=len(originals)
    )
    between = model.interpolate(a[0], b[0], _POSITIONS, _POSITIONS).numpy()
    cells = between.reshape(-1, *originals.shape[1:])
    found["interpolation"] = figures.grid(cells, len(_POSITIONS))
    return found
