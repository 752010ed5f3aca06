"""Images by name or from a folder: splits read by index, batches by step."""

from tfp_vaeflow.config import DataConfig, ModelConfig
from tfp_vaeflow.data.batches import (
    Batch,
    Share,
    augment,
    evaluation_batches,
    training_batches,
)
from tfp_vaeflow.data.folder import holds_images, load_folder
from tfp_vaeflow.data.named import load_digits_data, load_tfds
from tfp_vaeflow.data.splits import Split, Splits, reading
from tfp_vaeflow.errors import UserError

__all__ = [
    "Batch",
    "Share",
    "Split",
    "Splits",
    "augment",
    "evaluation_batches",
    "holds_images",
    "load",
    "reading",
    "training_batches",
]

_LOADERS = {"digits": load_digits_data, "tfds": load_tfds}


def load(config: DataConfig, model: ModelConfig) -> Splits:
    """Loads a data set for a model.

    A `data_dir` that holds a folder of images takes the place of whatever data set the
    experiment names. Images are cropped and resized to the model's shape, but for the
    digits, which have to have it.

    Args:
      config: which data set, and where.
      model: gives the image shape.

    Raises:
      UserError: if the data set is unknown, missing, or of another shape; if a
        class-conditional model does not find its labels.
    """
    splits = _load(config, model)
    if model.is_class_conditional:
        _check_labels(splits.train, model.prior.num_classes)
    return splits


def _check_labels(split: Split, num_classes: int) -> None:
    if split.labels is None:
        raise UserError(
            "PriorConfig.kind is 'categorical', and the data has no labels; expected a "
            "labelled data set, or images in one folder a label"
        )
    if split.labels.max() >= num_classes:
        raise UserError(
            f"the data has labels up to {split.labels.max()}, and "
            f"PriorConfig.num_classes is {num_classes}; expected "
            f"{split.labels.max() + 1} or more"
        )


def _load(config: DataConfig, model: ModelConfig) -> Splits:
    kind = config.name.split(":", 1)[0]
    if kind == "folder" or (config.data_dir and holds_images(config.data_dir)):
        return load_folder(config, model.image_shape)
    if kind not in _LOADERS:
        raise UserError(
            f"DataConfig.name is {config.name!r}; expected 'digits', 'folder' or "
            "'tfds:NAME'"
        )
    return _LOADERS[kind](config, model.image_shape)
