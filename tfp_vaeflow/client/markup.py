"""The contents of the page of `explore`: codes between two images, and HTML."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfp_vaeflow.client.model import Client
from tfp_vaeflow.common import arguments, colours

# If z is longer than the first number, only as many entries as the second number get a
# slider: those in which the two images differ most.
MOST_SLIDERS, SLIDERS_OF_MANY = 64, 32

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


class Codes(NamedTuple):
    """The codes of the two images that are picked: z `[2, D]` or None, v `[2, ...]`."""

    z: np.ndarray | None
    v: np.ndarray


def between(codes: Codes, alpha: float, beta: float) -> Codes:
    """One z at alpha and one v at beta between two images, each with a batch of 1."""
    z = (None, None) if codes.z is None else (codes.z[:1], codes.z[1:])
    return Codes(*arguments.between(z, (codes.v[:1], codes.v[1:]), alpha, beta))


def slider_count(latent_dim: int) -> int:
    """How many entries of z get a slider."""
    return latent_dim if latent_dim <= MOST_SLIDERS else SLIDERS_OF_MANY


def slider_dims(codes: Codes) -> np.ndarray:
    """Which entries of z get a slider: all, or those that differ most; ascending."""
    differences = np.abs(codes.z[1] - codes.z[0])
    count = slider_count(len(differences))
    return np.sort(np.argsort(-differences, kind="stable")[:count])


def moved(codes: Codes, dims: np.ndarray, offsets: Sequence[float]) -> Codes:
    """Codes with offsets added to the entries `dims` of z."""
    if codes.z is None:
        return codes
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


def numbered(images: np.ndarray, what: str, large: bool = False) -> str:
    """A grid of images with their numbers, from 1 on."""
    figures = "".join(
        _figure(image, f"{what} {number}", str(number))
        for number, image in enumerate(images, 1)
    )
    return f'<div class="vf vf-grid{" vf-large" if large else ""}">{figures}</div>'


def one_picture(image: np.ndarray, description: str, caption: str) -> str:
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


def maps(found: np.ndarray) -> str:
    """The likelihood maps `[2, H, W]` of A and B as pictures."""
    figures = "".join(
        _figure(image, f"the likelihood map of image {which}", which)
        for image, which in zip(colours.heat(found), "AB")
    )
    return f'<div class="vf vf-grid vf-large">{figures}</div>'


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
    values = ", ".join(f"{value:.1f}" for value in z[:SLIDERS_OF_MANY])
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
