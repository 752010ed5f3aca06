"""How z is used: by dimension, on the whole, and against its prior."""

from typing import NamedTuple, TypedDict

import numpy as np
import tensorflow as tf
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.data import Split, evaluation_batches
from tfp_vaeflow.evaluation import plots
from tfp_vaeflow.evaluation.likelihood import z_gaps
from tfp_vaeflow.evaluation.measure import (
    Drawing,
    Measure,
    NotMeasuredError,
    Section,
    Subject,
    Watch,
    random_subset,
    reason,
    unwatched,
    with_error,
)
from tfp_vaeflow.model import VAEFlow

# Burda et al., arXiv 1509.00519, section 5.2.
ACTIVE_VARIANCE = 0.01
# The estimate of mutual information cannot exceed log N, and says little close to it.
_SATURATION_MARGIN = 1.0
_PRIOR_SAMPLES = 10_000
_CORRELATION_IMAGES = 2000
# Entries of the matrix of all pairs of images to compute at once.
_PAIRS_AT_A_TIME = 2**21
NO_Z = "This model infers no z from images."
_MAP_IMAGES = 1000
_LARGEST_PERPLEXITY = 30


class Posteriors(NamedTuple):
    """`q(z | x)` of every image: mean and standard deviation, float64 `[N, D]`."""

    mean: np.ndarray
    stddev: np.ndarray


def posteriors(
    model: VAEFlow, split: Split, batch_size: int, watch: Watch = unwatched
) -> Posteriors:
    """The posteriors of a split's images, from a model that infers z."""
    batches = evaluation_batches(split, batch_size)
    parts = [
        [part.numpy()[: int(tf.reduce_sum(batch.weights))] for part in parts]
        for batch in watch(batches, batch_size, split.num_images)
        for parts in [model.posterior(batch.images, batch_size)]
    ]
    return Posteriors(*(np.concatenate(p).astype(np.float64) for p in zip(*parts)))


def kl_by_dimension(found: Posteriors) -> np.ndarray:
    """Mean KL of `q(z_d | x)` against the Gaussian fitted to its aggregate, `[D]` nats.

        mean over x of  KL(q(z_d | x) || N(m_d, S_d^2)) = log S_d - mean of log s_d(x)

    where m_d and S_d^2 are mean and variance of the aggregate. A dimension that says
    nothing about x therefore has KL 0, whatever the prior is.
    """
    variance = found.mean.var(axis=0) + (found.stddev**2).mean(axis=0)
    return 0.5 * np.log(variance) - np.log(found.stddev).mean(axis=0)


def active_units(found: Posteriors) -> int:
    """Counts dimensions whose posterior mean has variance above 0.01 over the data.

    Reference: Burda et al., arXiv 1509.00519, section 5.2.
    """
    return int((found.mean.var(axis=0) > ACTIVE_VARIANCE).sum())


class MutualInformation(NamedTuple):
    """An estimate of `I(x; z)` in nats under q.

    Attributes:
      nats: the estimate.
      standard_error: over images; None for a single one.
      ceiling: `log N`, which the estimate cannot exceed.
      saturated: whether the estimate is within 1 nat of the ceiling: then it is only a
        lower bound.
    """

    nats: float
    standard_error: float | None
    ceiling: float
    saturated: bool


