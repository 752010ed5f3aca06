"""How well a model explains images, and how much its decoder uses z."""

import math
from typing import NamedTuple, TypedDict

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.data import Batch, Split, evaluation_batches
from tfp_vaeflow.evaluation import plots
from tfp_vaeflow.evaluation.measure import (
    Drawing,
    Measure,
    Section,
    Subject,
    Watch,
    reason,
    unwatched,
    with_error,
)
from tfp_vaeflow.model import VAEFlow, quantization
from tfp_vaeflow.model.objective import (
    Losses,
    bits_per_dim,
    bits_per_dim_terms,
    nats_per_bit_dim,
)

# The replacements of z that show how much the decoder uses it.
OTHER_CODES = ("shuffled", "prior", "zeros")


def labelled_batches(model: VAEFlow, split: Split, batch_size: int) -> tf.data.Dataset:
    """All images of a split in order, with labels if the model needs them."""
    return evaluation_batches(split, batch_size, model.config.is_class_conditional)


def labels_for(model: VAEFlow, batch: Batch, number: int) -> tf.Tensor | None:
    """The argument `labels=` for the first `number` images of a batch."""
    return batch.labels[:number] if model.config.is_class_conditional else None


class Bounds(NamedTuple):
    """Lower bounds on a split's log-likelihood, from the same K samples per image.

    Attributes:
      losses: the mean terms of the negative ELBO, in nats.
      importance_weighted: the negative importance-weighted bound in nats, a mean over
        images; never above `losses.total`.
      standard_error: of the mean negative ELBO over images, in nats.
      importance_weighted_standard_error: likewise, of `importance_weighted`.
      elbo_by_image, importance_weighted_by_image: the bounds of each image, `[N]`.
    """

    losses: Losses
    importance_weighted: float
    standard_error: float
    importance_weighted_standard_error: float
    elbo_by_image: np.ndarray
    importance_weighted_by_image: np.ndarray


