"""Models whose measures have closed forms, and images that are drawn from them."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vaeflow as vf
from testing import tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow.bijectors import FlowBijector
from tfp_vaeflow.data.splits import Split, Splits, in_memory
from tfp_vaeflow.model.global_codes import InferredCode
from tfp_vaeflow.networks.encoders import GaussianEncoder

SHAPE = (2, 2, 3)
DIM = 12
SIGMA = 0.1
# What each dimension of z does to x; the last does nothing.
LENGTHS = np.array([0.3, 0.15, 0.0])


class LinearEncoder(GaussianEncoder):
    """`q(z | x) = N(W x, diag(variance))`."""

    def __init__(self, weights: np.ndarray, variance: np.ndarray):
        tf.Module.__init__(self, name="encoder")
        self._weights = tf.constant(weights, tf.float32)
        self._log_variance = tf.constant(np.log(variance), tf.float32)

    def statistics(self, x, training=False):
        mean = tf.reshape(x, [-1, DIM]) @ self._weights
        log_variance = tf.broadcast_to(self._log_variance, tf.shape(mean))
        return tf.concat([mean, log_variance], axis=1)


class LinearFlow(FlowBijector):
    """`x = A z + sigma v`."""

    def __init__(self, weights: np.ndarray):
        super().__init__(3, "linear", tf.float32)
        self._weights = tf.constant(weights, tf.float32)

    def _mean(self, z):
        return tf.reshape(z @ self._weights, [-1, *SHAPE])

    def forward_and_log_det_map(self, v, conditioning=None):
        x = self._mean(conditioning) + SIGMA * v
        return x, tf.constant(SHAPE[-1] * np.log(SIGMA), tf.float32)

    def inverse_and_log_det_map(self, x, conditioning=None):
        v = (x - self._mean(conditioning)) / SIGMA
        return v, tf.constant(-SHAPE[-1] * np.log(SIGMA), tf.float32)


def model_with(encoder: GaussianEncoder, latent_dim: int) -> vf.VAEFlow:
    """A model of fresh weights, with another encoder and a standard normal prior."""
    model = vf.build_model(
        tiny_model_config(
            image_shape=SHAPE,
            latent_dim=latent_dim,
            flow=cfg.FlowConfig([1], [4]),
            prior=cfg.PriorConfig("normal"),
        )
    )
    model.global_code = InferredCode(encoder, model.prior)
    return model


class LinearGaussian:
    """z ~ N(0, I), x = A z + sigma v; the columns of A are orthogonal to each other.

    The posterior is exact but for its variance, which is `inflation` times too large.
    So with s^2 = 1 / (1 + |A_d|^2 / sigma^2), the exact posterior's variance:

        E log p(x) = -1/2 log det(2 pi e (A A' + sigma^2 I))
        ELBO = E log p(x) - sum of (inflation - 1 - log inflation) / 2
        E KL = sum of (inflation s^2 + (1 - s^2) - 1 - log(inflation s^2)) / 2
        I(x; z) = sum of log(1 + (1 - s^2) / (inflation s^2)) / 2
    """

    def __init__(self, inflation: float):
        rng = np.random.default_rng(0)
        # Orthogonal to the vector of ones, so that a bin's half width moves no z.
        start = np.concatenate([np.ones((DIM, 1)), rng.normal(size=(DIM, 3))], axis=1)
        self._rows = np.linalg.qr(start)[0][:, 1:].T * LENGTHS[:, np.newaxis]
        variance = 1 / (1 + LENGTHS**2 / SIGMA**2)
        self.model = model_with(
            LinearEncoder(
                (self._rows * variance[:, None] / SIGMA**2).T, inflation * variance
            ),
            len(LENGTHS),
        )
        self.model.flow = LinearFlow(self._rows)
        base = tfp.distributions.Normal(tf.zeros(SHAPE), 1.0)
        self.model.decoder = tfp.distributions.TransformedDistribution(
            tfp.distributions.Independent(base, 3), self.model.flow
        )
        covariance = self._rows.T @ self._rows + SIGMA**2 * np.eye(DIM)
        self.log_prob = -0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
        self.excess = len(LENGTHS) * 0.5 * (inflation - 1 - np.log(inflation))
        used = inflation * variance
        self.kl = 0.5 * (used - variance - np.log(used)).sum()
        self.information_by_dimension = 0.5 * np.log1p((1 - variance) / used)
        # What the weighted bound gains as u moves x within a bin: half the variance of
        # log p(x) by u, and of how far the posterior lies from that of the moved x.
        slopes = np.trace(np.linalg.inv(covariance))
        slopes += ((self._rows**2).sum(axis=1) * variance / SIGMA**4).sum()
        self.gain_of_u = 0.5 * slopes * (2 / 256) ** 2 / 12
        # E[(p(z | x) / q(z | x))^2], which the bias of the weighted bound goes by.
        self.second_moment = (inflation / np.sqrt(2 * inflation - 1)) ** len(LENGTHS)

    def draw(self, count: int, seed: int) -> Split:
        """Images from the model; their label is whether the first z is positive."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(count, len(LENGTHS)))
        x = z @ self._rows + SIGMA * rng.normal(size=(count, DIM))
        pixels = np.clip(np.floor((x + 1) * 128), 0, 255).astype(np.uint8)
        return in_memory(pixels.reshape(-1, *SHAPE), (z[:, 0] > 0).astype(np.int64))

    def splits(self, count: int) -> Splits:
        return Splits(*(self.draw(count, seed) for seed in (1, 2, 3)))


class LabelEncoder(GaussianEncoder):
    """z is the label, one-hot, which the first pixel holds; or nothing at all."""

    def __init__(self, num_classes: int, ignored: bool = False):
        tf.Module.__init__(self, name="encoder")
        self._classes = num_classes
        self._ignored = ignored

    def statistics(self, x, training=False):
        first = tf.cast(tf.round((x[:, 0, 0, 0] + 1) * 128 / 20), tf.int32)
        mean = tf.one_hot(first, self._classes)
        mean = tf.zeros_like(mean) if self._ignored else mean
        return tf.concat([mean, tf.zeros_like(mean)], axis=1)


def unlabelled(splits: Splits) -> Splits:
    return Splits(*(Split(s.num_images, s.read, None) for s in splits))


def labelled_splits(count: int, num_classes: int) -> Splits:
    """Noise whose first pixel is 20 times the label."""

    def draw(seed):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
        labels = rng.integers(0, num_classes, count)
        images[:, 0, 0, 0] = 20 * labels
        return in_memory(images, labels)

    return Splits(*map(draw, (1, 2, 3)))