def mutual_information(found: Posteriors, seed: int) -> MutualInformation:
    """Estimates `I(x; z)` from one sample of z per image.

        mean over i of  log q(z_i | x_i) - log (1/N) sum_j q(z_i | x_j)

    Args:
      found: posteriors of N images.
      seed: of the samples.

    Reference: Hoffman & Johnson, *ELBO surgery*, NIPS 2016 workshop.
    """
    count, dim = found.mean.shape
    z = found.mean + found.stddev * _noise(count, dim, seed)
    # log q(z_i | x_j) up to the constant, which cancels, as one product of matrices.
    precision = found.stddev**-2
    terms = np.concatenate([-0.5 * precision, precision * found.mean], axis=1)
    offsets = -(0.5 * precision * found.mean**2 + np.log(found.stddev)).sum(axis=1)
    ratios = []
    rows_at_a_time = max(1, _PAIRS_AT_A_TIME // count)
    for first in range(0, count, rows_at_a_time):
        rows = z[first : first + rows_at_a_time]
        log_q = np.concatenate([rows**2, rows], axis=1) @ terms.T + offsets
        own = log_q[np.arange(len(rows)), first + np.arange(len(rows))]
        ratios.append(own - np.logaddexp.reduce(log_q, axis=1) + np.log(count))
    ratios = np.concatenate(ratios)
    nats, ceiling = float(ratios.mean()), float(np.log(count))
    saturated = nats > ceiling - _SATURATION_MARGIN
    error = None if count == 1 else float(ratios.std(ddof=1) / np.sqrt(count))
    return MutualInformation(nats, error, ceiling, saturated)


class TotalCorrelation(NamedTuple):
    """An estimate of how far the dimensions of z are from independent.

    Attributes:
      nats: the estimate.
      saturated: whether it is too large, because each z lies near one image alone.
    """

    nats: float
    saturated: bool


def total_correlation(found: Posteriors, seed: int) -> TotalCorrelation:
    """Estimates the total correlation of the dimensions of z.

        KL(q(z) || product of q(z_d)),  with q(z) = (1/N) sum_j q(z | x_j)
        is about the mean over i of  log q(z_i) - sum over d of log q(z_id)

    with one sample z_i of each `q(z | x_i)`.

    Args:
      found: posteriors of N images; of more than 2,000, it draws as many.
      seed: of the choice and of the samples.

    Reference: Chen et al., *Isolating Sources of Disentanglement in VAEs*,
    arXiv 1802.04942, section 3.
    """
    order = np.random.default_rng(seed).permutation(len(found.mean))
    mean, stddev = (values[order[:_CORRELATION_IMAGES]] for values in found)
    count, dim = mean.shape
    z = mean + stddev * _noise(count, dim, seed)
    joint, by_dimension = np.zeros((count, count)), np.zeros(count)
    for d in range(dim):
        log_q = -0.5 * ((z[:, d, np.newaxis] - mean[:, d]) / stddev[:, d]) ** 2
        log_q -= np.log(stddev[:, d])
        joint += log_q
        by_dimension += np.logaddexp.reduce(log_q, axis=1) - np.log(count)
    whole = np.logaddexp.reduce(joint, axis=1) - np.log(count)
    information = (np.diagonal(joint) - whole).mean()
    saturated = bool(information > np.log(count) - _SATURATION_MARGIN)
    return TotalCorrelation(float((whole - by_dimension).mean()), saturated)


def _noise(count: int, dim: int, seed: int) -> np.ndarray:
    """Standard normal noise for one sample of each posterior, float64 `[N, D]`."""
    drawn = noise.normal(noise.as_seed(seed), Stream.POSTERIOR, count, (dim,))
    return np.asarray(drawn, np.float64)


def usage(model: VAEFlow, found: Posteriors, seed: int) -> dict:
    """How a model uses z on a split.

    Args:
      model: a trained model with a posterior of z.
      found: the posteriors of the split.
      seed: of samples.

    Returns:
      `kl_by_dimension` (nats, `[D]`), `active_units`, `dimensions`,
      `mutual_information` (see `MutualInformation`), `total_correlation` (see
      `TotalCorrelation`), and `moments`: mean and standard deviation per dimension, for
      the aggregate posterior and for the prior (from 10,000 samples).
    """
    dim = found.mean.shape[1]
    drawn = noise.normal(noise.as_seed(seed), Stream.PRIOR, _PRIOR_SAMPLES, (dim,))
    prior = model.global_code.from_noise(drawn).numpy().astype(np.float64)
    spread = np.sqrt(found.mean.var(axis=0) + (found.stddev**2).mean(axis=0))
    return {
        "kl_by_dimension": kl_by_dimension(found).tolist(),
        "active_units": active_units(found),
        "dimensions": dim,
        "mutual_information": mutual_information(found, seed)._asdict(),
        "total_correlation": total_correlation(found, seed)._asdict(),
        "moments": {
            "aggregate_mean": found.mean.mean(axis=0).tolist(),
            "aggregate_stddev": spread.tolist(),
            "prior_mean": prior.mean(axis=0).tolist(),
            "prior_stddev": prior.std(axis=0).tolist(),
        },
    }


class Use(TypedDict):
    """`usage`: see `usage`. The others: how many nats worse the decoder explains an
    image with another image's z, z of the prior, or z = 0; see `likelihood.z_gaps`."""

    usage: dict | None
    shuffled_z_gap_nats: float | None
    prior_z_gap_nats: float | None
    zeros_z_gap_nats: float | None


def posteriors_of(subject: Subject) -> Posteriors:
    """The posteriors of the measured images.

    Raises:
      NotMeasuredError: if the model infers no z.
    """
    if subject.model.encoder is None:
        raise NotMeasuredError(NO_Z)
    batch_size = subject.config.batch_size
    return posteriors(subject.model, subject.split, batch_size, subject.watch)


def _run(subject: Subject) -> Use:
    found, config = subject.once(posteriors_of), subject.config
    subject.say("the use of z")
    gaps = z_gaps(
        subject.model, subject.split, config.batch_size, config.seed, subject.watch
    )
    return {
        "usage": usage(subject.model, found, config.seed),
        **{f"{name}_z_gap_nats": gap for name, gap in gaps.items()},
    }


def _correlation(usage: dict) -> list[tuple[str, str]]:
    """The row of the total correlation, which earlier versions did not measure."""
    if "total_correlation" not in usage:
        return []
    found = usage["total_correlation"]
    more = " (saturated, too large)" if found["saturated"] else ""
    name = "total correlation of the dimensions of z, nats"
    return [(name, f"{found['nats']:.2f}{more}")]


def _sections(result: dict) -> list[Section]:
    usage = result["usage"]
    if usage is None:
        return [Section("Use of z", [], reason(result, "usage", NO_Z))]
    found = usage["mutual_information"]
    information = with_error(found["nats"], found["standard_error"], 2)
    limit = f"at most log N = {found['ceiling']:.2f}"
    if found["saturated"]:
        limit += "; saturated, a lower bound only"
    active = f"{usage['active_units']} of {usage['dimensions']}"
    moments = usage["moments"]
    shift = max(
        abs(a - p) for a, p in zip(moments["aggregate_mean"], moments["prior_mean"])
    )
    ratios = [
        a / p for a, p in zip(moments["aggregate_stddev"], moments["prior_stddev"])
    ]
    rows = [
        ("mutual information of x and z, nats", f"{information} ({limit})"),
        ("active units", active),
        *_correlation(usage),
        (
            "KL to the aggregate's Gaussian, nats",
            f"{sum(usage['kl_by_dimension']):.2f}",
        ),
        ("largest shift of the aggregate's mean from the prior's", f"{shift:.3f}"),
        (
            "its standard deviation over the prior's",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
        ),
    ]
    for name, title in (
        ("shuffled", "-log p(x|z) with another's z, nats more"),
        ("prior", "  with z of the prior"),
        ("zeros", "  with z = 0"),
    ):
        rows.append((title, f"{result[f'{name}_z_gap_nats']:.2f}"))
    return [Section("Use of z", rows)]


def _figures(drawing: Drawing) -> dict[str, str]:
    captions, result = {}, drawing.result
    if result["usage"] is not None:
        heights = sorted(result["usage"]["kl_by_dimension"], reverse=True)
        path = drawing.path("z_dimensions.png")
        plots.bars(path, heights, "dimension of z", "KL, nats")
        captions["z_dimensions.png"] = (
            "KL of the posterior to the Gaussian of its aggregate, by dimension of z, "
            "largest first"
        )
    if drawing.shows_z:
        _draw_map(drawing)
        captions["z_map.png"] = "z of the images (t-SNE of the posterior means)"
        if drawing.split.labels is not None:
            captions["z_map.png"] += ", coloured by label"
    return captions


def _draw_map(drawing: Drawing) -> None:
    shown = random_subset(drawing.split, _MAP_IMAGES, seed=0)
    z = posteriors(drawing.model, shown, drawing.batch_size).mean
    perplexity = min(_LARGEST_PERPLEXITY, (len(z) - 1) / 3)
    init = "pca" if z.shape[1] > 1 else "random"
    # TSNE's threads busy-wait for one another, which takes minutes on a busy machine.
    with threadpool_limits(1):
        tsne = TSNE(perplexity=perplexity, init=init, random_state=0)
        points = tsne.fit_transform(z)
    plots.scatter(drawing.path("z_map.png"), points, shown.labels, shown.name_of)


MEASURE = Measure("usage", Use, _run, _sections, _figures)
