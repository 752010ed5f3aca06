"""Priors p(z) of the global code."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.bijectors import GlowStep, Repeated, Sequential
from tfp_vaeflow.config import PriorConfig
from tfp_vaeflow.networks import ACTIVATIONS, Folding, Initializer, Linear

tfd = tfp.distributions


def _standard_normal(dim: int, dtype: tf.DType) -> tfd.Independent:
    return tfd.Independent(tfd.Normal(tf.zeros([dim], dtype), tf.ones([], dtype)), 1)


def log_ratio(
    posterior: tfd.Distribution, prior: tfd.Distribution, z: tf.Tensor
) -> tf.Tensor:
    """`log q(z | x) - log p(z)` in nats at samples.

    Args:
      posterior: batch `[B, 1]`, event `[D]`.
      prior: event `[D]`.
      z: `[B, K, D]`.

    Returns:
      `[B, K]`.
    """
    return posterior.log_prob(z) - prior.log_prob(z)


class NormalPrior(tf.Module):
    """`p(z) = N(0, I)`; the KL is analytic.

    Args:
      dim: length of z.
      init: gives the dtype.
    """

    def __init__(self, dim: int, init: Initializer):
        super().__init__(name="prior")
        self.dim = dim
        self.distribution = _standard_normal(dim, init.dtype)

    def kl(self, posterior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
        """`KL(q(z | x) || p(z))` in nats, `[B]`; does not use the samples z."""
        return tfd.kl_divergence(posterior, self.distribution)[:, 0]

    def from_noise(self, noise: tf.Tensor) -> tf.Tensor:
        """Standard normal noise `[B, D]` -> samples of z `[B, D]`."""
        return noise

    def initialize(self, z: tf.Tensor) -> None:
        """Nothing to initialise."""

    def folded(self, folding: Folding) -> "NormalPrior":
        """Nothing to fold."""
        return self


class FlowPrior(tf.Module):
    """`p(z)`: a standard normal pushed through a small flow.

    The flow has Glow steps on vectors, unconditioned. The KL is
    `log q(z | x) - log p(z)` at a sample z, which can be negative for one example.
    Paper, section 3.3.

    Args:
      dim: length of z.
      flow: on vectors `[B, D]`.
    """

    def __init__(self, dim: int, flow: Sequential):
        super().__init__(name="prior")
        self.dim = dim
        self.flow = flow
        self.distribution = tfd.TransformedDistribution(
            _standard_normal(dim, flow.dtype), flow
        )

    def kl(self, posterior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
        """`log q(z | x) - log p(z)` in nats, the mean over K: `[B, K, D]` -> `[B]`."""
        return tf.reduce_mean(log_ratio(posterior, self.distribution, z), axis=1)

    def from_noise(self, noise: tf.Tensor) -> tf.Tensor:
        """Standard normal noise `[B, D]` -> samples of z `[B, D]`."""
        return self.flow.forward(noise)

    def initialize(self, z: tf.Tensor) -> None:
        """Data-dependent initialisation on sampled z `[B, D]`."""
        self.flow.initialize(z)

    def folded(self, folding: Folding) -> "FlowPrior":
        """The same with less to compute, for a trained model."""
        return FlowPrior(self.dim, self.flow.folded(folding))


class CategoricalPrior(tf.Module):
    """The prior of a class-conditional model: z is a function of the label.

        z = dense(act(dense(act(dense(embedding(label))))))    D -> 4D -> 4D -> D
        KL = -log p(label)

    Paper, section 4.1 (class-conditional experiments).

    Attributes:
      log_probabilities: `log p(label)`, `[num_classes]`.

    Args:
      dim: D, the length of z.
      config: classes and activation.
      init: source of initial weights.
    """

    def __init__(self, dim: int, config: PriorConfig, init: Initializer):
        super().__init__(name="prior")
        count = config.num_classes
        self.num_classes = count
        probabilities = config.class_probabilities or (1 / count,) * count
        # Rounding of the given probabilities must not leave a gap at the end.
        self._cumulative = np.cumsum(probabilities) / np.sum(probabilities)
        self.log_probabilities = tf.constant(np.log(probabilities), init.dtype)
        self._act = ACTIVATIONS[config.activation]
        self.embedding = tf.Variable(init.uniform((count, dim), 0.1), name="embedding")
        widths = [dim, 4 * dim, 4 * dim, dim]
        self.layers = [
            Linear(shape, init, bias="uniform") for shape in zip(widths, widths[1:])
        ]

    def codes(self, labels: tf.Tensor) -> tf.Tensor:
        """Labels `[B]` -> z `[B, D]`."""
        # A product, not a gather, whose gradient would be a sparse one.
        one_hot = tf.one_hot(labels, self.num_classes, dtype=self.embedding.dtype)
        z = tf.matmul(one_hot, self.embedding)
        for layer in self.layers[:-1]:
            z = self._act(layer(z))
        return self.layers[-1](z)

    def kl(self, labels: tf.Tensor) -> tf.Tensor:
        """`-log p(label)` in nats, `[B]`."""
        return -tf.gather(self.log_probabilities, labels)

    def labels_from_noise(self, noise: tf.Tensor) -> tf.Tensor:
        """Uniform noise in [0, 1) -> as many labels drawn from p(label), int64."""
        edges = tf.constant(self._cumulative, noise.dtype)
        labels = tf.searchsorted(edges, noise, side="right", out_type=tf.int64)
        return tf.minimum(labels, self.num_classes - 1)


def build_prior(
    config: PriorConfig, dim: int, init: Initializer
) -> NormalPrior | FlowPrior | CategoricalPrior:
    """The prior of a z of length `dim`, of the kind that the settings name."""
    if config.kind == "normal":
        return NormalPrior(dim, init)
    if config.kind == "categorical":
        return CategoricalPrior(dim, config, init)

    def step(number):
        return GlowStep(dim, config.steps(), init, name=f"prior_step{number}")

    return FlowPrior(dim, Repeated(step, config.num_steps, 1, "prior_flow", init.dtype))
