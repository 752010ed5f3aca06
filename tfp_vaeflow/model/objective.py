"""Losses, bits/dim, and the training objective."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow.config import ModelConfig, ObjectiveConfig


class Losses(NamedTuple):
    """The terms of the negative ELBO in nats, each `[B]`, a mean over the K samples.

    `-ELBO = generation + kl + dequantization`, for x on the scale [-1, 1).

    Attributes:
      generation: `-log p(x | z)`.
      kl: `KL(q(z | x) || p(z))`, or its estimate at the samples.
      dequantization: `log q(u | x)`, 0 for uniform noise.
    """

    generation: tf.Tensor
    kl: tf.Tensor
    dequantization: tf.Tensor

    @property
    def total(self) -> tf.Tensor:
        """The negative ELBO in nats on the scale of x, `[B]`."""
        return self.generation + self.kl + self.dequantization


def nats_per_bit_dim(config: ModelConfig) -> float:
    """`D ln 2` with D = H W C: one bit/dim of an image, in nats."""
    return config.num_dims * math.log(2.0)


def bits_per_dim(nats: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Negative log-likelihood in nats on the scale of x -> bits/dim of the levels.

    `(nats + D ln(n_bins / 2)) / (D ln 2)` with D = H W C; the second term converts the
    density of x in [-1, 1) to the probability of a level.
    """
    constant = config.num_dims * math.log(config.n_bins / 2)
    return (nats + constant) / nats_per_bit_dim(config)


def bits_per_dim_terms(losses: Losses, config: ModelConfig) -> dict[str, tf.Tensor]:
    """bits/dim by term; `total` is their sum.

    Args:
      losses: nats, of any shape.
      config: gives D and n_bins.

    Returns:
      `total`, `generation` (with the constant of `bits_per_dim`), `kl`,
      `dequantization`, each of the losses' shape.
    """
    terms = {
        "generation": bits_per_dim(losses.generation, config),
        "kl": losses.kl / nats_per_bit_dim(config),
        "dequantization": losses.dequantization / nats_per_bit_dim(config),
    }
    return {"total": sum(terms.values()), **terms}


def scores(
    of_samples: Losses, kl: tf.Tensor, num_samples: int, config: ModelConfig
) -> dict[str, tf.Tensor]:
    """bits/dim of images by term, how exact they are, and the log-likelihood.

        log w_k = log p(image, z_k) - log q(z_k | x) - log q(u_k | x)
        log p(image) is about log mean_k w_k; with one sample, it is the ELBO

    Args:
      of_samples: the terms at each of K samples, `[B, K]`; see `losses_of_samples`.
      kl: `[B]`, the term of the ELBO.
      num_samples: K.
      config: gives D and n_bins.

    Returns:
      Each `[B]`: `total`, `generation`, `kl`, `dequantization`, see
      `bits_per_dim_terms`; `log_prob` in nats, of the image at the model's levels; with
      two samples or more `standard_error`, of the estimate of `total` in bits/dim.
    """
    generation, _, dequantization = (tf.reduce_mean(term, 1) for term in of_samples)
    found = bits_per_dim_terms(Losses(generation, kl, dequantization), config)
    total = of_samples.total
    constant = config.num_dims * math.log(config.n_bins / 2)
    mean_weight = tf.reduce_logsumexp(-total, 1) - math.log(num_samples)
    found["log_prob"] = mean_weight - constant
    if num_samples > 1:
        deviation = tf.math.reduce_std(total, 1) / math.sqrt(num_samples - 1)
        found["standard_error"] = deviation / nats_per_bit_dim(config)
    return found


def training_objective(
    losses: Losses,
    config: ObjectiveConfig,
    step: tf.Tensor,
    prior_loss: tf.Tensor | None = None,
) -> tf.Tensor:
    """The training objective, `[B]`:
    `generation + beta(step) max(kl, free_nats) + dequantization`.

    With the defaults this is the negative ELBO. Where the KL of an example is below
    `free_nats`, it has no gradient, and `prior_loss` has one in its place.

    Args:
      losses: per example.
      config: the settings that keep z from being ignored.
      step: scalar, for the linear warm-up of beta.
      prior_loss: `[B]`, see `GlobalCode.prior_loss`; None for nothing.
    """
    weight = tf.constant(config.kl_weight, losses.kl.dtype)
    if config.kl_warmup_steps:
        weight *= tf.minimum(tf.cast(step, weight.dtype) / config.kl_warmup_steps, 1.0)
    kl = losses.kl
    if config.free_nats:
        free = config.free_nats
        if prior_loss is not None:
            free += prior_loss - tf.stop_gradient(prior_loss)
        kl = tf.where(kl > config.free_nats, kl, free)
    return losses.generation + weight * kl + losses.dequantization
