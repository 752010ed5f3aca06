"""Whether z, and not v, tells what an image is of."""

import math
from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.classifier import named_classifier
from tfp_vaeflow.evaluation.decoupling import decoupling_of
from tfp_vaeflow.evaluation.latents import NO_Z
from tfp_vaeflow.evaluation.measure import (
    Measure,
    NotMeasuredError,
    Section,
    Subject,
    random_subset,
    reason,
)
from tfp_vaeflow.evaluation.probes import (
    MAX_WIDTH,
    fit_probes,
    representation,
    score_probes,
)
from tfp_vaeflow.model import VAEFlow

# Principal components of v that its probes see.
COMPONENTS = (128, 256, 512)
_CROP = 0.85  # side of a crop, as a part of the image's
_GAIN = 0.2  # a channel is multiplied by 1 - gain to 1 + gain
_ROWS_AT_A_TIME = 256
_LEAST_SPREAD = 1e-12  # where all z are equal


def flipped(images: tf.Tensor, seed: int, first: int) -> tf.Tensor:
    """Images mirrored from left to right."""
    return images[:, :, ::-1]


def cropped(images: tf.Tensor, seed: int, first: int) -> tf.Tensor:
    """A part of 0.85 of either side, at a random place, resized to the whole."""
    count, height, width, _ = images.shape
    start = (1 - _CROP) * _draws(seed, count, first)[:, :2]
    boxes = tf.concat([start, start + _CROP], axis=1)
    pixels = tf.image.crop_and_resize(
        tf.cast(images, tf.float32), boxes, tf.range(count), (height, width)
    )
    return _to_pixels(pixels)


def recoloured(images: tf.Tensor, seed: int, first: int) -> tf.Tensor:
    """Each channel multiplied by its own random factor, from 0.8 to 1.2.

    On grey images this changes the brightness.
    """
    count, channels = images.shape[0], images.shape[-1]
    draws = _draws(seed, count, first)[:, tf.newaxis, tf.newaxis, 2 : 2 + channels]
    factors = 1 + _GAIN * (2 * draws - 1)
    return _to_pixels(tf.cast(images, tf.float32) * factors)


def _draws(seed: int, count: int, first: int) -> tf.Tensor:
    """Uniform draws for each image: two for a crop, three for colours."""
    return noise.uniform(noise.as_seed(seed), Stream.AUGMENTATION, count, (5,), first)


