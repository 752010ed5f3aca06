"""Reading pictures as people have them: any size and mode, JPEG, PNG or WebP."""

import concurrent.futures
import io
import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from tfp_vaeflow import files
from tfp_vaeflow.data.splits import LostImageError, Split, from_numpy

THREADS = os.cpu_count() or 1


def decode(
    source: str | os.PathLike | BinaryIO, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads one image: turned as its EXIF says, cropped to shape, resized.

    Transparent pixels are laid on white, 16 bits a channel scaled to 8, CMYK and
    palettes converted; a colour image becomes grey where the model is grey.

    Args:
      source: a JPEG, PNG or WebP file, or its path, remote or not.
      image_shape: `(H, W, C)` to crop and resize to, C = 1 or 3.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      OSError, SyntaxError or ValueError: if the file is damaged or no image.
    """
    height, width, channels = image_shape
    if isinstance(source, (str, os.PathLike)):
        source = io.BytesIO(files.read_bytes(source))
    with Image.open(source, formats=["JPEG", "PNG", "WEBP"]) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        # The largest part in the middle that has the model's proportions.
        scale = min(image.width / width, image.height / height)
        crop_width, crop_height = round(scale * width), round(scale * height)
        left = (image.width - crop_width) // 2
        top = (image.height - crop_height) // 2
        image = image.crop((left, top, left + crop_width, top + crop_height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image_shape)


def from_files(
    paths: list[str],
    image_shape: tuple[int, int, int],
    labels: np.ndarray | None = None,
) -> Split:
    """A split of files that are decoded when they are read.

    Whoever makes it has seen that they can be: one that cannot is a `LostImageError`.
    """
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def read_one(index):
        path = paths[index]
        try:
            return decode(path, image_shape)
        except Exception as error:  # Pillow raises all kinds
            text = files.describe(error) if isinstance(error, OSError) else str(error)
            text = " ".join(text.removeprefix(f"{path}: ").split())
            raise LostImageError(f"{path} cannot be read any more: {text}") from error

    def read(indices):
        return np.stack(list(pool.map(read_one, indices)))

    read_labels = None if labels is None else lambda: labels
    return from_numpy(len(paths), read, image_shape, read_labels)
