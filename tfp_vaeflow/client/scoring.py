"""Scores picture files, and keeps the scores while it goes: for `score`.

All files are read and scored in a stream. A row of the table is written once the
picture is scored, so that a run that was stopped goes on behind its last row.
"""

import collections
import concurrent.futures
import csv
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfp_vaeflow.client.growing_array import GrowingArray
from tfp_vaeflow.client.model import Client, row_seeds
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import LeftOut
from tfp_vaeflow.data.listing import candidates, read
from tfp_vaeflow.data.pictures import THREADS, decode
from tfp_vaeflow.evaluation import figures

TERMS = ["total", "generation", "kl", "dequantization"]
_PATHS = "paths.txt"  # the file of each row of arrays
_GROUP = 16  # files that a thread reads at a time
COLUMNS = ["path", *TERMS, "standard_error", "log_prob", "typicality", "flagged"]


class Scored(NamedTuple):
    """A batch of pictures and their scores.

    Attributes:
      paths: of the files.
      images: uint8 `[B, H, W, C]`.
      scores: outputs of the signature `score`, each `[B]`.
    """

    paths: list[str]
    images: np.ndarray
    scores: dict[str, np.ndarray]


class Draws(NamedTuple):
    """The noise of scores and maps.

    Attributes:
      seed: of all noise.
      label: of all pictures, for a class-conditional model; else None.
    """

    seed: int = 0
    label: int | None = None

    def rows(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of signatures that draw noise, for images `[B, H, W, C]`.

        The noise of a picture goes by its pixels. So its score does not depend on the
        other pictures.
        """
        pixels = [zlib.crc32(image.tobytes()) for image in images]
        rows = {"image": images, "seed": row_seeds(self.seed, np.array(pixels))}
        if self.label is not None:
            rows["label"] = np.full(len(images), self.label, np.int64)
        return rows


class Limit(NamedTuple):
    """The rule by which pictures are flagged.

    Attributes:
      by: `bits` (bits/dim) or `typicality` (their distance from `center`).
      center: the mean bits/dim of typical pictures; None if it is not known.
      threshold: pictures above it are flagged; None flags none.
    """

    by: str
    center: float | None
    threshold: float | None

    def typicality(self, bits: np.ndarray) -> np.ndarray | None:
        """The distance of bits/dim from those of typical pictures."""
        return None if self.center is None else np.abs(bits - self.center)

    def measured(self, bits: np.ndarray) -> np.ndarray:
        """The values that the threshold is compared with."""
        return self.typicality(bits) if self.by == "typicality" else bits


def find(patterns: Sequence[str], but: str | None = None) -> dict[str, LeftOut]:
    """The files that paths, folders and patterns name, without opening them.

    Args:
      patterns: paths, folders and patterns.
      but: a file that is none of them, such as the picture that is made of them.

    Returns:
      The paths, each with the record of files that are left out of its place.

    Raises:
      UserError: if one of the places does not exist, or there is no file at all.
    """
    paths = {}
    for pattern in patterns:
        places = [pattern] if files.exists(pattern) else files.matching(pattern)
        if not places:
            raise UserError(f"there is no file {files.printable(pattern)}")
        noted = LeftOut(pattern)
        for place in places:
            found = [place]
            if files.is_dir(place):
                found = sorted(candidates(place, noted))
            paths |= dict.fromkeys(found, noted)
    if but is not None:
        but = files.absolute(but)
        paths = {p: noted for p, noted in paths.items() if files.absolute(p) != but}
    if not paths:
        raise UserError(f"{', '.join(map(files.printable, patterns))}: no files there")
    return paths


def stream(
    model: Client,
    paths: dict[str, LeftOut],
    draws: Draws,
) -> Iterator[Scored]:
    """Scores files, `model.batch_size` at a time, and reads ahead meanwhile.

    Args:
      model: scores them.
      paths: the files, each with the record that takes it if it cannot be read.
      draws: the noise.
    """
    size = model.batch_size
    names, images = [], []
    for path, found in _read_ahead(paths, model.image_shape, 4 * size):
        if isinstance(found, Exception):
            paths[path].note(path, found)
            continue
        paths[path].num_pictures += 1
        names.append(path)
        images.append(found)
        if len(names) == size:
            yield _scored(model, names, images, draws, paths)
            names, images = [], []
    if names:
        yield _scored(model, names, images, draws, paths)


def _read_ahead(paths, image_shape, ahead):
    """Yields each file, and its picture or the error; `ahead` files are read before."""

    def read_group(group):
        return [(path, _picture_or_error(path, image_shape)) for path in group]

    waiting, left = collections.deque(), iter(paths)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:

        def begin(count):
            for _ in range(count):
                if group := list(itertools.islice(left, _GROUP)):
                    waiting.append(pool.submit(read_group, group))

        begin(max(ahead // _GROUP, 1))
        while waiting:
            yield from waiting.popleft().result()
            begin(1)


def _picture_or_error(path, image_shape):
    try:
        return read(path, image_shape)
    except Exception as error:  # of all kinds
        return error


def _scored(model, names, images, draws, paths):
    images = np.stack(images)
    scores = model.run("score", draws.rows(images))
    good = scores["is_finite"]
    for name in itertools.compress(names, ~good):
        paths[name].note(name, ValueError("its score is not a finite number"))
    scores = {key: value[good] for key, value in scores.items()}
    return Scored(list(itertools.compress(names, good)), images[good], scores)


class Table:
    """A CSV file with a row per scored picture; a second run adds the missing rows.

    Attributes:
      done: the paths that it holds, as text that can be shown.

    Args:
      path: of the file. `PATH.json` beside it says what the scores were made with.
      settings: what the scores depend on.

    Raises:
      UserError: if the file holds scores that were made with other settings.
    """

    def __init__(self, path: str, settings: dict):
        self._path = path
        begun = os.path.exists(path)
        self._last_written = os.path.getmtime(path) if begun else 0.0
        beside = f"{path}.json"
        if begun and not os.path.exists(beside):
            raise UserError(
                f"{path} is there, and is no table of scores; name another --output"
            )
        if os.path.exists(beside):
            kept = json.loads(files.read_text(beside))
            for name, value in settings.items():
                if begun and kept.get(name) != value:
                    raise UserError(
                        f"{path} holds scores with {name} = {kept.get(name)}, and this "
                        f"run has {value}; name another --output"
                    )
        files.write_text(beside, json.dumps(settings, indent=2) + "\n")
        if not begun:
            files.write_text(path, ",".join(COLUMNS) + "\n")
        # A kill may have cut the last line.
        with open(path, "rb+") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)
        self.done = [row["path"] for row in self.read()]

    def changed(self, paths: Iterable[str]) -> int:
        """How many files of its rows were changed after its last row was written."""
        done = set(self.done)
        return sum(
            os.path.getmtime(path) > self._last_written
            for path in paths
            if files.printable(path) in done and os.path.exists(path)
        )

    def read(self) -> Iterator[dict[str, str]]:
        """The rows, by column."""
        with open(self._path, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def add(self, scored: Scored, limit: Limit) -> int:
        """Adds the rows of a batch; returns how many pictures are flagged."""
        bits = scored.scores["total"]
        typicality, empty = limit.typicality(bits), [""] * len(bits)
        flagged = np.zeros(len(bits), bool)
        if limit.threshold is not None:
            flagged = limit.measured(bits) > limit.threshold
        columns = [
            list(map(files.printable, scored.paths)),
            *(map("{:.6f}".format, scored.scores[name]) for name in TERMS),
            _column(scored.scores.get("standard_error"), empty),
            _column(scored.scores["log_prob"], empty),
            _column(typicality, empty),
            empty if limit.threshold is None else flagged.astype(int),
        ]
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(zip(*columns))
        return int(flagged.sum())

    def strangest(
        self, count: int, limit: Limit, paths: dict[str, LeftOut]
    ) -> list[str]:
        """The files with the highest values, of the given paths, highest first."""
        known = {files.printable(path): path for path in paths}
        rows = [row for row in self.read() if row["path"] in known]
        values = limit.measured(np.array([float(row["total"]) for row in rows]))
        order = np.argsort(-values, kind="stable")[:count]
        return [known[rows[number]["path"]] for number in order]


def check_new(table: str, directories: Sequence[str]) -> None:
    """Checks that a new table gets directories of its own for its arrays.

    Args:
      table: its path.
      directories: one per `Arrays`.

    Raises:
      UserError: if two are the same, or one holds the arrays of another table.
    """
    places = [os.path.realpath(directory) for directory in directories]
    if len(set(places)) < len(places):
        raise UserError(
            f"{directories[0]} is to take the codes and the maps; expected two "
            "directories"
        )
    for directory in directories:
        if not os.path.exists(table) and os.path.exists(f"{directory}/{_PATHS}"):
            raise UserError(
                f"{directory} holds the arrays of another table; delete it, or name "
                "another directory"
            )


def _column(values, empty):
    return empty if values is None else map("{:.6f}".format, values)


class Arrays:
    """Arrays beside a table, with a row per row of the table, and `paths.txt`.

    Args:
      directory: takes the files.
      signature: computes the arrays.
      shapes: of a row, by the name of the signature's output.
      done: the paths that the table holds.
    """

    def __init__(
        self,
        directory: str,
        signature: str,
        shapes: dict[str, tuple],
        done: Sequence[str],
    ):
        files.make_dirs(directory)
        self._signature = signature
        self._paths = os.path.join(directory, _PATHS)
        self._arrays = {
            name: GrowingArray(os.path.join(directory, f"{name}.npy"), shape, len(done))
            for name, shape in shapes.items()
        }
        files.write_text(self._paths, "".join(f"{path}\n" for path in done))

    def add(self, model: Client, scored: Scored, draws: Draws) -> None:
        """Adds a batch; call it before the table's rows are added."""
        rows = draws.rows(scored.images)
        inputs = model.inputs(self._signature)
        values = model.run(self._signature, {name: rows[name] for name in inputs})
        for name, array in self._arrays.items():
            array.append(values[name])
        with open(self._paths, "a", encoding="utf-8") as file:
            file.writelines(f"{files.printable(path)}\n" for path in scored.paths)


def sheet(model: Client, paths: Sequence[str], draws: Draws) -> np.ndarray:
    """A picture of files, each beside its likelihood map, uint8 `[rows, width, 3]`."""
    images = np.stack([decode(path, model.image_shape) for path in paths])
    maps = model.run("likelihood_map", draws.rows(images))["likelihood_map"]
    return figures.with_maps(images, maps, columns=8)