def _to_pixels(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


CHANGES = {"flip": flipped, "crop": cropped, "change of colour": recoloured}


def sensitivity(
    encode: Callable[[tf.Tensor], np.ndarray], split: Split, batch_size: int, seed: int
) -> dict[str, float]:
    """How far small changes of an image move z.

        mean |z(changed x) - z(x)|^2 / mean |z(x) - z(x')|^2

    0: z does not see the change. 1: z moves as far as to an image drawn at random.

    Args:
      encode: uint8 `[B, H, W, C]` -> the posterior means of z, `[B, D]`.
      split: the images x and x'.
      batch_size: images at a time.
      seed: of the changes.

    Returns:
      The ratio for each of `CHANGES`.
    """
    codes, squares, first = [], {name: [] for name in CHANGES}, 0
    for images in split.batches(batch_size):
        images = tf.constant(images)
        z = encode(images)
        codes.append(z)
        for name, change in CHANGES.items():
            moved = encode(change(images, seed, first)) - z
            squares[name].append((moved**2).sum(axis=1))
        first += len(z)
    # The mean over all pairs is twice the sum of the variances.
    spread = max(2 * np.concatenate(codes).var(axis=0).sum(), _LEAST_SPREAD)
    return {
        name: float(np.concatenate(found).mean() / spread)
        for name, found in squares.items()
    }


def _level(model: VAEFlow, v: np.ndarray, number: int) -> np.ndarray:
    """The part of v `[N, F]` that left the flow at a level, `[N, f]`."""
    rows = None
    for first in range(0, len(v), _ROWS_AT_A_TIME):
        some = v[first : first + _ROWS_AT_A_TIME]
        some = tf.constant(some.reshape(-1, *model.config.image_shape))
        part = model.flow.by_level(some)[number - 1].numpy().reshape(len(some), -1)
        if rows is None:
            rows = np.empty((len(v), part.shape[1]), v.dtype)
        rows[first : first + len(part)] = part
    return rows


def _views(
    model: VAEFlow, split: Split, batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What probes are fit on, by name: z, v, and v by level; each `[N, F]`."""
    yield "z", representation(model, split, "z", batch_size)
    v = representation(model, split, "v", batch_size)
    yield "v", v
    levels = model.config.flow.levels
    for number in range(1, levels if levels > 2 else 1):
        yield f"v_level_{number}", _level(model, v, number)


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
      `mean` and `stddev` over the seeds by features: `z`, the whole; `v_128`, `v_256`
      and `v_512`, the first principal components of v, as far as it has so many. For a
      flow of three levels or more, `v_level_1` and so on: 128 components of the part of
      v that left the flow at a level (see `MultiScaleFlow.by_level`).
    """
    train, test = (random_subset(split, max_images, seed=0) for split in (train, test))
    fitted = {}
    for name, rows in _views(model, train, batch_size):
        width = rows.shape[1]
        # The first number of components that is enough for all of v is the last.
        of_v = COMPONENTS[: 1 + sum(count < width for count in COMPONENTS)]
        widths = {"z": (width,), "v": of_v}.get(name, (MAX_WIDTH,))
        fitted[name] = fit_probes(rows, train, num_seeds, ["logistic"], widths)
    found = {}
    for name, rows in _views(model, test, batch_size):
        for (_, width), scores in score_probes(fitted[name], rows, test).items():
            found[f"v_{width}" if name == "v" else name] = scores
    return found


class Content(TypedDict):
    """`content`: `probes` (see `content_probes`); `margin`, the accuracy of z minus the
    best of v's; `score`, the decoupling score; `margin_error` and `score_error`, their
    standard errors; `classifier` (its `name` and `accuracy`), which judged the score;
    `sensitivity` (see `sensitivity`)."""

    content: dict | None


def _run(subject: Subject) -> Content:
    subject.needs_labels()
    model, config = subject.model, subject.config
    if model.encoder is None:
        raise NotMeasuredError(NO_Z)
    decoupled = subject.once(decoupling_of)
    subject.say("probes of z, and of v by level")
    found = content_probes(
        model,
        subject.train,
        subject.compared,
        config.probe_seeds,
        config.probe_images,
        config.batch_size,
    )
    of_z = found["z"]["mean"]
    of_v = max(
        found[name]["mean"]
        for name in (f"v_{width}" for width in COMPONENTS)
        if name in found
    )
    tested = random_subset(subject.compared, config.probe_images, seed=0)
    moved = sensitivity(
        lambda images: model.posterior(images, config.batch_size)[0].numpy(),
        tested,
        config.batch_size,
        config.seed,
    )
    switched = decoupled["classifier"]
    of_a, of_b, score = (switched[name] for name in ("of_a", "of_b", "score"))
    return {
        "content": {
            "probes": found,
            "margin": of_z - of_v,
            # As if z and v were right about images of their own.
            "margin_error": math.sqrt(
                (of_z * (1 - of_z) + of_v * (1 - of_v)) / tested.num_images
            ),
            "score": score,
            "score_error": math.sqrt(
                max(of_a + of_b - score**2, 0.0) / decoupled["num_pairs"]
            ),
            "classifier": {name: switched[name] for name in ("name", "accuracy")},
            "sensitivity": moved,
        }
    }


def _sign(value: float, error: float) -> int:
    """1 or -1 where a figure differs from 0 by two standard errors or more, else 0."""
    return 0 if abs(value) < 2 * error else int(math.copysign(1, value))


def _answer(found: dict) -> str:
    told = _sign(found["margin"], found["margin_error"])
    decided = _sign(found["score"], found["score_error"])
    telling = {
        1: "z tells the class better than v",
        0: "z and v tell the class about equally well",
        -1: "v tells the class better than z",
    }
    deciding = {
        1: "z decides it in a switch",
        0: "neither decides it in a switch",
        -1: "v decides it in a switch",
    }
    answer = {2: "yes", 1: "in part"}.get((told > 0) + (decided > 0), "no")
    return f"{answer}: {telling[told]}; {deciding[decided]}"


def _title(name: str) -> str:
    """A view of `content_probes` in words."""
    if name == "z":
        return "z"
    if name.startswith("v_level_"):
        return f"the part of v that left at level {name.removeprefix('v_level_')}"
    return f"{name.removeprefix('v_')} components of v"


def _sections(result: dict) -> list[Section]:
    found, title = result["content"], "Is z about the content?"
    if found is None:
        return [Section(title, [], reason(result, "content"))]
    margin, error = 100 * found["margin"], 100 * found["margin_error"]
    judge = found["classifier"]
    rows = [
        ("answer", _answer(found)),
        ("accuracy on z minus the best on v, points", f"{margin:+.1f} ± {error:.1f}"),
        (
            f"decoupling score, by {judge['name']} ({judge['accuracy']:.1%} right)",
            f"{found['score']:+.3f} ± {found['score_error']:.3f}",
        ),
    ]
    rows += [
        (
            f"logistic regression on {_title(name)}",
            f"{row['mean']:.1%} ± {row['stddev']:.1%}",
        )
        for name, row in found["probes"].items()
    ]
    rows += [
        (
            f"squared distance that a {name} moves z, of that to another image",
            f"{ratio:.1%}",
        )
        for name, ratio in found["sensitivity"].items()
    ]
    return [Section(title, rows)]


MEASURE = Measure(
    "content",
    Content,
    _run,
    _sections,
    check=lambda subject: subject.once(named_classifier),
)
