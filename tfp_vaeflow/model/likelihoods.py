"""The likelihoods of images under a model: losses, bits/dim, maps."""

import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.arguments import check_at_least_one
from tfp_vaeflow.model.graphs import VAEFlowGraphs
from tfp_vaeflow.model.inputs import (
    DEFAULT_BATCH_SIZE,
    batched,
    with_labels,
)
from tfp_vaeflow.model.objective import Losses, bits_per_dim_terms


class VAEFlowLikelihoods(VAEFlowGraphs):
    """The methods of a `VAEFlow` that say how likely images are."""

    def losses(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> Losses:
        """The terms of the negative ELBO, per example.

        Args:
          images: uint8 `[B, H, W, C]`.
          num_samples: K samples of (z, u) per image.
          seed: of the noise; the noise of an image depends on its position.
          batch_size: images at a time.
          labels: of the images, `[B]`; for a class-conditional model.

        Returns:
          Nats, each term `[B]`.
        """
        given = images, num_samples, seed, batch_size, labels
        return Losses(*self._of_images(self._losses, *given))

    def bits_per_dim(self, losses: Losses) -> tf.Tensor:
        """bits/dim of each example, of the losses' shape; see `objective`."""
        return bits_per_dim_terms(losses, self.config)["total"]

    def score(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """How likely each image is.

        Args:
          images, num_samples, seed, batch_size, labels: see `losses`.

        Returns:
          Each `[B]`: bits/dim as `total` and by its terms `generation`, `kl`,
          `dequantization`; `log_prob`, the log-likelihood of the image at the model's
          levels in nats, importance-weighted over the samples; with two samples or more
          `standard_error`, of `total`.
        """
        given = images, num_samples, seed, batch_size, labels
        return self._of_images(self._scores, *given)

    def likelihood_map(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The share of each pixel in `log p(x | z)`: which parts are hard to predict.

        The sum of a map is minus the `generation` of `losses` with the same arguments.
        Each layer of the flow, and v under its normal distribution, has a share at each
        position; at a lower resolution, the pixels of a block divide its share equally.
        Smooth regions have high values whatever they show.

        Args:
          images, num_samples, seed, batch_size, labels: see `losses`.

        Returns:
          Nats, `[B, H, W]`; the mean over the samples.
        """
        given = images, num_samples, seed, batch_size, labels
        return self._of_images(self._maps, *given)[0]

    def dequantization_map(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The share of each pixel in `log q(u | x)`; 0 without a dequantizer.

        The sum of a map is the `dequantization` of `losses` with the same arguments.

        Args:
          images, num_samples, seed, batch_size, labels: see `losses`.

        Returns:
          Nats, `[B, H, W]`; the mean over the samples.
        """
        given = images, num_samples, seed, batch_size, labels
        return self._of_images(self._maps, *given)[1]

    def _of_images(self, function, images, num_samples, seed, batch_size, labels):
        """Results of a graph that takes images and draws noise for them."""
        check_at_least_one("num_samples", num_samples)
        seed = noise.as_seed(seed)

        def run(first, batch, *labels):
            return function(batch, seed, first, num_samples, *labels)

        inputs = with_labels(self.config, images, labels)
        return batched(run, inputs, batch_size, position=True)
