"""A folder of pictures of any size, with or without labels.

    ROOT/train/CLASS/*   labelled; ROOT/test and ROOT/validation likewise, if any
    ROOT/train/*         without labels
    ROOT/CLASS/*         labelled, no parts
    ROOT/*               without labels, no parts

The folders of the root are its parts only if one of them is called `train`, in any case
of letters. Then `val`, `valid` or `validation` is the validation part, and `test` or
`testing` is the test part. Otherwise all folders are classes, whatever their names. A
part has labels if at least half of its pictures lie in folders; the first folder of a
picture's path names its class.

The classes of the training part come first, then classes that only other parts have. A
missing validation or test part is carved out of the training part by the hash of the
file names; the last picture of a class stays. `listing` says which files are pictures.
Damaged pictures are found and named at the start.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tfp_vaeflow.common import files
from tfp_vaeflow.common.classes import NATURAL, Order
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data import listing
from tfp_vaeflow.data.pictures import HEAD, format_of, from_files
from tfp_vaeflow.data.splits import Split, Splits, carve_indices, check_sizes, encoded

_PARTS = ("train", "validation", "test")
_PART_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class _Part(NamedTuple):
    """Pictures of one part, and the class of each; None without classes."""

    paths: list[str]
    classes: list[str] | None

    def at(self, indices: np.ndarray) -> "_Part":
        classes = self.classes and [self.classes[index] for index in indices]
        return _Part([self.paths[index] for index in indices], classes)


def holds_images(root: str | os.PathLike) -> bool:
    """Whether a directory looks like a folder of pictures.

    Such a directory has a training part, or a picture somewhere below.
    """
    root = files.absolute(root)
    if not files.is_dir(root):
        return False
    if _holds_train(root):
        return True
    return any(map(is_picture, listing.candidates(root, listing.LeftOut(root))))


def _holds_train(root: str) -> bool:
    return any(
        _PART_NAMES.get(entry.name.lower()) == "train" and entry.kind == "directory"
        for entry in files.entries(root, listing.named_as_picture)
    )


def is_picture(path: str) -> bool:
    """Whether a file is a picture by its name, or else by its content."""
    if listing.named_as_picture(os.path.basename(path)):
        return True
    try:
        return format_of(files.read_bytes(path, HEAD)) is not None
    except OSError:
        return False


def _directories(root: str, left_out: listing.LeftOut) -> dict[str, str]:
    """The folder of each part that exists; without parts, the root as `train`.

    Raises:
      UserError: if two folders are the same part.
    """
    found = files.entries(root, listing.named_as_picture)
    folders = [entry for entry in found if entry.kind == "directory"]
    parts = {entry.name: _PART_NAMES.get(entry.name.lower()) for entry in folders}
    if "train" not in parts.values():
        if named := [name for name, part in parts.items() if part]:
            print(
                f"no folder in {files.printable(root)} is called train: all its "
                f"folders are read as classes, also {', '.join(named)}"
            )
        return {"train": root}
    directories = {}
    for entry in found:
        part = parts.get(entry.name)
        if part in directories:
            raise UserError(
                f"{files.printable(directories[part])} and "
                f"{files.printable(entry.path)} are both the {part} part; expected one "
                "folder for it: join them, or rename one"
            )
        if part is not None:
            directories[part] = entry.path
        elif not left_out.ignored(entry.name, entry.path):
            left_out.outside.append(entry.path)
    return directories


def _mixed(directory: str, paths: list[str], left_out: listing.LeftOut) -> _Part:
    """The pictures of a part, sorted by the hash of their names, with their classes.

    The folder's own order goes by class or film. Sorted by hash, the first pictures,
    which initialise the model, are as mixed as all.
    """

    def key(path: str) -> tuple:
        name = os.path.basename(path)
        return hashlib.md5(encoded(name)).hexdigest(), path.split("/")

    paths = sorted(paths, key=key)
    start = len(directory) + 1
    classes = [path[start:].rpartition("/")[0].partition("/")[0] for path in paths]
    strays = [path for path, name in zip(paths, classes) if not name]
    if len(strays) * 2 > len(paths):
        if len(strays) < len(paths):
            print(
                f"{files.printable(directory)}: {len(strays)} pictures lie directly "
                f"in it and {len(paths) - len(strays)} in folders; all are read "
                "without labels"
            )
        return _Part(paths, None)
    left_out.unlabelled += strays
    labelled = [(path, name) for path, name in zip(paths, classes) if name]
    return _Part(
        [path for path, _ in labelled],
        [files.printable(name) for _, name in labelled],
    )


def _read_parts(root: str, least: int) -> dict[str, _Part]:
    """The parts that hold pictures; says what is left out.

    Args:
      root: the folder.
      least: training images, or images if there are no parts.

    Raises:
      UserError: if there are fewer.
    """
    left_out = listing.LeftOut(root)
    directories = _directories(root, left_out)
    found = {
        part: list(listing.candidates(directory, left_out))
        for part, directory in directories.items()
    }
    good = set(listing.readable([*itertools.chain(*found.values())], left_out))
    if directories == {"train": root}:
        _hint_at_parts_below(root, good)
    parts = {}
    for part, directory in directories.items():
        paths = [path for path in found[part] if path in good]
        parts[part] = _mixed(directory, paths, left_out)
    for line in left_out.lines():
        print(line, flush=True)
    count = len(parts["train"].paths)
    if count < least:
        where = files.printable(directories["train"])
        raise UserError(
            f"{where} holds {count} readable training images; expected at least "
            f"{least}; {_found_instead(left_out)}"
            f"{listing.expected(files.printable(root))}"
        )
    for part in list(parts):
        if not parts[part].paths:
            where = files.printable(directories[part])
            print(f"{where} holds no readable images", flush=True)
            del parts[part]
    return parts


def _hint_at_parts_below(root: str, paths: Iterable[str]) -> None:
    """Says where folders of parts lie one level too deep."""
    start = len(root) + 1
    for path in paths:
        words = path[start:].split("/")
        if len(words) > 2 and _PART_NAMES.get(words[1].lower()) == "train":
            where = files.printable(os.path.join(root, words[0]))
            print(
                f"the folders of {files.printable(root)} are read as classes; to use "
                f"the parts in {where}, name that folder with --data_dir"
            )
            return


def _found_instead(left_out: listing.LeftOut) -> str:
    found = " ".join(" ".join(left_out.lines()).split())
    return f"{found}; " if found else ""


def _carve(parts: dict[str, _Part], root: str, fraction: float) -> None:
    """Carves a missing test or validation part out of the training part."""
    share, made = fraction, []
    for part in ("test", "validation"):
        train = parts["train"]
        if part not in parts and fraction == 0:
            parts[part] = _Part([], None)
        elif part not in parts:
            # By name, not by path: a copy of the folder is divided in the same way.
            names = [f"{part} {os.path.basename(path)}" for path in train.paths]
            kept, aside = carve_indices(names, share, train.classes)
            parts["train"], parts[part] = train.at(kept), train.at(aside)
            share /= 1 - share  # the same number again, of fewer pictures
            made.append(f"{len(aside)} for {part}")
    if made:
        where = files.printable(root)
        print(f"{where}: training images set aside: {' and '.join(made)}")
    if not parts["test"].paths and fraction:
        raise UserError(
            f"{files.printable(root)} has no test images, and none can be set aside: "
            f"each of its {len(parts['train'].paths)} classes has one picture; "
            "expected some classes with two or more pictures, or pictures without "
            "classes directly in the folder"
        )


def _labels(classes: list[str], names: tuple[str, ...]) -> np.ndarray:
    """The label of each class, its place among the names: int64 `[N]`."""
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[name] for name in classes], np.int64)


def load_folder(
    config: DataConfig, image_shape: tuple[int, int, int], order: Order = NATURAL
) -> Splits:
    """The images of `config.data_dir`; see the module's docstring for its layout.

    Args:
      config: names the folder.
      image_shape: to crop and resize to.
      order: which label each class gets.

    Raises:
      UserError: if there is no such folder, or it holds too few images.
    """
    if config.data_dir is None:
        raise UserError(
            "DataConfig.name is 'folder' without a folder; name one with --data_dir"
        )
    root = files.absolute(config.data_dir)
    if not files.is_dir(root):
        what = "is a file" if files.exists(root) else "does not exist"
        shown = files.printable(root)
        raise UserError(f"{shown} {what}; {listing.expected(shown)}")
    parts = _read_parts(root, least=len(_PARTS))
    classes = {part: set(found.classes or ()) for part, found in parts.items()}
    _carve(parts, root, config.validation_fraction)
    names = order.arrange(classes.pop("train"), set().union(*classes.values()))
    splits = {}
    for part, (paths, found) in parts.items():
        labels = None if found is None else _labels(found, names)
        splits[part] = from_files(paths, image_shape, labels, names or None)
    return check_sizes(Splits(**splits), files.printable(root))


def load_whole_folder(
    root: str | os.PathLike, image_shape: tuple[int, int, int]
) -> Split:
    """All images of a folder, whatever their part, in one split.

    If any part has labels, images of parts without labels get the class `no class`.

    Args:
      root: the folder, as for `load_folder`.
      image_shape: to crop and resize to.

    Raises:
      UserError: if there is no such folder, or it holds no images.
    """
    parts = _read_parts(files.absolute(root), least=1).values()
    paths = [path for part in parts for path in part.paths]
    if not any(part.classes for part in parts):
        return from_files(paths, image_shape)
    found = [part.classes or ["no class"] * len(part.paths) for part in parts]
    classes = list(itertools.chain(*found))
    names = NATURAL.arrange(set(classes))
    return from_files(paths, image_shape, _labels(classes, names), names)


def part_named(name: str) -> str | None:
    """The part that a folder of this name may be: `train`, `validation` or `test`."""
    return _PART_NAMES.get(name.lower())
