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

import numpy as np

from tfp_vaeflow import files
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data.pictures import THREADS, decode, from_files
from tfp_vaeflow.data.splits import Splits, carve_indices, check_sizes
from tfp_vaeflow.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_PARTS = ("train", "validation", "test")
_NAMED = 5  # damaged files that are named; the rest are counted


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(".")


def _image_files(directory: str) -> list[str]:
    """The image files, by the hash of their names.

    Their own order goes by label, or by film; so the first of them, which initialise
    the model, are as mixed as all.
    """

    def key(path: str) -> tuple:
        name = os.path.basename(path)
        return hashlib.md5(name.encode()).hexdigest(), path.split("/")

    return sorted(files.find(directory, _is_image), key=key)


def holds_images(root: str | os.PathLike) -> bool:
    """Whether a directory looks like a folder of images."""
    if files.is_dir(os.path.join(root, "train")):
        return True
    return any(map(_is_image, files.list_dir(root)))


def _cache_path(root: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    whole = root if files.is_remote(root) else os.path.realpath(root)
    name = whole.strip("/").replace("/", "-")
    return os.path.join(base, "tfp_vaeflow", f"scan-{name}.json")


def _readable(root: str, paths: list[str]) -> list[str]:
    """The files that decode; prints how many do not, and names some."""
    cache_path = _cache_path(root)
    try:
        known = json.loads(files.read_text(cache_path))
    except (OSError, ValueError):
        known = {}

    def fault(path: str) -> str | None:
        try:
            decode(path, (1, 1, 3))
        except Exception as error:  # Pillow raises all kinds
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        stamps = pool.map(files.stamp, paths)
        keys = [f"{path} {stamp}" for path, stamp in zip(paths, stamps)]
        missing = [index for index, key in enumerate(keys) if key not in known]
        if missing:
            print(f"checking {len(missing)} files in {root}", flush=True)
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


def _label(directory: str, path: str) -> str | None:
    """The folder right below the part's directory that a file lies in, if any."""
    parts = os.path.relpath(path, directory).split("/")
    return parts[0] if len(parts) > 1 else None


def _list_parts(root: str) -> tuple[dict[str, list[str]], dict[str, str | None]]:
    """Readable files of the parts that are there, and the label of each."""
    directories = {part: os.path.join(root, part) for part in _PARTS}
    directories = {part: d for part, d in directories.items() if files.is_dir(d)}
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
    root = config.data_dir
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
            names = [f"{part} {os.path.basename(path)}" for path in parts["train"]]
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
    return check_sizes(Splits(**splits), root)
