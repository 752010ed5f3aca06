"""z of some images for TensorBoard's projector, with thumbnails and labels."""

import os
from collections.abc import Sequence

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector

from tfp_vaeflow import figures, files

_THUMBNAIL = 32  # the longer side, in pixels
_FOLDER = "projector"


def _thumbnails(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    scale = _THUMBNAIL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
    small = [Image.fromarray(image).resize(size, resample) for image in rgb]
    return np.stack([np.asarray(image) for image in small])


def write_projection(
    logdir: str, z: np.ndarray, images: np.ndarray, labels: Sequence[str] | None
) -> None:
    """Writes what the projector shows of a run; what was there is replaced.

    Args:
      logdir: the run's events; takes `projector_config.pbtxt` and `projector/`.
      z: `[N, D]`.
      images: uint8 `[N, H, W, C]`.
      labels: N names of classes; None where there are none.
    """
    names = range(len(z)) if labels is None else labels
    rows = ["\t".join(f"{value:.5g}" for value in row) for row in z]
    folder = os.path.join(logdir, _FOLDER)
    files.write_text(os.path.join(folder, "z.tsv"), "\n".join(rows) + "\n")
    text = "\n".join(map(str, names)) + "\n"
    files.write_text(os.path.join(folder, "labels.tsv"), text)
    cells = _thumbnails(images)
    side = int(np.ceil(np.sqrt(len(cells))))  # the sprite has to be square
    sprite = figures.grid(cells, side, min_cell=1, gap=0, rows=side)
    figures.write_png(os.path.join(folder, "sprite.png"), sprite)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "z"
    embedding.tensor_path = f"{_FOLDER}/z.tsv"
    embedding.metadata_path = f"{_FOLDER}/labels.tsv"
    embedding.sprite.image_path = f"{_FOLDER}/sprite.png"
    embedding.sprite.single_image_dim.extend([cells.shape[2], cells.shape[1]])
    path = os.path.join(logdir, "projector_config.pbtxt")
    files.write_text(path, text_format.MessageToString(config))
