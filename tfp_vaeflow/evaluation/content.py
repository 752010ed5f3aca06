"""Whether z, and not v, tells what an image is of."""

from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.classifier import named_classifier
from tfp_vaeflow.evaluation.decoupling import decoupling_of
from tfp_vaeflow.evaluation.measure import (
    Measure,
    NotMeasuredError,
    Section,
    Subject,
    random_subset,
    reason,
)
from tfp_vaeflow.evaluation.probes import (
    Reduction,
    drawn_share,
    make_classifier,
    representation,
)
from tfp_vaeflow.model import VAEFlow

# Principal components of v that its probes see.
COMPONENTS = (128, 256, 512)
_CROP = 0.85  # side of a crop, as a part of the image's
_GAIN = 0.2  # a channel is multiplied by 1 - gain to 1 + gain
_ROWS_AT_A_TIME = 256


def flipped(images: tf.Tensor, seed: int) -> tf.Tensor:
    """Images mirrored from left to right."""
    return images[:, :, ::-1]


def cropped(images: tf.Tensor, seed: int) -> tf.Tensor:
    """A square of 0.85 of the side, at a random place, resized to the whole."""
    count, height, width, _ = images.shape
    draws = noise.uniform(noise.as_seed(seed), Stream.AUGMENTATION, count, (2,))
    start = (1 - _CROP) * draws
    boxes = tf.concat([start, start + _CROP], axis=1)
    pixels = tf.image.crop_and_resize(
        tf.cast(images, tf.float32), boxes, tf.range(count), (height, width)
    )
    return _to_pixels(pixels)


def recoloured(images: tf.Tensor, seed: int) -> tf.Tensor:
    """Each channel multiplied by its own random factor, from 0.8 to 1.2."""
    count, channels = images.shape[0], images.shape[-1]
    draws = noise.uniform(noise.as_seed(seed), Stream.AUGMENTATION, count, (channels,))
    factors = 1 + _GAIN * (2 * draws[:, tf.newaxis, tf.newaxis] - 1)
    return _to_pixels(tf.cast(images, tf.float32) * factors)


