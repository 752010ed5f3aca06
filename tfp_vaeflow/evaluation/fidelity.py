"""FID and KID: how far samples are from real images, in the features of a network."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation import plots
from tfp_vaeflow.evaluation.classifier import (
    ImageClassifier,
    classifier_of,
    named_classifier,
)
from tfp_vaeflow.evaluation.keras_files import load_keras_file, reason_of
from tfp_vaeflow.evaluation.measure import (
    Drawing,
    Measure,
    NotMeasuredError,
    Section,
    Subject,
    check_count,
    random_subset,
    reason,
)
from tfp_vaeflow.model import VAEFlow

# With fewer images, FID depends more on their number than on the model.
FID_IMAGES = 5000
LEAST_IMAGES = 4  # KID takes subsets of half of them, and pairs within these
_ANY_SIZE = 299  # the size of images for published FID
_SUBSETS = 50
_LEAST_STDDEV = 1e-3  # keeps constant features from a division by 0
_SUBSET_SIZE = 1000
_WITHOUT_LABELS = (
    "To compare features without labels, name a network: "
    "EvaluationConfig.feature_network."
)


class FeatureNetwork(NamedTuple):
    """A network whose features are used to compare images.

    Attributes:
      name: of the network, as an evaluation shows it.
      features: a batch of uint8 images `[B, H, W, C]` -> `[B, F]`.
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray]

    def of(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """The features of all images of some batches, `[N, F]`."""
        return np.concatenate([self.features(images) for images in batches])


def _keras_features(network, pixel_range: tuple[float, float]):
    """A function that resizes uint8 images for a network and gives its features."""
    shape = network.inputs[0].shape
    if len(shape) != 4:
        raise UserError(
            f"the feature network takes inputs of shape {tuple(shape)}; expected "
            "images (batch, height, width, channels)"
        )
    height, width = (side or _ANY_SIZE for side in shape[1:3])
    channels = shape[3]
    low, high = pixel_range

    @tf.function(autograph=False)
    def run(images):
        x = tf.cast(images, tf.float32)
        if channels == 3 and x.shape[-1] == 1:
            x = tf.repeat(x, 3, axis=-1)
        if (height, width) != tuple(x.shape[1:3]):
            x = tf.image.resize(x, (height, width), antialias=True)
        y = network(low + x * (high - low) / 255.0)
        y = y[0] if isinstance(y, (list, tuple)) else y
        y = next(iter(y.values())) if isinstance(y, dict) else y
        return tf.reduce_mean(y, axis=[1, 2]) if len(y.shape) == 4 else y

    return lambda images: run(images).numpy()


def load_network(
    name: str, pixel_range: tuple[float, float], image_shape: tuple[int, int, int]
) -> FeatureNetwork:
    """Loads the network that the user names.

    Args:
      name: `inception`, for Keras' InceptionV3 with ImageNet weights (from Keras'
        cache, or fetched), pooled to 2,048 features; or the path of a Keras file or a
        SavedModel that takes images. Images are resized to the network's input size, or
        to 299x299 if it takes any size. An output with positions is averaged over them.
      pixel_range: the values that a network from a path takes for pixels 0 and 255.
      image_shape: `(H, W, C)` of the images that it will be given.

    Raises:
      UserError: if it cannot be read or fetched, or does not take such images.
    """
    if name == "inception":
        try:
            network = keras.applications.InceptionV3(include_top=False, pooling="avg")
        except Exception as error:  # Keras' download raises all kinds
            raise UserError(
                "InceptionV3's weights are not in Keras' cache and cannot be fetched "
                f"({error}); give EvaluationConfig.feature_network a file instead"
            ) from error
        # Published FID takes this network with other weights.
        return FeatureNetwork(
            "InceptionV3 with Keras' weights (not comparable with published FID)",
            _keras_features(network, (-1, 1)),
        )
    if not Path(name).exists():
        raise UserError(
            f"EvaluationConfig.feature_network is {name!r}; expected 'inception' or "
            "the path of a Keras file or a SavedModel"
        )
    network = load_keras_file(name, "feature network")
    try:  # on a black image, so that errors come before any measurement
        features = _keras_features(network, pixel_range)
        found = features(np.zeros((1, *image_shape), np.uint8))
        if found.ndim != 2 or not np.isfinite(found).all():
            raise ValueError(f"for a black image, it gives {found}")
    except UserError:
        raise
    except Exception as error:  # Keras raises all kinds here too
        raise UserError(
            f"the feature network {name} does not give one vector of features per "
            f"image, for images of shape {image_shape}: {reason_of(error)}"
        ) from error
    return FeatureNetwork(Path(name).name, features)


def own_network(
    classifier: ImageClassifier, train: Split, batch_size: int
) -> FeatureNetwork:
    """The features of a classifier of the same data, standardised.

    Args:
      classifier: of the data's labels.
      train: images whose features get mean 0 and variance 1.
      batch_size: images at a time.
    """
    name = f"{classifier.name} (not comparable with published FID)"
    known = FeatureNetwork(name, classifier.features).of(train.batches(batch_size))
    mean, stddev = known.mean(axis=0), known.std(axis=0) + _LEAST_STDDEV
    return FeatureNetwork(
        name, lambda images: (classifier.features(images) - mean) / stddev
    )


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Frechet distance of Gaussians fitted to two sets of features (FID).

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

    Args:
      one, other: `[N, F]`.

    Reference: Heusel et al., arXiv 1706.08500.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other))
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ c2 @ root)
    means = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    trace = np.trace(c1) + np.trace(c2) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    return float(means + trace)


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(x y / F + 1)^3` of all pairs."""
    product = x @ y.T / x.shape[1] + 1
    return product * product * product  # numpy's power is much slower


def kernel_distance(
    one: np.ndarray, other: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """The kernel distance of two sets of features (KID), unbiased.

    The squared maximum mean discrepancy under `k(x, y) = (x y / F + 1)^3`, over 50
    subsets of 1,000 rows of each set (half of the smaller set if it has fewer than
    2,000).

    Args:
      one, other: `[N, F]`, N at least `LEAST_IMAGES`.
      seed: of the subsets.

    Returns:
      Mean and standard deviation over subsets. The mean may be below 0.

    Reference: Binkowski et al., arXiv 1801.01401, section 3.
    """
    size = min(_SUBSET_SIZE, min(len(one), len(other)) // 2)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_SUBSETS):
        x = np.asarray(one[rng.permutation(len(one))[:size]], np.float64)
        y = np.asarray(other[rng.permutation(len(other))[:size]], np.float64)
        xx, yy, xy = (_cubic_kernel(p, q) for p, q in ((x, x), (y, y), (x, y)))
        within = sum(k.sum() - np.trace(k) for k in (xx, yy)) / (size * (size - 1))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values)), float(np.std(values))


def _distances(one, other, seed) -> dict[str, float]:
    kid, deviation = kernel_distance(one, other, seed)
    return {"kid": kid, "kid_stddev": deviation, "fid": frechet_distance(one, other)}


def _samples(
    model: VAEFlow, num_images: int, temperature: float, seed: int, batch_size: int
) -> Iterator[np.ndarray]:
    """`model.sample`, a batch at a time."""
    for first in range(0, num_images, batch_size):
        count = min(batch_size, num_images - first)
        yield model.sample(count, temperature, seed, batch_size, first=first).numpy()


def fidelity(
    model: VAEFlow,
    train: Split,
    split: Split,
    network: FeatureNetwork,
    temperatures: tuple[float, ...],
    num_images: int,
    batch_size: int,
    seed: int,
) -> dict:
    """FID and KID between samples and real images, by temperature.

    Args:
      model: a trained model.
      train: real images for the floor: the distance of another part of the data.
      split: the real images to compare with. Both need at least `LEAST_IMAGES`.
      network: gives the features.
      temperatures: of the samples, whose codes differ in that factor only.
      num_images: number of samples, and of real images at most (drawn at random).
      batch_size: images at a time.
      seed: of the samples and subsets.

    Returns:
      `network`, `num_samples`, `num_images` (real ones), `measure` (the one to look at:
      `kid` below 5,000 of either, else `fid`), `by_temperature` (a list of
      `temperature`, `kid`, `kid_stddev`, `fid`), `best_temperature` (by that measure)
      and `floor` (the distances of training images instead of samples).
    """
    chosen = random_subset(split, num_images, seed)
    real = network.of(chosen.batches(batch_size))
    others = random_subset(train, num_images, seed)
    floor = network.of(others.batches(batch_size))
    curve = []
    for temperature in temperatures:
        samples = _samples(model, num_images, temperature, seed, batch_size)
        found = _distances(network.of(samples), real, seed)
        curve.append({"temperature": temperature, **found})
    measure = "kid" if min(num_images, len(real)) < FID_IMAGES else "fid"
    return {
        "network": network.name,
        "num_samples": num_images,
        "num_images": len(real),
        "measure": measure,
        "by_temperature": curve,
        "best_temperature": min(curve, key=lambda row: row[measure])["temperature"],
        "floor": _distances(floor, real, seed),
    }


class Fidelity(TypedDict):
    """`fidelity`: see `fidelity`."""

    fidelity: dict | None


def named_network(subject: Subject) -> FeatureNetwork | None:
    """The network that the user names; None if they name none.

    Raises:
      UserError: if it cannot be used.
    """
    config = subject.config
    if config.feature_network is None:
        return None
    return load_network(
        config.feature_network,
        config.feature_pixel_range,
        subject.model.config.image_shape,
    )


def _network(subject: Subject) -> FeatureNetwork:
    config, network = subject.config, subject.once(named_network)
    if network is not None:
        return network
    try:
        classifier = subject.once(classifier_of)
    except NotMeasuredError as error:
        raise NotMeasuredError(f"{error} {_WITHOUT_LABELS}") from error
    known = random_subset(subject.train, config.probe_images, seed=0)
    return own_network(classifier, known, config.batch_size)


def _run(subject: Subject) -> Fidelity:
    config, split = subject.config, subject.compared
    check_count(min(subject.train.num_images, split.num_images), LEAST_IMAGES)
    network = _network(subject)
    subject.say(f"samples at {len(config.temperatures)} temperatures")
    found = fidelity(
        subject.model,
        subject.train,
        split,
        network,
        config.temperatures,
        config.generated_images,
        config.batch_size,
        config.seed,
    )
    return {"fidelity": found}


def _sections(result: dict) -> list[Section]:
    found = result["fidelity"]
    if found is None:
        title = "Distance of samples from real images"
        return [Section(title, [], reason(result, "fidelity"))]

    def shown(row):
        kid = f"KID {row['kid']:.4f} ± {row['kid_stddev']:.4f}"
        return f"{kid}, FID {row['fid']:.2f}" if found["measure"] == "fid" else kid

    rows = [
        (f"temperature {row['temperature']:g}", shown(row))
        for row in found["by_temperature"]
    ]
    rows.append(("as many training images", shown(found["floor"])))
    title = (
        f"Distance of {found['num_samples']} samples from {found['num_images']} real "
        "images"
    )
    return [Section(title, rows, f"Features: {found['network']}.")]


def _figures(drawing: Drawing) -> dict[str, str]:
    found = drawing.result["fidelity"]
    if found is None:
        return {}
    measure = found["measure"]
    points = [
        (
            row["temperature"],
            row[measure],
            row["kid_stddev"] if measure == "kid" else 0.0,
        )
        for row in found["by_temperature"]
    ]
    plots.curve_with_error(
        drawing.path("temperature.png"),
        points,
        found["floor"][measure],
        "training images",
        "temperature",
        measure.upper(),
    )
    return {"temperature.png": "Distance of samples from real images"}


MEASURE = Measure(
    "fidelity",
    Fidelity,
    _run,
    _sections,
    _figures,
    check=lambda subject: subject.once(named_network) or subject.once(named_classifier),
)
