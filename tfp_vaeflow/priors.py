"""Priors p(z) of the global code."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.bijectors import GlowStep, Sequential, StepConfig
from tfp_vaeflow.config import PriorConfig
from tfp_vaeflow.noise import Initializer

tfd = tfp.distributions


def _standard_normal(dim: int, dtype: tf.DType) -> tfd.Independent:
    return tfd.Independent(tfd.Normal(tf.zeros([dim], dtype), tf.ones([], dtype)), 1)


class NormalPrior(tf.Module):
    """`p(z) = N(0, I)`; the KL is analytic.

    Args:
      dim: length of z.
      init: gives the dtype.
    """

    def __init__(self, dim: int, init: Initializer):
        super().__init__(name="prior")
        self.distribution = _standard_normal(dim, init.dtype)

    def kl(self, posterior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
        """`KL(q(z | x) || p(z))` in nats, `[B]`; does not use the sample z."""
        return tfd.kl_divergence(posterior, self.distribution)

    def from_noise(self, noise: tf.Tensor) -> tf.Tensor:
        """Standard normal noise `[B, D]` -> samples of z `[B, D]`."""
        return noise

    def initialize(self, z: tf.Tensor) -> None:
        """Nothing to initialise."""


class FlowPrior(tf.Module):
    """`p(z)`: a standard normal pushed through a small flow.

    The flow has Glow steps on vectors, unconditioned. The KL is
    `log q(z | x) - log p(z)` at a sample z, which can be negative for one example.
    Paper, section 3.3.

    Args:
      dim: length of z.
      config: steps and coupling networks of the flow.
      init: source of initial weights.
    """

    def __init__(self, dim: int, config: PriorConfig, init: Initializer):
        super().__init__(name="prior")
        steps = [
            GlowStep(dim, StepConfig(config.coupling()), init, name=f"prior_step{step}")
            for step in range(config.num_steps)
        ]
        self.flow = Sequential(steps, 1, "prior_flow", init.dtype)
        self.distribution = tfd.TransformedDistribution(
            _standard_normal(dim, init.dtype), self.flow
        )

    def kl(self, posterior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
        """`log q(z | x) - log p(z)` in nats, the mean over K: `[K, B, D]` -> `[B]`."""
        difference = posterior.log_prob(z) - self.distribution.log_prob(z)
        return tf.reduce_mean(difference, axis=0)

    def from_noise(self, noise: tf.Tensor) -> tf.Tensor:
        """Standard normal noise `[B, D]` -> samples of z `[B, D]`."""
        return self.flow.forward(noise)

    def initialize(self, z: tf.Tensor) -> None:
        """Data-dependent initialisation on sampled z `[B, D]`."""
        self.flow.initialize(z)


def build_prior(
    config: PriorConfig, dim: int, init: Initializer
) -> NormalPrior | FlowPrior:
    if config.kind == "normal":
        return NormalPrior(dim, init)
    return FlowPrior(dim, config, init)
