"""Telling images of other data from the model's own, by their likelihood."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from sklearn.metrics import roc_auc_score

from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import likelihood
from tfp_vaeflow.evaluation.measure import (
    SHOWN_CLASSES,
    Measure,
    Section,
    Subject,
    random_subset,
)
from tfp_vaeflow.model import VAEFlow


def image_bits(
    model: VAEFlow, split: Split, max_images: int, batch_size: int, seed: int
) -> np.ndarray:
    """bits/dim of the one-sample ELBO of each image, or of `max_images` drawn ones."""
    part = random_subset(split, max_images, seed)
    found = likelihood.bounds(model, part, 1, batch_size, seed)
    return likelihood.image_bits_per_dim(model, found)


def areas(own: np.ndarray, other: np.ndarray, center: float) -> dict[str, float]:
    """Areas under the ROC curve between own and other bits/dim, by both scores."""
    is_other = np.repeat([0, 1], [len(own), len(other)])
    scores = np.concatenate([own, other])
    return {
        "likelihood_auc": float(roc_auc_score(is_other, scores)),
        "typicality_auc": float(roc_auc_score(is_other, np.abs(scores - center))),
    }


def shown_areas(found: dict[str, float]) -> str:
    """The result of `areas` as text."""
    return (
        f"ROC AUC {found['likelihood_auc']:.3f} by likelihood, "
        f"{found['typicality_auc']:.3f} by typicality"
    )


def novelty(
    model: VAEFlow,
    train: Split,
    split: Split,
    others: Split,
    max_images: int,
    batch_size: int,
    seed: int,
) -> dict:
    """How well two scores tell other data from the model's own.

    - likelihood: the bits/dim of the one-sample ELBO; high means strange.
    - typicality: the distance of the bits/dim from their mean over training images, so
      that images which are too likely are strange too (Nalisnick et al., arXiv
      1906.02994).

    Args:
      model: a trained model; not class-conditional.
      train, split: the model's own images: those that it learned from, and those to
        tell from the others.
      others: images of another data set, read at the model's size.
      max_images: images of each at most; drawn at random where there are more.
      batch_size: images at a time.
      seed: of the noise.

    Returns:
      `likelihood_auc` and `typicality_auc`, areas under the ROC curve (0.5: no better
      than a guess; 1: every other image is stranger than every own one); the mean
      bits/dim of the three splits, `train_bits_per_dim`, `bits_per_dim` and
      `other_bits_per_dim`; `num_images` and `num_other_images`; and `by_class`, None
      where the others have no labels, else one entry for each of their classes:
      `class`, `num_images`, `bits_per_dim`, and the two areas between the images of the
      class and all own images.
    """
    others = random_subset(others, max_images, seed)
    known, own, other = (
        image_bits(model, part, max_images, batch_size, seed)
        for part in (train, split, others)
    )
    center = known.mean()
    classes = None
    if others.labels is not None:
        classes = []
        for label in np.unique(others.labels):
            bits = other[others.labels == label]
            classes.append(
                {
                    "class": others.name_of(label),
                    "num_images": len(bits),
                    "bits_per_dim": float(bits.mean()),
                    **areas(own, bits, center),
                }
            )
    return {
        **areas(own, other, center),
        "train_bits_per_dim": float(known.mean()),
        "bits_per_dim": float(own.mean()),
        "other_bits_per_dim": float(other.mean()),
        "num_images": len(own),
        "num_other_images": len(other),
        "by_class": classes,
    }


class Novelty(TypedDict):
    """`novelty`: see `novelty`; None where no other data was named."""

    novelty: dict | None


def _others(subject: Subject) -> Split | None:
    """The images of other data, if there are any.

    Raises:
      UserError: if they cannot be used.
    """
    model, config = subject.model, subject.config
    if config.other_data is None:
        return None
    if model.config.is_class_conditional:
        raise UserError(
            "EvaluationConfig.other_data needs log p(x), and a class-conditional model "
            "has log p(x | label) only; leave it out"
        )
    name = config.other_data
    try:
        if data.holds_images(name):
            return data.load_whole_folder(name, model.config.image_shape)
        if name.partition(":")[0] not in ("digits", "tfds"):
            raise UserError("expected a folder of pictures, 'digits' or 'tfds:NAME'")
        return data.load(DataConfig(name), model.config).part("test")
    except UserError as error:
        raise UserError(f"EvaluationConfig.other_data is {name!r}: {error}") from error


def _run(subject: Subject) -> Novelty:
    config, others = subject.config, subject.once(_others)
    if others is None:
        return {"novelty": None}
    subject.say(f"telling {config.other_data} from the model's own")
    found = novelty(
        subject.model,
        subject.train,
        subject.split,
        others,
        config.probe_images,
        config.batch_size,
        config.seed,
    )
    return {"novelty": found}


def _sections(result: dict) -> Iterator[Section]:
    found = result["novelty"]
    if found is not None:
        own, other = found["num_images"], found["num_other_images"]
        rows = [
            ("ROC AUC by likelihood", f"{found['likelihood_auc']:.3f}"),
            ("ROC AUC by typicality", f"{found['typicality_auc']:.3f}"),
            (
                "bits/dim of training / own / other images",
                f"{found['train_bits_per_dim']:.3f} / {found['bits_per_dim']:.3f} / "
                f"{found['other_bits_per_dim']:.3f}",
            ),
        ]
        # Older evaluations have no figures by class.
        classes, note = found.get("by_class") or [], ""
        rows += [
            (
                f"  {row['class']}, {row['num_images']} images",
                shown_areas(row),
            )
            for row in classes[:SHOWN_CLASSES]
        ]
        if len(classes) > SHOWN_CLASSES:
            note = (
                f"And {len(classes) - SHOWN_CLASSES} more classes in evaluation.json."
            )
        title = f"Telling {other} other images from {own} own ones"
        yield Section(title, rows, note)


MEASURE = Measure(
    "novelty", Novelty, _run, _sections, check=lambda subject: subject.once(_others)
)
