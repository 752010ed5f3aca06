"""Reading PNG and JPEG inside a graph, as `data.pictures` reads files."""

import tensorflow as tf


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    """uint8 RGBA -> uint8 RGB, transparent pixels laid on white."""
    values = tf.cast(rgba, tf.float32)
    alpha = values[..., 3:] / 255
    rgb = values[..., :3] * alpha + 255 * (1 - alpha)
    return tf.cast(tf.floor(rgb + 0.5), tf.uint8)


def _decoded_png(data: tf.Tensor) -> tf.Tensor:
    """uint8 RGB of a PNG file."""
    # The header has the bits per channel, then the kind of pixels, where 0 is grey.
    # TensorFlow spoils grey of less than 8 bits if it has to add an alpha channel.
    header = tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8, fixed_length=2)
    return tf.cond(
        (header[0] < 8) & (header[1] == 0),
        lambda: tf.io.decode_png(data, channels=3),
        lambda: _on_white(tf.io.decode_png(data, channels=4)),
    )


def _grey(rgb: tf.Tensor) -> tf.Tensor:
    """uint8 RGB -> uint8 luma, ITU-R 601, rounded as Pillow does."""
    weights = tf.constant([19595, 38470, 7471])
    total = tf.reduce_sum(tf.cast(rgb, tf.int32) * weights, -1, keepdims=True)
    return tf.cast((total + 0x8000) // 0x10000, tf.uint8)


def read(data: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Reads one picture of any size: cropped to shape, resized (Lanczos).

    The crop is the largest part in the middle that has the shape's proportions.
    Transparent pixels are laid on white. EXIF tags, such as the orientation, are not
    read: the client turns a picture before it sends it.

    Args:
      data: scalar string, a PNG or JPEG file.
      image_shape: `(H, W, C)`, C = 1 or 3.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      tf.errors.InvalidArgumentError: if the data is no such picture, or damaged.
    """
    rgb = tf.cond(
        tf.io.is_jpeg(data),
        # As Pillow decodes.
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decoded_png(data),
    )
    image = _grey(rgb) if image_shape[2] == 1 else rgb
    size = tf.shape(image)[:2]
    target = tf.constant(image_shape[:2])
    scale = tf.reduce_min(size / target)
    cropped = tf.cast(tf.round(scale * tf.cast(target, scale.dtype)), tf.int32)
    start = tf.concat([(size - cropped) // 2, [0]], 0)
    image = tf.slice(image, start, tf.concat([cropped, [-1]], 0))
    # As Pillow does: along the rows, rounded, then along the columns.
    for new_size in ([cropped[0], target[1]], target):
        image = tf.image.resize(image, new_size, "lanczos3", antialias=True)
        image = tf.clip_by_value(tf.floor(image + 0.5), 0, 255)
    return tf.ensure_shape(tf.cast(image, tf.uint8), image_shape)
