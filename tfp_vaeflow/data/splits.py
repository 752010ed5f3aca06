"""Splits: images that are read by index, and how parts are carved out of one."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


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


def in_memory(images: np.ndarray, labels: np.ndarray | None) -> Split:
    images = tf.constant(images, tf.uint8)
    return Split(len(images), lambda i: tf.gather(images, i), labels)


def from_numpy(
    num_images: int,
    read: Callable[[np.ndarray], np.ndarray],
    image_shape: tuple[int, int, int],
    labels: np.ndarray | None = None,
) -> Split:
    """A split that Python code reads: indices `[B]` -> uint8 `[B, H, W, C]`."""

    def read_tensor(indices: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(read, [indices], tf.uint8, stateful=False)
        images.set_shape([None, *image_shape])
        return images

    return Split(num_images, read_tensor, labels)


def carve_indices(names: list[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Chooses a fraction of things, at least one, by the hash of their names.

    The choice looks random and is the same in every run; what is added or removed
    later moves few of the others.

    Returns:
      The indices of what stays and of what was chosen, each in ascending order.
    """

    def key(index: int) -> str:
        return hashlib.md5(names[index].encode()).hexdigest()

    order = np.array(sorted(range(len(names)), key=key), np.int64)
    count = max(1, round(fraction * len(names)))
    return np.sort(order[count:]), np.sort(order[:count])


def carve(split: Split, fraction: float) -> tuple[Split, Split]:
    """Sets a fraction of a split aside: (what stays, what was set aside)."""
    names = [f"validation {index}" for index in range(split.num_images)]
    kept, aside = carve_indices(names, fraction)
    return split.subset(kept), split.subset(aside)
