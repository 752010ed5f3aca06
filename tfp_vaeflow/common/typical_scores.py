"""The bits/dim of validation images: how a picture of the model's own kind scores.

A run keeps them for its last and its best checkpoint, in `typical_scores.json`; an
export keeps those of its checkpoint.
"""

import json
import os
from typing import NamedTuple

import numpy as np

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError

FILE = "typical_scores.json"
_LEVELS = [0.0, 0.001, 0.01, 0.05, *np.linspace(0.1, 0.9, 9), 0.95, 0.99, 0.999, 1.0]


class TypicalScores(NamedTuple):
    """Statistics of the bits/dim of validation images, each from one sample.

    Attributes:
      step: of training.
      num_images: how many images.
      mean: of their bits/dim.
      levels: of the quantiles, from 0 to 1.
      quantiles: by `bits` of bits/dim, by `typicality` of their distance from the mean.
    """

    step: int
    num_images: int
    mean: float
    levels: list[float]
    quantiles: dict[str, list[float]]

    def quantile(self, level: float, by: str) -> float:
        """The quantile at any level, interpolated."""
        return float(np.interp(level, self.levels, self.quantiles[by]))


def of_bits(bits_per_dim: np.ndarray, step: int) -> TypicalScores:
    """The statistics of images, `[N]`."""
    bits = np.asarray(bits_per_dim, np.float64)
    levels = [round(float(level), 3) for level in _LEVELS]
    values = {"bits": bits, "typicality": np.abs(bits - bits.mean())}
    quantiles = {by: np.quantile(of, levels).tolist() for by, of in values.items()}
    return TypicalScores(step, len(bits), float(bits.mean()), levels, quantiles)


def write(directory: str | os.PathLike, scores: dict[str, TypicalScores]) -> None:
    """Writes statistics by the checkpoint that they belong to, `latest` or `best`."""
    named = {name: found._asdict() for name, found in scores.items()}
    files.write_text(os.path.join(directory, FILE), json.dumps(named, indent=2) + "\n")


def of_weights(
    model_dir: str | os.PathLike, checkpoint: str, step: int
) -> TypicalScores | None:
    """The statistics of a run for a checkpoint; says if they are of another step.

    They are where a run was stopped, or killed, between validation and saving.

    Args:
      model_dir: of the run.
      checkpoint: `latest` or `best`.
      step: of the checkpoint's weights.
    """
    found = read(model_dir).get(checkpoint)
    if found is not None and found.step != step:
        print(
            f"the bits/dim of validation images are those of step {found.step}, and "
            f"the weights those of step {step}",
            flush=True,
        )
    return found


def read(directory: str | os.PathLike) -> dict[str, TypicalScores]:
    """The statistics that a directory holds; empty if there are none.

    Raises:
      UserError: if the file is damaged.
    """
    path = os.path.join(directory, FILE)
    if not files.exists(path):
        return {}
    try:
        named = json.loads(files.read_text(path))
        return {name: TypicalScores(**found) for name, found in named.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, or bring back a copy of it"
        ) from error
