"""The contents of the page of `explore`: codes between two images, and HTML."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfp_vaeflow.client.model import Client
from tfp_vaeflow.common import arguments, colours

# So many entries of z get a slider, at most, and so many are always in sight.
MOST_SLIDERS, SLIDERS_IN_SIGHT = 64, 8
_IN_CHART = 32  # values of z that a screen reader says

STYLE = """
.vf-grid { display: grid; gap: 8px;
  grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)); }
.vf-large { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
.vf figure { margin: 0; }
.vf figcaption, .vf th, .vf td { font-size: 0.875rem; text-align: center; }
.vf img { display: block; width: 100%; height: auto; border-radius: 4px; }
.vf img.vf-pixels { image-rendering: pixelated; }
.vf table { width: 100%; max-width: 720px; }
.vf table, .vf tr, .vf th, .vf td { border: none !important; padding: 4px !important; }
.vf-matrix { table-layout: fixed; }
.vf th img { outline: 2px solid var(--color-accent); }
.vf-chart { display: block; width: 100%; height: auto; }
.vf-chart .vf-bar { fill: var(--color-accent); }
.vf-chart text { fill: var(--body-text-color); font: 14px system-ui, sans-serif; }
.vf-chart line { stroke: var(--body-text-color); opacity: 0.4; }
.vf-sliders .min_value, .vf-sliders .max_value { display: none; }
.min_value, .max_value, #files .or { color: var(--body-text-color) !important; }
"""


class Pictures(NamedTuple):
    """The pictures that the page begins with.

    Attributes:
      images: uint8 `[N, H, W, C]`, two or more.
      labels: of the images, `[N]`; None without classes.
      names: of the labels.
      examples: gives images of a class and images of others, to compute a direction.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    names: dict[int, str] = {}
    examples: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None


class Pool(NamedTuple):
    """The images to pick from, and what is written below each.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      captions: `[N]`.
    """

    images: np.ndarray
    captions: list[str]


class Codes(NamedTuple):
    """The codes of the two images that are picked: z `[2, D]` or None, v `[2, ...]`."""

    z: np.ndarray | None
    v: np.ndarray


def between(codes: Codes, alpha: float, beta: float) -> Codes:
    """One z at alpha and one v at beta between two images, each with a batch of 1."""
    z = (None, None) if codes.z is None else (codes.z[:1], codes.z[1:])
    return Codes(*arguments.between(z, (codes.v[:1], codes.v[1:]), alpha, beta))


def slider_dims(model: Client, codes: Codes) -> np.ndarray:
    """The entries of z that get a slider, by their effect on a picture, most first.

    The effect of an entry is the mean change of a pixel from z - 1 to z + 1, averaged
    over the images.

    Args:
      model: decodes.
      codes: of some images.
    """
    latent_dim = codes.z.shape[1]
    changes = np.concatenate([-np.eye(latent_dim), np.eye(latent_dim)])
    effects = np.zeros(latent_dim)
    for z, v in zip(*codes):
        made = model.decode(z + changes, np.repeat(v[np.newaxis], len(changes), 0))
        less, more = np.split(made.astype(np.float64), 2)
        effects += np.abs(more - less).mean((1, 2, 3))
    return np.argsort(-effects, kind="stable")[:MOST_SLIDERS]


def moved(codes: Codes, dims: np.ndarray, offsets: Sequence[float]) -> Codes:
    """Codes with offsets added to the entries `dims` of z."""
    z = codes.z.copy()
    z[:, dims] += np.array(offsets, np.float32)
    return codes._replace(z=z)


def all_pairs(model: Client, images: np.ndarray) -> np.ndarray:
    """Every z with every v: uint8 `[N, H, W, C]` -> `[N, N, H, W, C]`, z by z."""
    z, v = model.encode(images)
    count = len(images)
    pairs = model.decode(np.repeat(z, count, 0), np.tile(v, (count, 1, 1, 1)))
    return pairs.reshape(count, count, *images.shape[1:])


# HTML.


def picture(image: np.ndarray, description: str) -> str:
    """An `<img>` of a uint8 image `[H, W, C]`; small ones keep their pixels' edges."""
    data = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(data, "PNG")
    source = base64.b64encode(data.getvalue()).decode()
    kind = ' class="vf-pixels"' if max(image.shape) < 128 else ""
    return (
        f'<img{kind} alt="{html.escape(description)}" '
        f'src="data:image/png;base64,{source}">'
    )


def _figure(image: np.ndarray, description: str, caption: str) -> str:
    return (
        f"<figure>{picture(image, description)}"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def numbers(first: int, count: int, names: Sequence[str] | None = None) -> list[str]:
    """Captions from a number on: the numbers, and the names if there are any."""
    found = [str(number) for number in range(first, first + count)]
    if names is None:
        return found
    return [f"{number}: {name}" for number, name in zip(found, names)]


def numbered(
    images: np.ndarray, what: str, captions: Sequence[str] = (), large: bool = False
) -> str:
    """A grid of images with their numbers, from 1 on, or with captions."""
    captions = captions or numbers(1, len(images))
    figures = "".join(
        _figure(image, f"{what} {number}", caption)
        for number, (image, caption) in enumerate(zip(images, captions), 1)
    )
    return f'<div class="vf vf-grid{" vf-large" if large else ""}">{figures}</div>'


def of_pool(pool: Pool) -> str:
    """The grid of the images to pick from."""
    return numbered(pool.images, "image", pool.captions)


def one_picture(image: np.ndarray, description: str, caption: str) -> str:
    """One image with a caption; the description is read out in its place."""
    return f'<div class="vf">{_figure(image, description, caption)}</div>'


def matrix(images: np.ndarray, pairs: np.ndarray) -> str:
    """A table: z from the image of the row, v from that of the column."""
    head = "".join(
        f'<th scope="col">{picture(image, f"image {number}")}v of {number}</th>'
        for number, image in enumerate(images, 1)
    )
    rows = []
    for number, image in enumerate(images, 1):
        cells = "".join(
            f"<td>{picture(cell, f'z of {number} with v of {column}')}</td>"
            for column, cell in enumerate(pairs[number - 1], 1)
        )
        shown = picture(image, f"image {number}")
        rows.append(f'<tr><th scope="row">{shown}z of {number}</th>{cells}</tr>')
    body = f"<tr><td></td>{head}</tr>{''.join(rows)}"
    return f'<div class="vf"><table class="vf-matrix">{body}</table></div>'


def scores(terms: dict[str, np.ndarray]) -> str:
    """A table of the bits/dim of A and B, by term."""
    names = ["total", "generation", "kl", "dequantization"]
    rows = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{value:.3f}</td>" for value in terms[name])
        + "</tr>"
        for name in names
    )
    head = '<tr><td></td><th scope="col">A</th><th scope="col">B</th></tr>'
    return f'<div class="vf"><table>{head}{rows}</table></div>'


def map_picture(found: np.ndarray, description: str) -> str:
    """A likelihood map `[H, W]` as a picture."""
    image = colours.heat(found[np.newaxis])[0]
    return f'<div class="vf">{picture(image, description)}</div>'


def chart(z: np.ndarray) -> str:
    """z `[D]` as a bar chart, an SVG of its own."""
    width, height, left = 640.0, 260.0, 40.0
    limit = max(1.0, float(np.abs(z).max()))
    step = (width - left) / len(z)
    middle = height / 2
    scale = (middle - 12) / limit
    bars = "".join(
        f'<rect class="vf-bar" x="{left + (i + 0.1) * step:.1f}" '
        f'y="{middle - max(value, 0) * scale:.1f}" width="{0.8 * step:.1f}" '
        f'height="{abs(value) * scale:.1f}"/>'
        for i, value in enumerate(z.tolist())
    )
    values = ", ".join(f"{value:.1f}" for value in z[:_IN_CHART])
    marks = "".join(
        f'<text x="{left - 4}" y="{middle - value * scale + 4:.1f}" '
        f'text-anchor="end">{value:.1f}</text>'
        for value in (limit, 0, -limit)
    )
    return (
        f'<svg class="vf-chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Bar chart of z, {len(z)} entries, the first: {values}">{marks}'
        f'<line x1="{left}" x2="{width}" y1="{middle}" y2="{middle}"/>{bars}</svg>'
    )
