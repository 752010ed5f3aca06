"""Probabilistic PCA of coarse pictures: what the first entries of z stand for."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config.model import check_enough_images
from tfp_vaeflow.networks.initializer import Initializer

# The least noise, as a part of the largest variance or of 1.
_LEAST_NOISE = 1e-6


class PrincipalComponents(tf.Module):
    """The principal components of coarse pictures, which no training changes.

    A coarse picture c(x) has the means over blocks of pixels. Let its covariance be
    `U diag(variances) U'`, by falling variances. Probabilistic PCA with P components,

        c = mean + U_P diag(sqrt(variances - noise)) z + sqrt(noise) eps,

    is fitted best by the noise that is the mean of the other variances. Then

        q(z_p | c) = N(sqrt(variances - noise) / variances * U_p' (c - mean),
                       noise / variances)

    Reference: Tipping & Bishop, *Probabilistic Principal Component Analysis*, Journal
    of the Royal Statistical Society B 61 (1999).

    Args:
      image_shape: `(H, W, C)`.
      block: side of a block in pixels; it divides H and W.
      count: P, less than the numbers in a coarse picture.
      init: gives the dtype; an initializer, or a seed.
    """

    basis = compute.Weight(trainable=False)
    mean = compute.Weight(trainable=False)
    variances = compute.Weight(trainable=False)
    noise = compute.Weight(trainable=False)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        block: int,
        count: int,
        init: Initializer | int,
    ):
        init = Initializer.of(init)
        super().__init__(name="principal_components")
        height, width, channels = image_shape
        self.block, self.count = block, count
        self.shape = height // block, width // block, channels
        size = int(np.prod(self.shape))
        self.basis = init.zeros((size, count))
        self.mean = init.zeros((size,))
        self.variances = init.zeros((count,)) + 1
        self.noise = init.zeros(()) + 1

    def coarse(self, x: tf.Tensor) -> tf.Tensor:
        """The coarse pictures of images `[B, H, W, C]`, as rows `[B, n]`."""
        height, width, channels = self.shape
        block = self.block
        blocks = tf.reshape(x, [-1, height, block, width, block, channels])
        return tf.reshape(tf.reduce_mean(blocks, [2, 4]), [-1, self.basis.shape[0]])

    def initialize(self, batches: list[tf.Tensor]) -> None:
        """Fits the components to all images of some batches `[B, H, W, C]`.

        Raises:
          UserError: if there are less than two images per component.
        """
        rows = np.concatenate([np.float64(self.coarse(batch)) for batch in batches])
        check_enough_images(len(rows), self.count)
        found, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
        found, vectors = found[::-1], vectors[:, ::-1]
        # The sign of a component must not depend on the library.
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(len(largest))])
        noise = max(found[self.count :].mean(), _LEAST_NOISE * max(found[0], 1.0))
        self.basis.assign(vectors[:, : self.count])
        self.mean.assign(rows.mean(axis=0))
        self.noise.assign(noise)
        self.variances.assign(np.maximum(found[: self.count], noise))

    def deviations(self) -> tf.Tensor:
        """`sqrt(variances - noise)`, `[P]`: the effect of z on each component."""
        return tf.sqrt(self.variances - self.noise)


class Projection(tf.Module):
    """What principal components tell of z.

        mean of z_p = gain_p * U_p' (c(x) - mean)

    Args:
      components: fitted when this is initialised.
      init: gives the dtype.
    """

    gain = compute.Weight()

    def __init__(self, components: PrincipalComponents, init: Initializer):
        super().__init__(name="projection")
        self.components = components
        self.gain = init.zeros((components.count,))

    def __call__(self, x: tf.Tensor, dim: int) -> tf.Tensor:
        """`[B, H, W, C]` -> `[B, dim]`, 0 beyond the first P entries."""
        known = self.components
        found = tf.matmul(known.coarse(x) - known.mean, known.basis) * self.gain
        return tf.pad(found, [[0, 0], [0, dim - known.count]])

    def initialize(self, batches: list[tf.Tensor]) -> tf.Tensor:
        """Fits the components, and starts at the posterior of probabilistic PCA.

        Args:
          batches: of images `[B, H, W, C]`.

        Returns:
          The log-variance of that posterior, `[P]`.
        """
        known = self.components
        known.initialize(batches)
        self.gain.assign(known.deviations() / known.variances)
        return tf.math.log(known.noise / known.variances)
