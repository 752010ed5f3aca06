"""The interface of a measure, and helpers that measures share."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Split
from tfp_vaeflow.model import VAEFlow, quantization

T = TypeVar("T")

SHOWN_CLASSES = 30  # at most in a table; evaluation.json has all
# The reason where an evaluation gives none.
_NO_LABELS = "The data has no labels of two or more kinds."


# Passes batches on, and may show how far they are.
# Arguments: the batches, images per batch, images in all.
Watch = Callable[[Iterable[T], int, int], Iterable[T]]


def unwatched(batches: Iterable[T], size: int, num_images: int) -> Iterable[T]:
    """Shows nothing: a `Watch`."""
    return batches


class NotMeasuredError(Exception):
    """Raised where the model or the data has nothing to measure; says why."""


class Section(NamedTuple):
    """A part of an evaluation as text.

    Attributes:
      title: of the part.
      rows: the name of each figure, and its value.
      note: explains the rows; may be empty.
    """

    title: str
    rows: list[tuple[str, str]]
    note: str = ""


class Subject:
    """The model and images to measure, with results that several measures share.

    Real images have the model's levels, as generated ones do: a classifier that learned
    from 8 bits is lost on 5.

    Attributes:
      model: a trained model.
      train: the images that it learned from.
      split: the images that it is measured on.
      config: numbers of samples and sizes.
      say: called with the name of each thing that is being measured.
      watch: shows how far long measurements are.
      horizontal_flip: whether training mirrors images at random.
      folder: for files that measures write; None for no files.
      chosen: indices of the images of `split` whose classes training has; None where
        nothing can be learned from labels.
      why_unlabelled: why nothing can be learned from labels.
      compared: the chosen images; all of `split` without labels if `chosen` is None.
    """

    def __init__(
        self,
        model: VAEFlow,
        train: Split,
        split: Split,
        config: EvaluationConfig,
        say: Callable[[str], None],
        watch: Watch = unwatched,
        horizontal_flip: bool = False,
        folder: str | None = None,
    ):
        self.model = model
        n_bins = model.config.n_bins
        self.train, self.split = (
            part.mapped(lambda images: quantization.at_levels(images, n_bins))
            for part in (train, split)
        )
        self.config = config
        self.say = say
        self.watch = watch
        self.horizontal_flip = horizontal_flip
        self.folder = folder
        self._known = {}
        self.chosen, self.why_unlabelled = _learned(train, split)

    def once(self, function: Callable[["Subject"], T]) -> T:
        """The result of a function on this subject, computed at the first call."""
        if function not in self._known:
            self._known[function] = function(self)
        return self._known[function]

    @functools.cached_property
    def compared(self) -> Split:
        """The images whose classes training has; see the attributes above."""
        if self.chosen is None:
            return dataclasses.replace(self.split, read_labels=None)
        return self.split.subset(self.chosen)

    def needs_labels(self) -> None:
        """Raises `NotMeasuredError` where there is nothing to learn from labels."""
        if self.chosen is None:
            raise NotMeasuredError(self.why_unlabelled)


def _learned(train: Split, split: Split) -> tuple[np.ndarray | None, str]:
    """Indices of images whose classes can be learned; or None, and the reason."""
    if train.labels is None or split.labels is None:
        which = "training" if train.labels is None else "measured"
        return None, f"The {which} images have no labels."
    classes = np.unique(train.labels)
    if len(classes) < 2:
        name = train.name_of(classes[0])
        return None, f"The training images are all of one class, {name}."
    chosen = np.flatnonzero(np.isin(split.labels, classes))
    if not len(chosen):
        return None, "The measured images are of classes that training lacks."
    return chosen, ""


def check_count(count: int, least: int) -> None:
    """Raises `NotMeasuredError` where there are too few images."""
    if count < least:
        number = "one image" if count == 1 else f"{count} images"
        raise NotMeasuredError(
            f"There is too little to measure: {number}; it takes {least} or more."
        )


class Drawing(NamedTuple):
    """The data that an evaluation's figures are drawn from, and their folder.

    Attributes:
      model: a trained model.
      split: the images that it was measured on.
      result: what `report.evaluate` returned.
      records: of the run's metrics; may be empty.
      folder: takes the PNG files.
      batch_size: images at a time.
    """

    model: VAEFlow
    split: Split
    result: dict
    records: list[dict]
    folder: str
    batch_size: int

    @property
    def shows_z(self) -> bool:
        """Whether there is a z, and enough images to show it."""
        return self.model.encoder is not None and self.split.num_images > 3

    def path(self, name: str) -> str:
        """The path of a file in the folder of the figures."""
        return os.path.join(self.folder, name)


class Measure(NamedTuple):
    """One measure: its keys in an evaluation, how to compute and how to show them.

    Attributes:
      name: names the measure in `--only`, and in `notes`, which say why there was
        nothing to measure.
      result: a `TypedDict` of the measure's own keys in `evaluation.json`. They are
        None where it was not measured.
      run: measures; raises `NotMeasuredError` where there is nothing to measure.
      sections: takes a whole evaluation, gives the sections of this measure. Keys may
        be None.
      figures: draws PNG files; gives captions by file name.
      check: raises a `UserError` if the measure's settings are wrong; called before
        anything is measured.
    """

    name: str
    result: type
    run: Callable[[Subject], dict]
    sections: Callable[[dict], Iterable[Section]]
    figures: Callable[[Drawing], dict[str, str]] = lambda drawing: {}
    check: Callable[[Subject], object] = lambda subject: None


def reason(result: dict, name: str, otherwise: str = _NO_LABELS) -> str:
    """Why something was not measured."""
    return result.get("notes", {}).get(name, otherwise)


def with_error(value: float, error: float | None, digits: int = 4) -> str:
    """A figure and its standard error, which may not be known."""
    if error is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def random_subset(split: Split, count: int, seed: int) -> Split:
    """The split, or `count` of its images drawn at random, in their order."""
    if split.num_images <= count:
        return split
    chosen = np.random.default_rng(seed).permutation(split.num_images)[:count]
    return split.subset(np.sort(chosen))
