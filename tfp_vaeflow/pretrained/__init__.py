"""Trained models that are part of the package, with pictures to try them on.

Each lies in a folder of its name, a model directory that has only the weights, with
`pictures.npz` beside it. `tools/write_pretrained.py` writes such a folder from a run.

- `digits`: handwritten digits of 8x8 pixels (`gin/digits.gin`, by `tools/demo.sh`).
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from tfp_vaeflow.common import classes
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data.splits import Split, in_memory
from tfp_vaeflow.model import VAEFlow, checkpoints

NAMES = ("digits",)
PICTURES = "pictures.npz"


def directory(name: str) -> str:
    """The model directory of a pretrained model.

    Raises:
      UserError: if there is no model of that name.
    """
    if name not in NAMES:
        raise UserError(
            f"there is no pretrained model {name!r}; expected {' or '.join(NAMES)}"
        )
    return str(Path(__file__).with_name(name))


def load_pretrained(name: str) -> VAEFlow:
    """Loads a pretrained model.

    Args:
      name: `digits`, handwritten digits of 8x8 pixels.

    Raises:
      UserError: if there is no model of that name.
    """
    return checkpoints.load(directory(name))


def pictures(name: str) -> Split:
    """Test images of a pretrained model, with their labels, the classes in turn.

    Raises:
      UserError: if there is no model of that name.
    """
    where = directory(name)
    with np.load(os.path.join(where, PICTURES)) as found:
        split = in_memory(found["images"], found["labels"])
    return dataclasses.replace(split, class_names=classes.read(where))
