"""Splits: images that are read by index, and how parts are carved out of one."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common.errors import UserError


class LostImageError(OSError):
    """An image of a split can no longer be read."""


_LOST = re.compile(rf"{LostImageError.__name__}: (.*)")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Restores a `LostImageError` that a tf.data pipeline raises in this block.

    TensorFlow turns it into an error of its own, with a trace as text.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lost = _LOST.search(str(error))
        if lost is None:
            raise
        raise LostImageError(lost[1]) from error


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split, read by index.

    Attributes:
      num_images: how many.
      read: int64 indices `[B]` -> uint8 images `[B, H, W, C]`; works in a tf.data map
        (see `reading`).
      read_labels: gives the labels, which may take a while; None without labels.
      class_names: names of all labels of the data set, label i at index i; None
        without names.
    """

    num_images: int
    read: Callable[[tf.Tensor], tf.Tensor]
    read_labels: Callable[[], np.ndarray] | None
    class_names: tuple[str, ...] | None = None

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int64 `[num_images]`, or None where there are none."""
        return None if self.read_labels is None else self.read_labels()

    def name_of(self, label: int) -> str:
        """The name of a class: its label as a text where classes have no names."""
        return str(label) if self.class_names is None else self.class_names[label]

    def subset(self, indices: np.ndarray) -> "Split":
        """The images at some indices, in that order."""
        table = tf.constant(indices, tf.int64)
        read_labels = None
        if self.read_labels is not None:
            read_labels = lambda: self.labels[indices]  # noqa: E731
        return dataclasses.replace(
            self,
            num_images=len(indices),
            read=lambda i: self.read(tf.gather(table, i)),
            read_labels=read_labels,
        )

    def mapped(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "Split":
        """The images after a function of uint8 images `[B, H, W, C]`."""
        return dataclasses.replace(self, read=lambda i: function(self.read(i)))

    def first(self, count: int) -> np.ndarray:
        """The first `count` images (or all there are), uint8 `[B, H, W, C]`."""
        return self.read(tf.range(min(count, self.num_images), dtype=tf.int64)).numpy()

    def in_turn(self) -> np.ndarray:
        """Indices `[num_images]`, classes in turn: one image of each, then the next."""
        place = np.zeros(self.num_images, np.int64)
        for label in np.unique(self.labels):
            place[self.labels == label] = np.arange(np.sum(self.labels == label))
        return np.lexsort((self.labels, place))

    def some(self, chosen: np.ndarray, most: int) -> np.ndarray:
        """At most `most` of some images, drawn at random, always the same ones.

        Args:
          chosen: bool `[num_images]`.
          most: how many.

        Returns:
          uint8 `[B, H, W, C]`.
        """
        indices = np.random.default_rng(0).permutation(np.flatnonzero(chosen))
        return self.read(tf.constant(indices[:most], tf.int64)).numpy()

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """All images in order, at most `batch_size` at a time."""
        for first in range(0, self.num_images, batch_size):
            last = min(first + batch_size, self.num_images)
            yield self.read(tf.range(first, last, dtype=tf.int64)).numpy()


class Splits(NamedTuple):
    """The three parts of a data set."""

    train: Split
    validation: Split
    test: Split

    def part(self, name: str) -> Split:
        """The part of that name, to look at its images.

        Raises:
          UserError: if it is empty.
        """
        split = getattr(self, name)
        if not split.num_images:
            raise UserError(
                f"the {name} part of the data is empty; choose another with --split"
            )
        return split


def in_memory(images: np.ndarray, labels: np.ndarray | None) -> Split:
    """A split of uint8 images `[N, H, W, C]`, with labels `[N]` if there are any."""
    images = tf.constant(images, tf.uint8)
    read_labels = None if labels is None else lambda: labels
    return Split(len(images), lambda i: tf.gather(images, i), read_labels)


def from_numpy(
    num_images: int,
    read: Callable[[np.ndarray], np.ndarray],
    image_shape: tuple[int, int, int],
    read_labels: Callable[[], np.ndarray] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Split:
    """A split that Python code reads: indices `[B]` -> uint8 `[B, H, W, C]`."""

    def read_tensor(indices: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(read, [indices], tf.uint8, stateful=False)
        images.set_shape([*indices.shape, *image_shape])
        return images

    return Split(num_images, read_tensor, read_labels, class_names)


def carve_indices(
    names: list[str], fraction: float, classes: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses a fraction of things, at least one, by the hash of their names.

    The choice looks random and is the same in every run. Adding or removing things
    later changes the choice of few others.

    Args:
      names: of the things.
      fraction: to choose.
      classes: of the things; None without classes. The last thing of a class is never
        chosen, so fewer are chosen if most classes have only one.

    Returns:
      The indices of the others and of the chosen things, each in ascending order.
    """
    keys = [hashlib.md5(encoded(name)).hexdigest() for name in names]
    order = sorted(range(len(names)), key=keys.__getitem__)
    count = max(1, round(fraction * len(names)))
    if classes is not None:
        left = collections.Counter(classes)
        spare = []
        for index in order:
            if left[classes[index]] > 1 and len(spare) < count:
                left[classes[index]] -= 1
                spare.append(index)
        order = spare
    chosen = np.array(sorted(order[:count]), np.int64)
    return np.setdiff1d(np.arange(len(names)), chosen), chosen


def encoded(name: str) -> bytes:
    """A file's name as bytes, also one that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def check_sizes(splits: Splits, source: str) -> Splits:
    """Checks that there are images to train on and to test on.

    Raises:
      UserError: if one of these parts is empty.
    """
    for part in ("train", "test"):
        if not getattr(splits, part).num_images:
            raise UserError(
                f"{source} has no {part} images, and none are set aside while "
                "DataConfig.validation_fraction = 0; set it to 0.1, say"
            )
    return splits


def mixed(split: Split) -> Split:
    """The images in an order that looks random, and is the same in every run.

    The first images initialise the model, so they have to be as mixed as all.
    """
    return split.subset(np.random.default_rng(0).permutation(split.num_images))


def carve(split: Split, fraction: float) -> tuple[Split, Split]:
    """Sets a fraction of a split aside: (what stays, what was set aside)."""
    if fraction == 0:
        return split, split.subset(np.array([], np.int64))
    names = [f"validation {index}" for index in range(split.num_images)]
    kept, aside = carve_indices(names, fraction)
    return split.subset(kept), split.subset(aside)