def bounds(
    model: VAEFlow,
    split: Split,
    num_samples: int,
    batch_size: int,
    seed: int,
    watch: Watch = unwatched,
) -> Bounds:
    """The mean K-sample ELBO over a split, and the importance-weighted bound.

        log w_k = log p(x, z_k) - log q(z_k | x) - log q(u_k | x)
        ELBO = mean_k log w_k,     IW = log mean_k w_k

    Args:
      model: a trained model.
      split: the images.
      num_samples: K.
      batch_size: samples per batch, over all its images.
      seed: of the noise.
      watch: shows how far it is.

    Returns:
      Means and log-mean-exps, accumulated in float64.

    Reference: paper, section 4 (ELBO); Burda et al., arXiv 1509.00519 (IW).
    """
    seed = noise.as_seed(seed)

    @model.traced
    def run(images, first, labels):
        draws = model.draw_loss_noise(seed, tf.shape(images)[0], num_samples, first)
        return model.losses_of_samples(images, draws, labels)

    parts = []
    size = max(1, batch_size // num_samples)
    batches = labelled_batches(model, split, size)
    for batch in watch(batches, size, split.num_images):
        number = int(tf.reduce_sum(batch.weights))
        losses = run(batch.images, batch.positions[0], batch.labels)
        parts.append(np.stack(losses, 0).astype(np.float64)[:, :number])
    terms = np.concatenate(parts, axis=1)  # [term, image, sample]
    log_weights = -terms.sum(axis=0)
    elbo = log_weights.mean(axis=1)
    weighted = np.logaddexp.reduce(log_weights, axis=1) - np.log(num_samples)
    return Bounds(
        losses=Losses(*terms.mean(axis=(1, 2))),
        importance_weighted=float(-weighted.mean()),
        standard_error=_standard_error(elbo),
        importance_weighted_standard_error=_standard_error(weighted),
        elbo_by_image=elbo,
        importance_weighted_by_image=weighted,
    )


def _standard_error(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def bits_per_dim_report(model: VAEFlow, losses: Losses) -> dict[str, float]:
    """bits/dim of mean losses: `total` and its terms, as floats."""
    terms = bits_per_dim_terms(losses, model.config)
    return {name: float(value) for name, value in terms.items()}


def image_bits_per_dim(model: VAEFlow, found: Bounds) -> np.ndarray:
    """bits/dim of the ELBO of each image, `[N]`."""
    return np.asarray(bits_per_dim(-found.elbo_by_image, model.config))


def z_gaps(
    model: VAEFlow,
    split: Split,
    batch_size: int,
    seed: int,
    watch: Watch = unwatched,
) -> dict[str, float]:
    """How much worse the decoder explains an image with another z, in nats.

        mean over x of  -log p(x | z')  -  -log p(x | z),   z ~ q(z | x)

    All gaps are 0 where the decoder ignores z.

    Args:
      model: a trained model with z.
      split: the images, two or more.
      batch_size: pairs of an image and a z per batch.
      seed: of z, z' and the dequantization noise, which is the same for all.
      watch: shows how far it is.

    Returns:
      The gap for each kind of z': `shuffled`, a sample of `q(z | x')` for the next
      image x' of the split (the first image for the last one); `prior`, a sample of
      p(z); `zeros`.
    """
    seed = noise.as_seed(seed)
    dim = model.config.latent_dim

    def sample_z(images, drawn):
        statistics = model.global_code.statistics(model.noise_free(images))
        return model.global_code.sample(statistics, drawn)

    @model.traced
    def log_probs(batch, others):
        count, first = tf.shape(batch.images)[0], batch.positions[0]
        draws = model.draw_loss_noise(seed, count, 1, first)
        own = sample_z(batch.images, draws.posterior)
        shuffled = noise.normal(seed, Stream.SHUFFLED, count, (1, dim), first)
        from_prior = noise.normal(seed, Stream.PRIOR, count, (dim,), first)
        codes = {
            "shuffled": sample_z(others, shuffled),
            "prior": model.global_code.from_noise(from_prior)[:, tf.newaxis],
            "zeros": tf.zeros_like(own),
        }
        z = tf.concat([own, *(codes[name] for name in OTHER_CODES)], axis=1)
        return model.log_prob_of_images(batch.images, z, draws)

    totals = np.zeros(len(OTHER_CODES))
    size = max(1, batch_size // (1 + len(OTHER_CODES)))
    batches = evaluation_batches(split, size)
    for batch in watch(batches, size, split.num_images):
        others = split.read((batch.positions + 1) % split.num_images)
        values = np.asarray(log_probs(batch, others), np.float64)
        totals += np.asarray(batch.weights) @ (values[:, :1] - values[:, 1:])
    return dict(zip(OTHER_CODES, (totals / split.num_images).tolist()))


def exactly_decoded(
    model: VAEFlow, split: Split, batch_size: int, watch: Watch = unwatched
) -> int:
    """How many images of a split `decode(*encode(x))` reproduces exactly."""
    count = 0
    batches = labelled_batches(model, split, batch_size)
    for batch in watch(batches, batch_size, split.num_images):
        number = int(tf.reduce_sum(batch.weights))
        real = batch.images[:number]
        expected = quantization.at_levels(real, model.config.n_bins)
        codes = model.encode(real, labels=labels_for(model, batch, number))
        same = model.decode(*codes) == expected
        count += int(tf.math.count_nonzero(tf.reduce_all(same, axis=[1, 2, 3])))
    return count


class Likelihood(TypedDict):
    """`bits_per_dim` is of the mean ELBO, `iw_bits_per_dim` of the importance-weighted
    bound with the same samples, `num_samples` per image. Errors are standard errors
    over images. `terms` are in bits/dim. `exactly_decoded` counts images."""

    num_samples: int
    bits_per_dim: float
    standard_error: float | None
    iw_bits_per_dim: float
    iw_standard_error: float | None
    kl_nats: float
    terms: dict[str, float]
    exactly_decoded: int


def bounds_of(subject: Subject) -> Bounds:
    """The bounds of the images that are measured."""
    config = subject.config
    subject.say(f"bits/dim of {subject.split.num_images} images")
    return bounds(
        subject.model,
        subject.split,
        config.num_samples,
        config.batch_size,
        config.seed,
        subject.watch,
    )


def _run(subject: Subject) -> Likelihood:
    model, found = subject.model, subject.once(bounds_of)
    terms = bits_per_dim_report(model, found.losses)
    scale = nats_per_bit_dim(model.config)

    def error(nats):
        return None if math.isnan(nats) else nats / scale

    return {
        "num_samples": subject.config.num_samples,
        "bits_per_dim": terms.pop("total"),
        "standard_error": error(found.standard_error),
        "iw_bits_per_dim": bits_per_dim(found.importance_weighted, model.config),
        "iw_standard_error": error(found.importance_weighted_standard_error),
        "kl_nats": float(found.losses.kl),
        "terms": terms,
        "exactly_decoded": exactly_decoded(
            model, subject.split, subject.config.batch_size, subject.watch
        ),
    }


def _sections(result: dict) -> list[Section]:
    head = f"{result['split']} split: {result['num_images']} images"
    if result["bits_per_dim"] is None:
        return [Section(head, [], reason(result, "bound"))]
    rows = [
        ("bits/dim", with_error(result["bits_per_dim"], result["standard_error"])),
        *((f"  {name}", f"{value:.4f}") for name, value in result["terms"].items()),
        (
            "bits/dim, importance-weighted",
            with_error(result["iw_bits_per_dim"], result["iw_standard_error"]),
        ),
        ("KL, nats", f"{result['kl_nats']:.2f}"),
        ("decoded exactly", f"{result['exactly_decoded']} of {result['num_images']}"),
        ("parameters", f"{result['parameters']:,}"),
    ]
    return [Section(f"{head}, {result['num_samples']} samples of (z, u) each", rows)]


def _figures(drawing: Drawing) -> dict[str, str]:
    """The learning curves of the run."""
    records = drawing.records
    if not any("bits_per_dim/total" in record for record in records):
        return {}
    names = [f"bits_per_dim/{term}" for term in ("total", "generation")]
    plots.learning_curves(drawing.path("terms.png"), records, names, "bits/dim")
    small = [f"nats/{term}" for term in Losses._fields[1:]]
    plots.learning_curves(drawing.path("kl.png"), records, small, "nats")
    return {
        "terms.png": "Bits/dim of the ELBO and its generation term by epoch",
        "kl.png": "KL and dequantization terms by epoch",
    }


MEASURE = Measure("bound", Likelihood, _run, _sections, _figures)
