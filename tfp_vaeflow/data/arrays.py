"""Images in arrays, or in a NumPy file: `.npy` with images, `.npz` with these arrays:

images, labels                           labels only if there are any
validation_images, validation_labels     if they are not a part of the images
"""

import zipfile
import zlib

import numpy as np

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.splits import (
    Split,
    Splits,
    carve,
    check_sizes,
    from_numpy,
    mixed,
)

SUFFIXES = (".npy", ".npz")
_NAMES = [f"{part}{of}" for part in ("", "validation_") for of in ("images", "labels")]
Pair = tuple[np.ndarray, np.ndarray | None]  # images, labels


def load_arrays(config: DataConfig, image_shape: tuple[int, int, int]) -> Splits:
    """The images of the file `config.data_dir`, as `splits_of` divides them.

    A .npy file is mapped into memory: its images are read when they are needed.

    Raises:
      UserError: if there is no such file on this machine, or its arrays are others.
    """
    path = files.printable(config.data_dir)
    found = _read(config.data_dir, path)
    pairs = [
        (found[f"{part}images"], found.get(f"{part}labels"))
        for part in ("", "validation_")
        if f"{part}images" in found
    ]
    return splits_of(*pairs, config=config, image_shape=image_shape, source=path)


def splits_of(
    given: Pair,
    validation: Pair | None = None,
    *,
    config: DataConfig,
    image_shape: tuple[int, int, int],
    source: str,
) -> Splits:
    """Divides arrays, and mixes each part: arrays may go class by class.

    Args:
      given, validation: images and labels, see `_split_of`. Without `validation`,
        `config.validation_fraction` of the images is set aside for testing, and as much
        of the rest for validation; with it, nothing is for testing.
      config: gives the fraction.
      image_shape: of the model.
      source: names the arrays in errors.

    Raises:
      UserError: if the arrays are others, or no images are left to train on, or none
        set aside to test on.
    """
    whole = _split_of(*given, image_shape, source)
    if validation is not None:
        aside = _split_of(*validation, image_shape, f"{source}, validation")
        return Splits(mixed(whole), mixed(aside), aside.subset(np.zeros(0, int)))
    rest, test = carve(whole, config.validation_fraction)
    parts = *carve(rest, config.validation_fraction), test
    return check_sizes(Splits(*map(mixed, parts)), source)


def _split_of(
    images: np.ndarray,
    labels: np.ndarray | None,
    image_shape: tuple[int, int, int],
    source: str,
) -> Split:
    """A split of arrays.

    Args:
      images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey images.
      labels: integers `[N]`, 0 or more; None without labels.
      image_shape: of the model.
      source: names the arrays in errors.

    Raises:
      UserError: if the arrays are others.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        raise UserError(
            f"{source}: images are {images.dtype} of shape {images.shape}; expected "
            "uint8 of shape (N, height, width, channels), or without channels if grey"
        )
    found = (*images.shape[1:], 1)[:3]
    if found != tuple(image_shape):
        raise UserError(
            f"{source}: images are of shape {found}, but ModelConfig.image_shape is "
            f"{tuple(image_shape)}; set it to the data's shape"
        )
    if labels is not None and (
        not np.issubdtype(labels.dtype, np.integer)
        or labels.shape != (len(images),)
        or labels.min() < 0
    ):
        raise UserError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}; expected "
            f"integers of shape ({len(images)},), 0 or more"
        )

    def read(indices):
        return np.asarray(images[indices]).reshape(-1, *image_shape)

    read_labels = None if labels is None else lambda: labels.astype(np.int64)
    return from_numpy(len(images), read, image_shape, read_labels)


def _read(source: str, shown: str) -> dict[str, np.ndarray]:
    """The arrays of a file, by name."""
    if files.is_remote(source):
        raise UserError(f"{shown}: expected a NumPy file on this machine")
    try:
        found = np.load(source, mmap_mode="r")
        if isinstance(found, np.ndarray):
            return {"images": found}
        with found:
            if "images" not in found:
                raise UserError(
                    f"{shown} has the arrays {', '.join(found.files)}; expected "
                    "'images', and 'labels' if there are any"
                )
            return {name: found[name] for name in _NAMES if name in found}
    except FileNotFoundError as error:
        raise UserError(f"{shown} does not exist; name a NumPy file") from error
    except UserError:
        raise
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{shown} is no NumPy file: {error}") from error
