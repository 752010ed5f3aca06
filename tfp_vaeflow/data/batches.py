"""Batches that are pure functions of seed and step.

Batch t of training is a function of the seed and t alone. Its image j is at position
`i = t * batch_size + j` of an endless sequence of epochs, and each epoch is its own
permutation of the split. So an input pipeline has no state to save, and a resumed run
skips to step t.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.splits import Split


class Share(NamedTuple):
    """Which consecutive part of each global batch a worker reads.

    Attributes:
      index: of the worker; 0 is the chief.
      count: number of workers; it has to divide the batch size.
    """

    index: int
    count: int

    def positions(self, batch_size: int) -> tf.Tensor:
        """The positions of the part in a global batch: int64 `[batch_size / count]`."""
        size = batch_size // self.count
        return self.index * size + tf.range(size, dtype=tf.int64)


_ALL = Share(0, 1)


class Batch(NamedTuple):
    """One global batch, or a worker's share of it: B examples.

    Attributes:
      images: uint8 `[B, H, W, C]`.
      positions: int64 `[B]`, the position of each example in the global batch or the
        split; the example's noise is a function of it.
      weights: float32 `[B]`, 0 for examples that only fill up the last batch.
      labels: int64 `[B]`; all -1 unless they were asked for.
    """

    images: tf.Tensor
    positions: tf.Tensor
    weights: tf.Tensor
    labels: tf.Tensor


def _labels_at(split: Split, with_labels: bool):
    """A function from indices to labels, or to -1 where labels are not asked for."""
    if not with_labels:
        return lambda indices: tf.fill(tf.shape(indices), tf.constant(-1, tf.int64))
    if split.labels is None:
        raise UserError("a class-conditional model needs labels; the data has none")
    table = tf.constant(split.labels, tf.int64)
    return lambda indices: tf.gather(table, indices)


def augment(
    images: tf.Tensor,
    config: DataConfig,
    seed: tf.Tensor,
    first: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Varies consecutive images of one global batch, each by its own draws.

    Args:
      images: uint8 `[B, H, W, C]`.
      config: which variations to apply.
      seed: of this batch.
      first: position of the first image in the batch.

    Returns:
      uint8 `[B, H, W, C]`.
    """
    count = tf.shape(images)[0]
    # One draw each for the flip and the two shifts.
    draws = noise.uniform(seed, Stream.AUGMENTATION, count, (3,), first)
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
    split: Split,
    config: DataConfig,
    batch_size: int,
    seed: int,
    first_step: int,
    with_labels: bool = False,
    share: Share = _ALL,
) -> tf.data.Dataset:
    """The endless sequence of training batches from step `first_step` on.

    Args:
      split: the training split.
      config: its augmentation.
      batch_size: images per global batch.
      seed: of order and augmentation.
      first_step: the first batch to give.
      with_labels: whether to give labels.
      share: the part of each batch to read.

    Returns:
      A data set of `Batch`es.
    """
    if split.num_images < 1:
        raise UserError("the training split is empty")
    size = split.num_images

    labels_at = _labels_at(split, with_labels)
    order_seed = noise.fold_in(seed, int(Stream.ORDER))

    def batch(step):
        positions = share.positions(batch_size)
        (count,) = positions.shape
        of_all = step * batch_size + positions
        # Each epoch has its own permutation, which is never stored.
        epochs = tf.cast(of_all // size, tf.int32)
        keys = tf.broadcast_to(order_seed, [count, 2])
        indices = tf.raw_ops.RandomIndexShuffle(
            index=of_all % size,
            seed=tf.concat([keys, epochs[:, tf.newaxis]], axis=1),
            max_index=tf.constant(size - 1, tf.int64),
        )
        images = split.read(indices)
        images = augment(images, config, noise.step_seed(seed, step), positions[0])
        return Batch(images, positions, tf.ones([count]), labels_at(indices))

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return steps.map(batch, tf.data.AUTOTUNE, deterministic=True).prefetch(2)


def evaluation_batches(
    split: Split,
    batch_size: int,
    with_labels: bool = False,
    share: Share = _ALL,
) -> tf.data.Dataset:
    """All images of a split once, in order; the last batch is filled up.

    Args:
      split: the images.
      batch_size: images per global batch.
      with_labels: whether to give labels.
      share: the part of each batch to read.

    Returns:
      A data set of `Batch`es, all of the same size.
    """
    count = -(-split.num_images // batch_size)
    labels_at = _labels_at(split, with_labels)

    def batch(number):
        positions = number * batch_size + share.positions(batch_size)
        real = positions < split.num_images
        indices = tf.where(real, positions, 0)
        weights = tf.cast(real, tf.float32)
        return Batch(split.read(indices), positions, weights, labels_at(indices))

    return tf.data.Dataset.range(count).map(batch, tf.data.AUTOTUNE).prefetch(2)
