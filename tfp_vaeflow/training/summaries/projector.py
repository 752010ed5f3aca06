"""z of some images for TensorBoard's projector, with thumbnails and labels."""

import os

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector

from tfp_vaeflow.common import files
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.model import VAEFlow

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
    logdir: str, model: VAEFlow, split: Split, batch_size: int
) -> None:
    """Writes the projector's files of a run; replaces older ones.

    Args:
      logdir: the run's events; takes `projector_config.pbtxt` and `projector/`.
      model: as it is now; with a posterior of z.
      split: the images to show, with the names of their classes if they have labels.
      batch_size: images at a time.
    """
    z, cells = [], []
    for images in split.batches(batch_size):
        z.append(model.posterior(images, batch_size)[0])
        cells.append(_thumbnails(images))
    z, cells = np.concatenate(z), np.concatenate(cells)
    names = range(len(z))
    if split.labels is not None:
        names = map(split.name_of, split.labels)
    rows = ["\t".join(f"{value:.5g}" for value in row) for row in z]
    folder = os.path.join(logdir, _FOLDER)
    files.write_text(os.path.join(folder, "z.tsv"), "\n".join(rows) + "\n")
    text = "\n".join(map(str, names)) + "\n"
    files.write_text(os.path.join(folder, "labels.tsv"), text)
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
