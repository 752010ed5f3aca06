"""Data sets known by name: scikit-learn's digits, TensorFlow Datasets."""

import numpy as np

from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.splits import Split, Splits, carve, from_numpy, in_memory
from tfp_vaeflow.errors import UserError


def load_digits_data(config: DataConfig) -> Splits:
    """scikit-learn's handwritten digits: 1,797 images, 8x8x1, 17 levels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    # The levels 0..16, each stored as the smallest of its pixels.
    pixels = np.ceil(256 * bunch.images / 17).astype(np.uint8)[..., np.newaxis]
    train, test, train_labels, test_labels = train_test_split(
        pixels, bunch.target, test_size=0.2, random_state=0, stratify=bunch.target
    )
    splits = carve(in_memory(train, train_labels), config.validation_fraction)
    return Splits(*splits, in_memory(test, test_labels))


def load_tfds(config: DataConfig) -> Splits:
    """A prepared data set of TensorFlow Datasets with splits `train` and `test`.

    Data sets without a test split lend the same fraction of `train` to it as to the
    validation part.
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
    if "train" not in builder.info.splits:
        raise UserError(
            f"data set {name!r} is not prepared in {builder.data_dir}; run "
            f"`tfds build {name} --file_format=array_record` (CelebA-HQ and LSUN ask "
            "for a download by hand and say which), or name its directory with "
            "--data_dir"
        )

    def split(part: str) -> Split:
        source = builder.as_data_source(split=part)

        def read(indices):
            records = source.__getitems__([int(i) for i in indices])
            return np.stack([record["image"] for record in records])

        return from_numpy(len(source), read, builder.info.features["image"].shape)

    train, validation = carve(split("train"), config.validation_fraction)
    if "test" in builder.info.splits:
        return Splits(train, validation, split("test"))
    share = config.validation_fraction / (1 - config.validation_fraction)
    train, test = carve(train, share)
    return Splits(train, validation, test)
