"""How clearly samples show a class, and whether they show every class."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.measure import Measure, Section, Subject, random_subset
from tfp_vaeflow.evaluation.probes import logistic_probe, representation
from tfp_vaeflow.model import VAEFlow


def sample_check(
    model: VAEFlow,
    train: Split,
    num_images: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """How surely a classifier names the samples, and whether it names every class.

    Args:
      model: a trained model.
      train: labelled images, to fit a logistic regression on pixels.
      num_images: samples to draw.
      temperature: of the samples.
      seed: of the samples.
      batch_size: images at a time.

    Returns:
      `mean_top_probability`, and `min_class_share`: the smallest share of the samples
      that any class gets. A class-conditional model is asked for every class in turn,
      and also has `label_agreement`: the share of the samples for which the classifier
      finds the label that was asked for.
    """
    classifier = logistic_probe(
        representation(model, train, "pixels", batch_size), train.labels
    )
    labels = None
    if model.config.is_class_conditional:
        labels = np.arange(num_images) % model.prior.num_classes
    samples = model.sample(num_images, temperature, seed, batch_size, labels).numpy()
    probabilities = classifier.predict_proba(samples.reshape(num_images, -1))
    shares = np.bincount(
        probabilities.argmax(axis=1), minlength=probabilities.shape[1]
    ) / len(probabilities)
    result = {
        "mean_top_probability": float(probabilities.max(axis=1).mean()),
        "min_class_share": float(shares.min()),
    }
    if labels is not None:
        named = classifier.classes_[probabilities.argmax(axis=1)]
        result["label_agreement"] = float((named == labels).mean())
    return result


class Samples(TypedDict):
    """`samples`: `num_images`, `temperature`, and what `sample_check` gives."""

    samples: dict | None


def _run(subject: Subject) -> Samples:
    subject.needs_labels()
    config = subject.config
    subject.say("a check of the samples")
    found = sample_check(
        subject.model,
        random_subset(subject.train, config.probe_images, seed=0),
        config.generated_images,
        config.temperature,
        config.seed,
        config.batch_size,
    )
    sizes = {
        "num_images": config.generated_images,
        "temperature": config.temperature,
    }
    return {"samples": {**sizes, **found}}


def _sections(result: dict) -> Iterator[Section]:
    samples = result["samples"]
    if samples is not None:
        rows = [
            ("mean top probability", f"{samples['mean_top_probability']:.3f}"),
            ("rarest class", f"{samples['min_class_share']:.1%}"),
        ]
        if "label_agreement" in samples:
            rows.append(("of the class asked for", f"{samples['label_agreement']:.1%}"))
        title = (
            f"{samples['num_images']} samples at temperature {samples['temperature']}, "
            "as logistic regression on real images sees them"
        )
        yield Section(title, rows)


MEASURE = Measure("samples", Samples, _run, _sections)
