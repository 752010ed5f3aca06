"""Likelihood by class, and the detection of classes that training lacks."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import likelihood
from tfp_vaeflow.evaluation.measure import SHOWN_CLASSES, Measure, Section, Subject
from tfp_vaeflow.evaluation.novelty import areas, image_bits, shown_areas
from tfp_vaeflow.model import VAEFlow


def by_class(
    model: VAEFlow,
    train: Split,
    split: Split,
    bounds: likelihood.Bounds,
    config: EvaluationConfig,
) -> list[dict] | None:
    """The bits/dim of each class, and how well two scores detect new classes.

    A new class is one that training lacks. Its images should score high. The scores are
    the bits/dim, and their distance from the mean over training images (see `novelty`).

    Args:
      model: a trained model.
      train, split: the images that the model learned from, and the images to measure.
      bounds: of the images of `split`.
      config: sizes and seed.

    Returns:
      None without labels; else one entry per class, in the order of labels: `class`
      (its name), `num_images`, `bits_per_dim`, `in_training`, and `likelihood_auc` and
      `typicality_auc`. These are the areas under the ROC curve of the two scores,
      between the images of a new class and all images of classes that training has.
      They are None for classes that training has. If the split has no image of these
      classes, they are None for all classes.
    """
    if split.labels is None:
        return None
    bits = likelihood.image_bits_per_dim(model, bounds)
    learned = [] if train.labels is None else np.unique(train.labels)
    own = np.isin(split.labels, learned)
    center = None
    if own.any() and not own.all():
        known = image_bits(
            model, train, config.probe_images, config.batch_size, config.seed
        )
        center = known.mean()
    found = []
    for label in np.unique(split.labels):
        chosen = split.labels == label
        row = {
            "class": split.name_of(label),
            "num_images": int(chosen.sum()),
            "bits_per_dim": float(bits[chosen].mean()),
            "in_training": bool(label in learned),
            "likelihood_auc": None,
            "typicality_auc": None,
        }
        if center is not None and not row["in_training"]:
            row |= areas(bits[own], bits[chosen], center)
        found.append(row)
    return found


class ByClass(TypedDict):
    """`by_class`: see `by_class`."""

    by_class: list[dict] | None


def _run(subject: Subject) -> ByClass:
    found = by_class(
        subject.model,
        subject.train,
        subject.split,
        subject.once(likelihood.bounds_of),
        subject.config,
    )
    return {"by_class": found}


def _sections(result: dict) -> Iterator[Section]:
    found = result["by_class"] or []
    rows, note = [], ""
    for row in sorted(found, key=lambda row: row["in_training"])[:SHOWN_CLASSES]:
        images = (
            "one image" if row["num_images"] == 1 else f"{row['num_images']} images"
        )
        text = f"{row['bits_per_dim']:.3f} bits/dim, {images}"
        if row["likelihood_auc"] is not None:
            text += f", {shown_areas(row)}"
        name = row["class"] if row["in_training"] else f"{row['class']} (new)"
        rows.append((name, text))
    if len(found) > SHOWN_CLASSES:
        note = f"And {len(found) - SHOWN_CLASSES} more classes in evaluation.json. "
    if not all(row["in_training"] for row in found):
        note += (
            "A new class is one that training lacks. Its ROC AUC compares its images "
            "with those of the classes that training has."
        )
    if len(found) > 1 or note:
        yield Section("By class", rows, note.strip())


MEASURE = Measure("by_class", ByClass, _run, _sections)
