"""Colours for maps of numbers."""

import numpy as np


def heat(maps: np.ndarray) -> np.ndarray:
    """Maps as colours: the lowest value of each is white, over yellow and red to black.

    Args:
      maps: `[N, H, W]`.

    Returns:
      uint8 `[N, H, W, 3]`.
    """
    low, high = (f(maps, (1, 2), keepdims=True) for f in (np.min, np.max))
    values = 3 * (high - maps) / np.maximum(high - low, 1e-9)
    return np.uint8(255 * np.clip(values[..., np.newaxis] - [0, 1, 2], 0, 1))
