"""What comes into a model: checked, and taken a batch at a time."""

from collections.abc import Callable, Iterator

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.errors import UserError


def checked_images(config: ModelConfig, images: tf.Tensor) -> tf.Tensor:
    """uint8 images `[B, H, W, C]`, one or more.

    Raises:
      UserError: if they are of another type or shape.
    """
    images = tf.convert_to_tensor(images)
    expected = config.image_shape
    shape = tuple(images.shape)
    if images.dtype != tf.uint8 or len(shape) != 4 or shape[1:] != expected:
        raise UserError(
            f"images are {images.dtype.name} of shape {shape}; expected uint8 of "
            f"shape (batch, {', '.join(map(str, expected))})"
        )
    if shape[0] == 0:
        raise UserError("images are an empty batch; expected at least one image")
    return images


def checked_labels(
    config: ModelConfig, labels: tf.Tensor | None, count: int
) -> tf.Tensor | None:
    """int64 labels `[count]` of a class-conditional model; None for any other.

    Raises:
      UserError: if they are missing, not wanted, or no such classes.
    """
    if not config.is_class_conditional:
        if labels is not None:
            raise UserError(
                "labels are given, but this model is not class-conditional "
                "(PriorConfig.kind = 'categorical'); leave them out"
            )
        return None
    if labels is None:
        raise UserError("labels are missing; this model is class-conditional")
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer or labels.shape != (count,):
        raise UserError(
            f"labels are {labels.dtype.name} of shape {tuple(labels.shape)}; "
            f"expected integers of shape ({count},)"
        )
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
      UserError: naming the method.
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
      UserError: if they are of other shapes, or hold what is no number.
    """
    v = tf.convert_to_tensor(v, tf.float32)
    expected = (None, *config.image_shape)
    if v.shape.rank != 4 or v.shape[1:] != expected[1:] or v.shape[0] == 0:
        raise UserError(f"v is of shape {tuple(v.shape)}; expected {expected}")
    if not config.latent_dim:
        if z is not None:
            raise UserError("z is given, but this model has none; pass None")
    elif z is None:
        raise UserError("z is None; expected the global codes of the images")
    else:
        z = tf.convert_to_tensor(z, tf.float32)
        expected = (v.shape[0], config.latent_dim)
        if tuple(z.shape) != expected:
            raise UserError(f"z is of shape {tuple(z.shape)}; expected {expected}")
    for name, code in (("z", z), ("v", v)):
        if code is not None and not tf.reduce_all(tf.math.is_finite(code)):
            raise UserError(f"{name} holds NaN or infinity; expected finite codes")
    return z, v


def in_batches(inputs: list[tf.Tensor], batch_size: int) -> Iterator[tuple]:
    """The inputs of `batch_size` examples at a time, after the first one's position.

    Args:
      inputs: tensors with a leading batch dimension; all but the last may be None.
      batch_size: examples at a time.

    Raises:
      UserError: if `batch_size` is not positive.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected at least 1")
    size = inputs[-1].shape[0]
    if 0 < size <= batch_size:  # without operations, which take longer than small ones
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
      position: whether `function` also takes the first example's position, before the
        others.

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
    for first, *arguments in in_batches(inputs, batch_size):
        size = arguments[-1].shape[0]
        arguments = compute.padded(arguments, batch_size)
        if position:
            arguments.insert(0, tf.constant(first, tf.int64))
        results.append(tf.nest.map_structure(first_of(size), function(*arguments)))
    if len(results) == 1:
        return results[0]
    return tf.nest.map_structure(
        lambda *parts: None if parts[0] is None else tf.concat(parts, 0), *results
    )