def _to_pixels(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


CHANGES = {"flip": flipped, "crop": cropped, "colour": recoloured}


def sensitivity(
    encode: Callable[[tf.Tensor], np.ndarray], split: Split, batch_size: int, seed: int
) -> dict[str, float]:
    """How far small changes of an image move z, against another image's distance.

        mean |z(changed x) - z(x)|^2 / mean |z(x) - z(x')|^2

    0: z does not see the change. 1: z moves as far as to an image drawn at random.

    Args:
      encode: uint8 `[B, H, W, C]` -> the posterior means of z, `[B, D]`.
      split: the images x and x'.
      batch_size: images at a time.
      seed: of the changes.

    Returns:
      The ratio for each of `CHANGES`; 0 where all z are equal.
    """
    codes, squares = [], {name: [] for name in CHANGES}
    for number, images in enumerate(split.batches(batch_size)):
        images = tf.constant(images)
        z = encode(images)
        codes.append(z)
        for name, change in CHANGES.items():
            moved = encode(change(images, seed + number)) - z
            squares[name].append((moved**2).sum(axis=1))
    # The mean over all pairs is twice the sum of the variances.
    spread = max(2 * np.concatenate(codes).var(axis=0).sum(), 1e-12)
    return {
        name: float(np.concatenate(found).mean() / spread)
        for name, found in squares.items()
    }


def _views(
    model: VAEFlow, split: Split, batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What probes are fit on, by name: z, v, and v by level; each `[N, F]`."""
    yield "z", representation(model, split, "z", batch_size)
    v = representation(model, split, "v", batch_size)
    yield "v", v
    levels = model.config.flow.levels
    for number in range(1, levels if levels > 2 else 1):
        parts = []
        for first in range(0, len(v), _ROWS_AT_A_TIME):
            rows = v[first : first + _ROWS_AT_A_TIME]
            rows = tf.constant(rows.reshape(-1, *model.config.image_shape))
            part = model.flow.by_level(rows)[number - 1]
            parts.append(part.numpy().reshape(len(rows), -1))
        yield f"v_level_{number}", np.concatenate(parts)


def content_probes(
    model: VAEFlow,
    train: Split,
    test: Split,
    num_seeds: int,
    max_images: int,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Test accuracies of logistic regression on z, on v, and on v by level.

    See `probes.probes` for seeds and images.

    Args:
      model: a trained model with an encoder.
      train, test: labelled splits.
      num_seeds: number of random choices of four fifths of the training images.
      max_images: images of either split at most.
      batch_size: images at a time.

    Returns:
      `mean` and `stddev` over the seeds by features: `z`; `v_128`, `v_256` and `v_512`,
      the first principal components of v; for a flow of three levels or more,
      `v_level_1` and so on: 128 components of the part of v that left the flow at a
      level (see `MultiScaleFlow.by_level`).
    """
    train, test = (random_subset(split, max_images, seed=0) for split in (train, test))
    fitted, scores = {}, {}
    for name, rows in _views(model, train, batch_size):
        widths = COMPONENTS if name == "v" else COMPONENTS[:1]
        for seed in range(num_seeds):
            chosen = drawn_share(train.num_images, seed)
            labels = train.labels[chosen]
            reduce = Reduction(rows, chosen, max(widths))
            reduced = reduce(rows, chosen)
            for width in widths:
                probe = make_classifier("logistic", labels)
                probe.fit(reduced[:, :width], labels)
                fitted.setdefault(name, []).append((reduce, width, probe))
    for name, rows in _views(model, test, batch_size):
        for reduce, width, probe in fitted[name]:
            title = f"v_{width}" if name == "v" else name
            score = probe.score(reduce(rows)[:, :width], test.labels)
            scores.setdefault(title, []).append(score)
    return {
        title: {"mean": float(np.mean(found)), "stddev": float(np.std(found))}
        for title, found in scores.items()
    }


class Content(TypedDict):
    """`content`: `probes` (see `content_probes`); `margin`, the accuracy of z less the
    best of v's; `decoupling_score` and `classifier_accuracy` (see `decoupling`);
    `sensitivity` (see `sensitivity`)."""

    content: dict | None


def _run(subject: Subject) -> Content:
    subject.needs_labels()
    model, config = subject.model, subject.config
    if model.encoder is None:
        raise NotMeasuredError("This model infers no z from images.")
    switched = subject.once(decoupling_of)["classifier"]
    subject.say("probes of z, and of v by level")
    found = content_probes(
        model,
        subject.train,
        subject.compared,
        config.probe_seeds,
        config.probe_images,
        config.batch_size,
    )
    of_v = max(found[f"v_{width}"]["mean"] for width in COMPONENTS)
    moved = sensitivity(
        lambda images: model.posterior(images, config.batch_size)[0].numpy(),
        random_subset(subject.compared, config.probe_images, seed=0),
        config.batch_size,
        config.seed,
    )
    return {
        "content": {
            "probes": found,
            "margin": found["z"]["mean"] - of_v,
            "decoupling_score": switched["score"],
            "classifier_accuracy": switched["accuracy"],
            "sensitivity": moved,
        }
    }


def _answer(found: dict) -> str:
    for_z = [found["margin"] > 0, found["decoupling_score"] > 0]
    if all(for_z):
        return "yes: z tells the class better than v, and decides it in a switch"
    if not any(for_z):
        return "no: v tells the class as well as z, and decides it in a switch"
    if for_z[0]:
        return "in part: z tells the class better than v, but v decides it in a switch"
    return "in part: z decides the class in a switch, but v tells it as well"


def _sections(result: dict) -> list[Section]:
    found, title = result["content"], "Is z about the content?"
    if found is None:
        return [Section(title, [], reason(result, "content"))]
    accuracy = found["classifier_accuracy"]
    rows = [
        ("answer", _answer(found)),
        ("accuracy of logistic regression on z less that on v", _points(found)),
        (
            f"decoupling score, by a classifier ({accuracy:.1%} right)",
            f"{found['decoupling_score']:+.3f}",
        ),
    ]
    for name, row in found["probes"].items():
        kind, *which = name.split("_")
        if which[:1] == ["level"]:
            text = f"the part of v that left at level {which[1]}"
        else:
            text = f"{which[0]} components of v" if which else kind
        shown = f"{row['mean']:.1%} ± {row['stddev']:.1%}"
        rows.append((f"logistic regression on {text}", shown))
    for name, ratio in found["sensitivity"].items():
        text = f"change of z by a change of {name}, of that to another image"
        rows.append((text, f"{ratio:.1%}"))
    return [Section(title, rows)]


def _points(found: dict) -> str:
    return f"{100 * found['margin']:+.1f} points"


MEASURE = Measure(
    "content",
    Content,
    _run,
    _sections,
    check=lambda subject: subject.once(named_classifier),
)
