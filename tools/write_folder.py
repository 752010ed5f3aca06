"""Writes a data set as a folder of images.

    python tools/write_folder.py --data=NAME --output=DIR

NAME is `digits`, or `tfds:NAME` for a data set of TensorFlow Datasets (which is
downloaded if necessary), such as tfds:cifar10. Images are written to
DIR/train/LABEL/*.png and DIR/test/LABEL/*.png (with --format=jpg to *.jpg, at quality
75). Every command takes DIR as --data_dir. Existing images are left as they are.
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from tfp_vaeflow import data
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig, FlowConfig, ModelConfig


def write(split: data.Split, folder: Path, extension: str) -> int:
    """Writes the images of a split; returns how many there are."""
    labels = split.labels
    digits = len(str(split.num_images - 1))
    for batch in data.evaluation_batches(split, 256):
        number = int(np.sum(batch.weights))
        for image, position in zip(
            batch.images.numpy()[:number], batch.positions.numpy()
        ):
            label = folder if labels is None else folder / str(labels[position])
            path = label / f"{position:0{digits}d}.{extension}"
            if path.exists():
                continue
            pixels = image[..., 0] if image.shape[-1] == 1 else image
            encoded = io.BytesIO()
            kind = "JPEG" if extension == "jpg" else "PNG"
            Image.fromarray(pixels).save(encoded, format=kind)
            files.write_bytes(path, encoded.getvalue())
    return split.num_images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="digits, or tfds:NAME")
    parser.add_argument("--output", required=True, type=files.user_path)
    parser.add_argument("--format", choices=["png", "jpg"], default="png")
    parser.add_argument(
        "--data_dir",
        type=files.expand,
        help="where TensorFlow Datasets keeps its data",
    )
    parser.add_argument(
        "--image_shape",
        type=int,
        nargs=3,
        help="height, width, channels; by default those of cifar10 or the digits",
    )
    flag = parser.parse_args()
    shape = flag.image_shape or ((8, 8, 1) if flag.data == "digits" else (32, 32, 3))
    steps = [0 if shape[-1] == 1 else 1, 1]  # only the shape of the model is used
    try:
        flow = FlowConfig(steps, [4, 4])
        model = ModelConfig(tuple(shape), n_bins=256, flow=flow, latent_dim=0)
        config = DataConfig(flag.data, flag.data_dir, validation_fraction=0.0)
        splits = data.load(config, model)
        for name in ("train", "validation", "test"):
            split = getattr(splits, name)
            if split.num_images:
                count = write(split, flag.output / name, flag.format)
                print(f"{count} images in {flag.output / name}", flush=True)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {files.describe(error)}\n")


if __name__ == "__main__":
    main()
