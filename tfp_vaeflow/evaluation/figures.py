"""Image grids as arrays and PNG files."""

import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from tfp_vaeflow.common import colours, files
from tfp_vaeflow.model import VAEFlow

_BACKGROUND = 255
_FONT_SIZE = 12


def grid(
    images: np.ndarray,
    columns: int,
    min_cell: int = 48,
    gap: int = 1,
    rows: int | None = None,
) -> np.ndarray:
    """Lays images out in rows, enlarged by a whole factor if they are small.

    Args:
      images: uint8 `[N, H, W, C]`, C = 1 or 3.
      columns: images per row.
      min_cell: least height of a cell in pixels.
      gap: pixels between the cells, before enlarging.
      rows: how many; by default as many as the images need.

    Returns:
      uint8 `[rows, width, C]`.
    """
    images = np.asarray(images)
    count, height, width, channels = images.shape
    rows = rows or -(-count // columns)
    cell_height, cell_width = height + gap, width + gap
    shape = (rows * cell_height - gap, columns * cell_width - gap, channels)
    canvas = np.full(shape, _BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * cell_height, index % columns * cell_width
        canvas[top : top + height, left : left + width] = image
    factor = max(1, -(-min_cell // height))
    return canvas.repeat(factor, 0).repeat(factor, 1)


def with_maps(images: np.ndarray, maps: np.ndarray, columns: int) -> np.ndarray:
    """A grid of images, each with its likelihood map to the right.

    The pixels with the least likelihood of each image are white, see `colours.heat`.

    Args:
      images: uint8 `[N, H, W, C]`.
      maps: nats, `[N, H, W]`.
      columns: pairs per row.

    Returns:
      uint8 `[rows, width, 3]`.
    """
    coloured = colours.heat(maps)
    images = np.broadcast_to(np.asarray(images), coloured.shape)
    pairs = np.stack([images, coloured], 1)
    return grid(pairs.reshape(-1, *coloured.shape[1:]), 2 * columns)


def described(
    picture: np.ndarray,
    title: str,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> np.ndarray:
    """A picture with a title, and with words at the head of its columns and rows.

    Args:
      picture: uint8 `[H, W, C]`, C = 1 or 3: a grid.
      title: wrapped to the width of the picture.
      columns: at equal distances from the left to the right edge.
      rows: at equal distances from the top to the bottom.

    Returns:
      uint8, white where there is no picture.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + 4
    left = max((int(font.getlength(row)) + 8 for row in rows), default=0)
    width = left + picture.shape[1]
    lines = _wrapped(title, font, width)
    top = line * (len(lines) + bool(columns)) + 2
    mode = "L" if picture.shape[-1] == 1 else "RGB"
    canvas = Image.new(mode, (width, top + picture.shape[0]), "white")
    canvas.paste(
        Image.fromarray(picture.squeeze(-1) if mode == "L" else picture), (left, top)
    )
    draw = ImageDraw.Draw(canvas)
    for number, text in enumerate(lines):
        draw.text((0, line * number), text, "black", font)
    for number, text in enumerate(columns):
        middle = left + (number + 0.5) * picture.shape[1] / len(columns)
        draw.text((middle, top - 4), text, "black", font, anchor="ms")
    for number, text in enumerate(rows):
        middle = top + (number + 0.5) * picture.shape[0] / len(rows)
        draw.text((left - 4, middle), text, "black", font, anchor="rm")
    return np.asarray(canvas).reshape(*canvas.size[::-1], -1)


def _wrapped(text: str, font, width: int) -> list[str]:
    """Text as lines that are no wider than so many pixels, unless a word is."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a uint8 image `[H, W, C]`, grey or RGB, in one step."""
    if image.shape[-1] == 1:
        image = image[..., 0]
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="PNG")
    files.write_bytes(path, png.getvalue())


def switch_grid(
    a: np.ndarray,
    b: np.ndarray,
    z_a_v_b: np.ndarray,
    z_b_v_a: np.ndarray,
    columns: int,
) -> np.ndarray:
    """One cell of 2x2 images per switch, with the originals on one diagonal.

            a         z_a v_b
            z_b v_a   b

    Args:
      a, b: uint8 originals `[N, H, W, C]`.
      z_a_v_b, z_b_v_a: what `VAEFlow.switch` returned for them.
      columns: cells per row.

    Returns:
      uint8 `[rows, width, C]`.
    """
    cells = zip(*(np.asarray(part) for part in (a, z_a_v_b, z_b_v_a, b)))
    cells = np.stack([grid(np.stack(cell), 2, min_cell=1) for cell in cells])
    return grid(cells, columns, min_cell=96, gap=4)


def framed_grid(rows: np.ndarray, columns: np.ndarray, made: np.ndarray) -> np.ndarray:
    """A matrix of images, with the images of its rows and columns at the edges.

    Args:
      rows, columns: uint8 `[R, H, W, C]` for the left edge, `[S, H, W, C]` for the top.
      made: uint8 `[R, S, H, W, C]`.

    Returns:
      uint8 `[rows, width, C]`; the corner is empty.
    """
    corner = np.full_like(columns[:1], _BACKGROUND)
    cells = [corner, columns]
    for row, line in zip(rows, made):
        cells += [row[np.newaxis], line]
    return grid(np.concatenate(cells), len(columns) + 1)


def switch_matrix(model: VAEFlow, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Every z of one half of the images (rows) with every v of the other (columns).

    The originals are at the edges.

    Args:
      model: with a z inferred from images.
      images: uint8 `[2 N, H, W, C]`; the first half give z, the others v.
      batch_size: images at a time.

    Returns:
      uint8 `[rows, width, C]`.
    """
    side = len(images) // 2
    rows, columns = images[:side], images[side : 2 * side]
    z, _ = model.posterior(rows, batch_size)
    _, v = model.encode(columns, batch_size=batch_size)
    made = [
        model.decode(tf.repeat(z[row : row + 1], side, axis=0), v, batch_size).numpy()
        for row in range(side)
    ]
    return framed_grid(rows, columns, np.stack(made))
