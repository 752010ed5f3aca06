"""Images by name or from a folder: splits read by index, batches by step."""

import os

from tfp_vaeflow.common import files
from tfp_vaeflow.common.classes import NATURAL, Order
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig, ModelConfig
from tfp_vaeflow.data import arrays
from tfp_vaeflow.data.batches import (
    Batch,
    Share,
    augment,
    evaluation_batches,
    training_batches,
)
from tfp_vaeflow.data.folder import holds_images, load_folder, load_whole_folder
from tfp_vaeflow.data.listing import LeftOut, Pictures, find_pictures
from tfp_vaeflow.data.named import load_digits_data, load_tfds
from tfp_vaeflow.data.splits import Split, Splits, reading

__all__ = [
    "Batch",
    "LeftOut",
    "Pictures",
    "Share",
    "Split",
    "Splits",
    "augment",
    "check_labels",
    "evaluation_batches",
    "find_pictures",
    "holds_images",
    "load",
    "load_whole_folder",
    "reading",
    "training_batches",
]

GIVEN = "arrays"  # the name of data that was given from Python
_LOADERS = {"digits": load_digits_data, "tfds": load_tfds}


def load(config: DataConfig, model: ModelConfig, order: Order = NATURAL) -> Splits:
    """Loads a data set for a model.

    A `data_dir` that holds a folder of images, or is a NumPy file of images (see
    `arrays`), replaces the data set that the experiment names. Images of files are
    cropped and resized to the model's shape. Digits and arrays have to have it.

    Args:
      config: which data set, and where.
      model: gives the image shape.
      order: which label each class of a folder gets; for a run that has begun, the
        result of `classes.order_of`.

    Raises:
      UserError: if the data set is unknown, missing, or of another shape; if a
        class-conditional model does not find its labels.
    """
    splits = _load(config, model, order)
    for part in ("train", "validation"):  # the test part is not always read
        check_labels(getattr(splits, part), model, part)
    return splits


def check_labels(split: Split, model: ModelConfig, part: str) -> None:
    """Checks that a class-conditional model can work on a part of its data.

    Raises:
      UserError: if the part has no labels, or has labels beyond the model's classes.
    """
    if not model.is_class_conditional or not split.num_images:
        return
    if split.labels is None:
        raise UserError(
            f"PriorConfig.kind is 'categorical', and the {part} part of the data has "
            "no labels; expected a labelled data set, or images in one folder per class"
        )
    num_classes = model.prior.num_classes
    if split.labels.max() >= num_classes:
        raise UserError(
            f"the {part} part of the data has labels up to {split.labels.max()} (class "
            f"{split.name_of(split.labels.max())}), and PriorConfig.num_classes is "
            f"{num_classes}; expected {split.labels.max() + 1} or more"
        )


def _load(config: DataConfig, model: ModelConfig, order: Order) -> Splits:
    if config.data_dir is not None and config.data_dir.endswith(arrays.SUFFIXES):
        return arrays.load_arrays(config, model.image_shape)
    kind, _, name = config.name.partition(":")
    if kind == "folder" or _is_folder(config.data_dir, name):
        return load_folder(config, model.image_shape, order)
    if config.name == GIVEN:
        raise UserError(
            "the images of this run were given from Python; name a .npy or .npz file, "
            "or a folder of pictures, with --data_dir"
        )
    if kind not in _LOADERS:
        raise UserError(
            f"DataConfig.name is {config.name!r}; expected 'digits', 'folder' or "
            "'tfds:NAME'"
        )
    if kind == "digits" and config.data_dir is not None:
        raise UserError(
            f"{files.printable(config.data_dir)} holds no pictures, and 'digits' comes "
            "from no directory; leave DataConfig.data_dir out, or name a folder of "
            "pictures"
        )
    return _LOADERS[kind](config, model.image_shape)


def _is_folder(data_dir: str | None, name: str) -> bool:
    """Whether a directory holds pictures, and not the data set of that name."""
    if data_dir is None:
        return False
    # TensorFlow Datasets keeps the source pictures of data sets in `downloads`.
    own = [os.path.join(data_dir, part) for part in (name.split("/")[0], "downloads")]
    if name and any(map(files.is_dir, own)):
        return False
    return holds_images(data_dir)
