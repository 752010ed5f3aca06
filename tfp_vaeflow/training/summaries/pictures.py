"""Pictures that show what a model has learned so far."""

import numpy as np

from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.model import VAEFlow

_COLUMNS = 8
_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
_MATRIX_SIDE = 6
_POSITIONS = np.linspace(0, 1, 7)


def model_pictures(
    model: VAEFlow, originals: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> dict[str, np.ndarray]:
    """Grids of samples, reconstructions, switches and an interpolation.

    Samples use the same codes every time, so that progress can be seen.

    Args:
      model: as it is now.
      originals: uint8 validation images, an even number of them.
      labels: of the originals and the samples, for a class-conditional model.
      batch_size: images at a time.

    Returns:
      uint8 images `[H, W, C]` by name.
    """
    found = {}
    for temperature in _TEMPERATURES:
        samples = model.sample(
            len(originals), temperature, batch_size=batch_size, labels=labels
        )
        found[f"samples_t{temperature}"] = figures.grid(samples, _COLUMNS)
    back = model.reconstruct(originals, batch_size=batch_size, labels=labels)
    pairs = np.stack([originals, back], axis=1).reshape(-1, *originals.shape[1:])
    found["reconstructions"] = figures.grid(pairs, _COLUMNS)
    if model.encoder is not None:
        a, b = originals[0::2], originals[1::2]
        switched = model.switch(a, b, batch_size)
        found["switches"] = figures.switch_grid(a, b, *switched, _COLUMNS // 2)
        few = originals[: 2 * _MATRIX_SIDE]
        found["switch_matrix"] = figures.switch_matrix(model, few, batch_size)
        between = model.interpolate(a[0], b[0], _POSITIONS, _POSITIONS, batch_size)
        between = between.numpy().reshape(-1, *originals.shape[1:])
        found["interpolation"] = figures.grid(between, len(_POSITIONS))
    return found
