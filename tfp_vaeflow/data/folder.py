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
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from tfp_vaeflow import files
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.pictures import THREADS, decode, from_files
from tfp_vaeflow.data.splits import Splits, carve_indices, check_sizes
from tfp_vaeflow.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_PARTS = ("train", "validation", "test")
_NAMED = 5  # damaged files that are named; the rest are counted


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _image_files(directory: Path) -> list[Path]:
    """The image files, by the hash of their names.

    Their own order goes by label, or by film; so the first of them, which initialise
    the model, are as mixed as all.
    """
    paths = sorted(path for path in directory.rglob("*") if _is_image(path))
    return sorted(paths, key=lambda path: hashlib.md5(path.name.encode()).hexdigest())


def holds_images(root: str | Path) -> bool:
    """Whether a directory looks like a folder of images."""
    root = Path(root)
    if not root.is_dir():
        return False
    return (root / "train").is_dir() or any(_is_image(path) for path in root.iterdir())


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
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
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
        if part not in parts and share == 0:
            parts[part] = []
        elif part not in parts:
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
        splits[part] = from_files(paths, image_shape, labels)
    return check_sizes(Splits(**splits), str(root))
