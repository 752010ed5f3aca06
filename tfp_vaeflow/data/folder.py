"""A folder of images of any size, with or without labels.

    ROOT/train/LABEL/*.jpg   labelled; ROOT/test and ROOT/validation likewise, if there
    ROOT/train/*.jpg         without labels
    ROOT/*.jpg               without labels, no parts

What of validation and test is not there is carved out by the hash of the file names.
All files are decoded once before training, so that damaged ones are known and named at
the start; the verdicts are kept by path, size and time.
"""

import concurrent.futures
import contextlib
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tfp_vaeflow import files
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.splits import Split, Splits, carve_indices, from_numpy
from tfp_vaeflow.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_PARTS = ("train", "validation", "test")
_THREADS = os.cpu_count() or 1
_NAMED = 5  # damaged files that are named; the rest are counted


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _image_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if _is_image(path))


def holds_images(root: str | Path) -> bool:
    """Whether a directory looks like a folder of images."""
    root = Path(root)
    if not root.is_dir():
        return False
    return (root / "train").is_dir() or any(_is_image(path) for path in root.iterdir())


def decode(path: str | Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads one image: turned as its EXIF says, cropped to shape, resized.

    Transparent pixels are laid on white, 16 bits a channel scaled to 8, CMYK and
    palettes converted; a colour image becomes grey where the model is grey.

    Args:
      path: of a JPEG or PNG file.
      image_shape: `(H, W, C)` to crop and resize to, C = 1 or 3.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      OSError, SyntaxError or ValueError: if the file is damaged or no image.
    """
    height, width, channels = image_shape
    with Image.open(path, formats=["JPEG", "PNG"]) as image:
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


def _cache_path(root: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = str(root.resolve()).strip(os.sep).replace(os.sep, "-")
    return Path(base) / "tfp_vaeflow" / f"scan-{name}.json"


def _readable(root: Path, paths: list[Path]) -> list[Path]:
    """The files that decode; prints how many do not, and names some."""
    cache_path = _cache_path(root)
    try:
        known = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    stats = [path.stat() for path in paths]
    keys = [f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in zip(paths, stats)]

    def fault(path: Path) -> str | None:
        try:
            decode(path, (1, 1, 3))
        except Exception as error:  # Pillow raises all kinds
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None

    missing = [index for index, key in enumerate(keys) if key not in known]
    if missing:
        print(f"checking {len(missing)} files in {root}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        faults = pool.map(fault, [paths[index] for index in missing])
        known |= {keys[index]: found for index, found in zip(missing, faults)}
    if missing:
        # With no place to keep the verdicts, the next run checks again.
        with contextlib.suppress(OSError):
            files.write_text(cache_path, json.dumps({key: known[key] for key in keys}))
    bad = [(path, known[key]) for path, key in zip(paths, keys) if known[key]]
    if bad:
        print(f"{len(bad)} of {len(paths)} files cannot be read and are left out:")
        for path, reason in bad[:_NAMED]:
            print(f"  {path}: {reason}")
        if len(bad) > _NAMED:
            print(f"  and {len(bad) - _NAMED} more", flush=True)
    return [path for path, key in zip(paths, keys) if not known[key]]


def _split(
    paths: list[Path], labels: np.ndarray | None, image_shape: tuple[int, int, int]
) -> Split:
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)

    def read(indices):
        chosen = [paths[index] for index in indices]
        return np.stack(list(pool.map(lambda path: decode(path, image_shape), chosen)))

    return from_numpy(len(paths), read, image_shape, labels)


def _label(directory: Path, path: Path) -> str | None:
    """The folder right below the part's directory that a file lies in, if any."""
    parts = path.relative_to(directory).parts
    return parts[0] if len(parts) > 1 else None


def _list_parts(root: Path) -> tuple[dict[str, list[Path]], dict[Path, str | None]]:
    """Readable files of the parts that are there, and the label of each."""
    directories = {part: root / part for part in _PARTS if (root / part).is_dir()}
    if "train" not in directories:
        directories = {"train": root}
    parts = {part: _image_files(path) for part, path in directories.items()}
    good = set(_readable(root, [path for paths in parts.values() for path in paths]))
    parts = {part: [p for p in paths if p in good] for part, paths in parts.items()}
    labels = {}
    for part, paths in parts.items():
        labels |= {path: _label(directories[part], path) for path in paths}
    return {part: paths for part, paths in parts.items() if paths}, labels


def load_folder(config: DataConfig, image_shape: tuple[int, int, int]) -> Splits:
    """The images of `config.data_dir`; see the module's docstring for its layout.

    Raises:
      UserError: if there is no such folder, it holds too few images, or a label is not
        among those of the training part.
    """
    if config.data_dir is None:
        raise UserError(
            "DataConfig.name is 'folder' without a folder; name one with --data_dir"
        )
    root = Path(config.data_dir)
    if not holds_images(root):
        raise UserError(
            f"{root} holds no images; expected {root}/train/LABEL/*.jpg or *.png, or "
            "such files right in it"
        )
    parts, label_of = _list_parts(root)
    if len(parts.get("train", [])) < len(_PARTS):
        raise UserError(
            f"{root} holds {len(parts.get('train', []))} readable training images; "
            f"expected at least {len(_PARTS)}"
        )
    share = config.validation_fraction
    for part in ("test", "validation"):
        if part not in parts:
            # By name, not by path: a copy of the folder is divided in the same way.
            names = [f"{part} {path.name}" for path in parts["train"]]
            kept, aside = carve_indices(names, share)
            parts[part] = [parts["train"][index] for index in aside]
            parts["train"] = [parts["train"][index] for index in kept]
            share /= 1 - share  # of what is left, the same number again
    classes = {label_of[path] for path in parts["train"]}
    known = None if None in classes else sorted(classes)
    splits = {}
    for part, paths in parts.items():
        labels = None
        if known:
            strange = [path for path in paths if label_of[path] not in classes]
            if strange:
                raise UserError(
                    f"{strange[0]} has the label {label_of[strange[0]]!r}; the "
                    f"training images have {', '.join(known)}"
                )
            labels = np.array([known.index(label_of[path]) for path in paths])
        splits[part] = _split(paths, labels, image_shape)
    return Splits(**splits)
