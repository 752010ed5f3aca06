"""How z is used: by dimension, on the whole, and against its prior."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vaeflow import noise
from tfp_vaeflow.data import Split, evaluation_batches
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.noise import Stream

# Burda et al., arXiv 1509.00519, section 5.2.
ACTIVE_VARIANCE = 0.01
# The estimate of mutual information cannot exceed log N, and says little close to it.
_SATURATION_MARGIN = 1.0
_PRIOR_SAMPLES = 10_000
# Of the matrix of all pairs of images.
_PAIRS_AT_A_TIME = 2**21


class Posteriors(NamedTuple):
    """`q(z | x)` of every image: mean and standard deviation, float64 `[N, D]`."""

    mean: np.ndarray
    stddev: np.ndarray


def posteriors(model: VAEFlow, split: Split, batch_size: int) -> Posteriors:
    """The posteriors of a split's images, by a model that has them."""

    parts = [
        [part.numpy()[: int(tf.reduce_sum(batch.weights))] for part in parts]
        for batch in evaluation_batches(split, batch_size)
        for parts in [model.posterior(batch.images, batch_size)]
    ]
    return Posteriors(*(np.concatenate(p).astype(np.float64) for p in zip(*parts)))


def kl_by_dimension(found: Posteriors) -> np.ndarray:
    """Mean KL of `q(z_d | x)` against the Gaussian fitted to its aggregate, `[D]` nats.

        mean over x of  KL(q(z_d | x) || N(m_d, S_d^2)) = log S_d - mean of log s_d(x)

    where m_d and S_d^2 are mean and variance of the aggregate, so that a dimension that
    says nothing of x has 0 whatever the prior is.
    """
    variance = found.mean.var(axis=0) + (found.stddev**2).mean(axis=0)
    return 0.5 * np.log(variance) - np.log(found.stddev).mean(axis=0)


def active_units(found: Posteriors) -> int:
    """Dimensions whose posterior mean has a variance over the data above 0.01.

    Reference: Burda et al., arXiv 1509.00519, section 5.2.
    """
    return int((found.mean.var(axis=0) > ACTIVE_VARIANCE).sum())


class MutualInformation(NamedTuple):
    """An estimate of `I(x; z)` in nats under q.

    Attributes:
      nats: the estimate.
      standard_error: over images; None for a single one.
      ceiling: `log N`, which it cannot exceed.
      saturated: whether it is within 1 nat of that: then it is only a lower bound.
    """

    nats: float
    standard_error: float | None
    ceiling: float
    saturated: bool


def mutual_information(found: Posteriors, seed: int) -> MutualInformation:
    """Estimates `I(x; z)` from one sample of z an image.

        mean over i of  log q(z_i | x_i) - log (1/N) sum_j q(z_i | x_j)

    Args:
      found: posteriors of N images.
      seed: of the samples.

    Reference: Hoffman & Johnson, *ELBO surgery*, NIPS 2016 workshop.
    """
    count, dim = found.mean.shape
    drawn = noise.normal(noise.as_seed(seed), Stream.POSTERIOR, count, (dim,))
    z = found.mean + found.stddev * np.asarray(drawn, np.float64)
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


def usage(model: VAEFlow, found: Posteriors, seed: int) -> dict:
    """How a model uses z on a split.

    Args:
      model: a trained model with a posterior of z.
      found: the posteriors of the split.
      seed: of samples.

    Returns:
      `kl_by_dimension` (nats, `[D]`), `active_units`, `dimensions`,
      `mutual_information` (see `MutualInformation`), and `moments`: mean and standard
      deviation by dimension of the aggregate posterior and of the prior (of 10,000
      samples).
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
        "moments": {
            "aggregate_mean": found.mean.mean(axis=0).tolist(),
            "aggregate_stddev": spread.tolist(),
            "prior_mean": prior.mean(axis=0).tolist(),
            "prior_stddev": prior.std(axis=0).tolist(),
        },
    }
