"""Images by name: splits that are read by index, batches that are pure functions.

Batch t of training is a function of the seed and t alone: the position
`i = t * batch_size + j` in an endless sequence of epochs names the image, each epoch
being a permutation of the split of its own. So nothing of an input pipeline has to be
saved, and a resumed run skips to step t.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow import noise
from tfp_vaeflow.config import DataConfig, ModelConfig
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.noise import Stream


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split, read by index.

    Attributes:
      num_images: how many.
      read: int64 indices `[B]` -> uint8 images `[B, H, W, C]`; works in a tf.data map.
      labels: int64 `[num_images]`, or None where there are none.
    """

    num_images: int
    read: Callable[[tf.Tensor], tf.Tensor]
    labels: np.ndarray | None

    def subset(self, indices: np.ndarray) -> "Split":
        """The images at some indices, in that order."""
        table = tf.constant(indices, tf.int64)
        labels = None if self.labels is None else self.labels[indices]
        return Split(len(indices), lambda i: self.read(tf.gather(table, i)), labels)

    def first(self, count: int) -> np.ndarray:
        """The first `count` images (or all there are), uint8 `[B, H, W, C]`."""
        return self.read(tf.range(min(count, self.num_images), dtype=tf.int64)).numpy()


class Splits(NamedTuple):
    """The three parts of a data set."""

    train: Split
    validation: Split
    test: Split


class Batch(NamedTuple):
    """One global batch.

    Attributes:
      images: uint8 `[B, H, W, C]`.
      positions: int64 `[B]`, of each example in the global batch or the split: its
        noise is a function of this.
      weights: float32 `[B]`, 0 for examples that only fill up the last batch.
    """

    images: tf.Tensor
    positions: tf.Tensor
    weights: tf.Tensor


def _in_memory(images: np.ndarray, labels: np.ndarray | None) -> Split:
    images = tf.constant(images, tf.uint8)
    return Split(len(images), lambda i: tf.gather(images, i), labels)


def _carve_validation(train: Split, fraction: float) -> tuple[Split, Split]:
    """Sets a fraction of the training images aside, the same ones in every run."""

    def key(index: int) -> str:
        return hashlib.md5(f"validation {index}".encode()).hexdigest()

    order = np.array(sorted(range(train.num_images), key=key))
    count = max(1, round(fraction * train.num_images))
    return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))


def _load_digits(config: DataConfig) -> Splits:
    """scikit-learn's handwritten digits: 1,797 images, 8x8x1, 17 levels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    # The levels 0..16, each stored as the smallest of its pixels.
    pixels = np.ceil(256 * bunch.images / 17).astype(np.uint8)[..., np.newaxis]
    train, test, train_labels, test_labels = train_test_split(
        pixels, bunch.target, test_size=0.2, random_state=0, stratify=bunch.target
    )
    splits = _carve_validation(
        _in_memory(train, train_labels), config.validation_fraction
    )
    return Splits(*splits, _in_memory(test, test_labels))


def _load_tfds(config: DataConfig) -> Splits:
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
        shape = builder.info.features["image"].shape

        def read_numpy(indices):
            records = source.__getitems__([int(i) for i in indices])
            return np.stack([record["image"] for record in records])

        def read(indices):
            images = tf.numpy_function(read_numpy, [indices], tf.uint8, stateful=False)
            images.set_shape([None, *shape])
            return images

        return Split(len(source), read, None)

    train, validation = _carve_validation(split("train"), config.validation_fraction)
    if "test" in builder.info.splits:
        return Splits(train, validation, split("test"))
    share = config.validation_fraction / (1 - config.validation_fraction)
    train, test = _carve_validation(train, share)
    return Splits(train, validation, test)


_LOADERS = {"digits": _load_digits, "tfds": _load_tfds}


def load(config: DataConfig, model: ModelConfig) -> Splits:
    """Loads a data set and checks that its images fit the model.

    Args:
      config: which data set, and where.
      model: gives the expected image shape.

    Raises:
      UserError: if the data set is unknown, missing, or of another shape.
    """
    kind = config.name.split(":", 1)[0]
    if kind not in _LOADERS:
        raise UserError(
            f"DataConfig.name is {config.name!r}; expected 'digits' or 'tfds:NAME'"
        )
    splits = _LOADERS[kind](config)
    shape = splits.train.first(1).shape[1:]
    if shape != model.image_shape:
        raise UserError(
            f"images of {config.name!r} are of shape {shape}, but ModelConfig."
            f"image_shape is {model.image_shape}; set it to the data's shape"
        )
    return splits


def augment(images: tf.Tensor, config: DataConfig, seed: tf.Tensor) -> tf.Tensor:
    """Varies the images of one global batch, each by its own draws.

    Args:
      images: uint8 `[B, H, W, C]`.
      config: which variations.
      seed: of this batch.

    Returns:
      uint8 `[B, H, W, C]`.
    """
    count = tf.shape(images)[0]
    # One draw each for the flip and the two shifts.
    draws = noise.uniform(seed, Stream.AUGMENTATION, count, (3,))
    if config.horizontal_flip:
        flipped = draws[:, :1, tf.newaxis, tf.newaxis] < 0.5
        images = tf.where(flipped, images[:, :, ::-1], images)
    if config.shift:
        pad = config.shift
        _, height, width, _ = images.shape
        margin = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        padded = tf.pad(images, margin, config.shift_fill.upper())
        offsets = tf.cast(draws[:, 1:] * (2 * pad + 1), tf.int32)
        rows = offsets[:, :1] + tf.range(height)
        columns = offsets[:, 1:] + tf.range(width)
        images = tf.gather(padded, rows, axis=1, batch_dims=1)
        images = tf.gather(images, columns, axis=2, batch_dims=1)
    return images


def training_batches(
    split: Split, config: DataConfig, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """The endless sequence of global training batches from step `first_step` on.

    Args:
      split: the training split.
      config: its augmentation.
      batch_size: images a batch.
      seed: of order and augmentation.
      first_step: the first batch to give.

    Returns:
      A data set of `Batch`es.
    """
    if split.num_images < 1:
        raise UserError("the training split is empty")
    size = split.num_images

    order_seed = noise.fold_in(seed, int(Stream.ORDER))

    def batch(step):
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        # A permutation of its own for every epoch, read without ever being stored.
        epochs = tf.cast(positions // size, tf.int32)
        keys = tf.broadcast_to(order_seed, [batch_size, 2])
        indices = tf.raw_ops.RandomIndexShuffle(
            index=positions % size,
            seed=tf.concat([keys, epochs[:, tf.newaxis]], axis=1),
            max_index=tf.constant(size - 1, tf.int64),
        )
        images = augment(split.read(indices), config, noise.fold_in(seed, step))
        return Batch(
            images, tf.range(batch_size, dtype=tf.int64), tf.ones([batch_size])
        )

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return steps.map(batch, tf.data.AUTOTUNE, deterministic=True).prefetch(2)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """All images of a split once, in order; the last batch is filled up.

    Returns:
      A data set of `Batch`es of `batch_size` images each.
    """
    count = -(-split.num_images // batch_size)

    def batch(number):
        positions = number * batch_size + tf.range(batch_size, dtype=tf.int64)
        real = positions < split.num_images
        images = split.read(tf.where(real, positions, 0))
        return Batch(images, positions, tf.cast(real, tf.float32))

    return tf.data.Dataset.range(count).map(batch, tf.data.AUTOTUNE).prefetch(2)
