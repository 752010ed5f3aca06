"""Checks the inputs of a model, and divides them into batches."""

from collections.abc import Callable, Iterator

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.common import arguments
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ModelConfig

DEFAULT_BATCH_SIZE = 256


def checked_images(config: ModelConfig, images: tf.Tensor) -> tf.Tensor:
    """uint8 images `[B, H, W, C]`, one or more.

    Raises:
      UserError: if they are of another type or shape.
    """
    images = tf.convert_to_tensor(images)
    arguments.check_images(images, config.image_shape)
    return images


def checked_labels(
    config: ModelConfig, labels: tf.Tensor | None, count: int
) -> tf.Tensor | None:
    """int64 labels `[count]` of a class-conditional model; None for any other.

    Raises:
      UserError: if they are missing, not expected, or out of range.
    """
    if labels is not None:
        labels = tf.convert_to_tensor(labels)
    arguments.check_labels(labels, count, config.is_class_conditional)
    if labels is None:
        return None
    labels = tf.cast(labels, tf.int64)
    classes = config.prior.num_classes
    low, high = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
    if low < 0 or high >= classes:
        raise UserError(f"labels run from {low} to {high}; expected 0 to {classes - 1}")
    return labels


def with_labels(
    config: ModelConfig, images: tf.Tensor, labels: tf.Tensor | None
) -> list[tf.Tensor]:
    """`[images]`, or `[images, labels]` for a class-conditional model; checked."""
    images = checked_images(config, images)
    labels = checked_labels(config, labels, len(images))
    return [images] if labels is None else [images, labels]


def check_posterior(config: ModelConfig, method: str) -> None:
    """Checks that a model has a posterior of z, which a method needs.

    Raises:
      UserError: if it has none; the error names the method.
    """
    if not config.has_posterior:
        why = "ModelConfig.latent_dim = 0"
        if config.is_class_conditional:
            why = "z goes by the label; use encode and decode"
        raise UserError(
            f"{method} needs a global code z inferred from images, and this model has "
            f"none ({why})"
        )


def checked_codes(
    config: ModelConfig, z: tf.Tensor | None, v: tf.Tensor
) -> tuple[tf.Tensor | None, tf.Tensor]:
    """float32 codes z `[B, D]` (None without z) and v `[B, H, W, C]`.

    Raises:
      UserError: if they are of other shapes, or not finite.
    """
    v = tf.convert_to_tensor(v, tf.float32)
    if z is not None:
        z = tf.convert_to_tensor(z, tf.float32)
    arguments.check_codes(z, v, config.latent_dim, config.image_shape)
    for name, code in (("z", z), ("v", v)):
        if code is not None:
            arguments.check_finite(name, bool(tf.reduce_all(tf.math.is_finite(code))))
    return z, v


def in_batches(inputs: list[tf.Tensor], batch_size: int) -> Iterator[tuple]:
    """Yields the inputs in batches, each after the position of its first example.

    Args:
      inputs: tensors with a leading batch dimension; all but the last may be None.
      batch_size: examples at a time.

    Raises:
      UserError: if `batch_size` is not positive.
    """
    arguments.check_at_least_one("batch_size", batch_size)
    size = inputs[-1].shape[0]
    if 0 < size <= batch_size:  # no slicing, which takes longer than a small batch
        yield 0, *inputs
        return
    for first in range(0, size, batch_size):
        batch = slice(first, first + batch_size)
        yield first, *(None if value is None else value[batch] for value in inputs)


def batched(
    function: Callable, inputs: list[tf.Tensor], batch_size: int, position: bool = False
):
    """Applies `function` to `batch_size` examples at a time and joins the results.

    Args:
      function: tensors with a leading batch dimension -> such tensors.
      inputs: its arguments for all examples.
      batch_size: examples at a time.
      position: whether `function` also takes the first example's position, before
        its other arguments.

    Raises:
      UserError: if `batch_size` is not positive.
    """

    def first_of(size):
        def first(value):
            if value is None or value.shape[0] == size:
                return value
            return value[:size]

        return first

    results = []
    for first, *batch in in_batches(inputs, batch_size):
        size = batch[-1].shape[0]
        batch = compute.padded(batch, batch_size)
        if position:
            batch.insert(0, tf.constant(first, tf.int64))
        results.append(tf.nest.map_structure(first_of(size), function(*batch)))
    if len(results) == 1:
        return results[0]
    return tf.nest.map_structure(
        lambda *parts: None if parts[0] is None else tf.concat(parts, 0), *results
    )
