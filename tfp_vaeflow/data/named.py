"""Data sets known by name: the handwritten digits, TensorFlow Datasets."""

import concurrent.futures
import io
import os
from pathlib import Path

import numpy as np

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.pictures import THREADS, decode
from tfp_vaeflow.data.splits import (
    Split,
    Splits,
    carve,
    check_sizes,
    from_numpy,
    in_memory,
)

_DIGITS = Path(__file__).with_name("digits.npz")
_DIGITS_SHAPE = (8, 8, 1)
_RECORDS_AT_A_TIME = 64


def load_digits_data(config: DataConfig, image_shape: tuple[int, int, int]) -> Splits:
    """Handwritten digits: 1,797 images, 8x8x1, 17 levels; a fifth of them for testing.

    They are those of scikit-learn's `load_digits`, in a file of this package.

    Reference: Alpaydin & Kaynak, *Optical Recognition of Handwritten Digits*, UCI
    Machine Learning Repository (1998), CC BY 4.0.

    Raises:
      UserError: if the model is for images of another shape.
    """
    if image_shape != _DIGITS_SHAPE:
        raise UserError(
            f"images of 'digits' are of shape {_DIGITS_SHAPE}, but ModelConfig."
            f"image_shape is {image_shape}; set it to the data's shape"
        )
    with np.load(_DIGITS) as found:
        train, test = (
            # Each level 0..16 becomes the smallest 8-bit value of that level.
            in_memory(
                np.ceil(256 / 17 * found[part][..., np.newaxis]).astype(np.uint8),
                found[f"{part}_labels"].astype(np.int64),
            )
            for part in ("train", "test")
        )
    return Splits(*carve(train, config.validation_fraction), test)


def _check_prepared(builder, name: str) -> None:
    """Checks that a builder of TensorFlow Datasets finds files to read by index."""
    build = f"`tfds build {name} --file_format=array_record"
    # With network access, `builder.info` has splits even without data on disk.
    prepared = files.exists(os.path.join(builder.data_dir, "dataset_info.json"))
    if not prepared or "train" not in builder.info.splits:
        raise UserError(
            f"data set {name!r} is not prepared in {builder.data_dir}; run {build}` "
            "(CelebA-HQ and LSUN ask for a download by hand and say which), or name "
            "its directory, or a folder of images, with --data_dir"
        )
    formats = {found.value for found in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise UserError(
            f"data set {name!r} is prepared in {builder.data_dir} as "
            f"{', '.join(sorted(formats))}, which cannot be read by index; run {build} "
            "--data_dir=DIR` with another directory, and name that with --data_dir"
        )


def load_tfds(config: DataConfig, image_shape: tuple[int, int, int]) -> Splits:
    """A prepared data set of TensorFlow Datasets with images.

    Images are cropped and resized to the model's shape. A missing `validation` or
    `test` part is carved out of `train`, a fraction for each.

    Raises:
      UserError: if there is no such data set, or it is not prepared, or has no images.
    """
    import tensorflow_datasets as tfds

    name = config.name.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, data_dir=config.data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"no data set {name!r} in TensorFlow Datasets: {reason}"
        ) from error
    _check_prepared(builder, name)
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f"data set {name!r} has no feature 'image', only {', '.join(features)}; "
            "name a data set of images"
        )
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def split(part: str) -> Split:
        # As bytes, because the library does not say how it decodes JPEG.
        whole = tfds.decode.SkipDecoding()
        source = builder.as_data_source(part, decoders={"image": whole})

        def records(indices):
            return source.__getitems__([int(i) for i in indices])

        def read(indices):
            encoded = (io.BytesIO(record["image"]) for record in records(indices))
            images = pool.map(lambda file: decode(file, image_shape), encoded)
            return np.stack(list(images))

        def read_labels():
            # Only the label of each record is decoded. A data source has no partial
            # decoding, so it gives bytes here.
            partial = tfds.decode.PartialDecoding({"label": True})
            label = partial.extract_features(features)
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            source = builder.as_data_source(part, deserialize_method=raw)
            labels = np.empty(len(source), np.int64)
            for first in range(0, len(labels), _RECORDS_AT_A_TIME):
                indices = list(range(len(labels))[first : first + _RECORDS_AT_A_TIME])
                for index, record in zip(indices, source.__getitems__(indices)):
                    labels[index] = label.deserialize_example_np(record)["label"]
            return labels

        labelled = "label" in features and isinstance(
            features["label"], tfds.features.ClassLabel
        )
        if not labelled:
            return from_numpy(len(source), read, image_shape)
        names = features["label"].names
        class_names = tuple(names) if names else None
        return from_numpy(len(source), read, image_shape, read_labels, class_names)

    parts = {
        part: split(part)
        for part in ("train", "validation", "test")
        if part in builder.info.splits
    }
    share = config.validation_fraction
    for part in ("validation", "test"):
        if part not in parts:
            parts["train"], parts[part] = carve(parts["train"], share)
            share /= 1 - share  # the same number again, of fewer images
    return check_sizes(Splits(**parts), f"data set {name!r}")
