"""The probabilistic model on one batch: what runs inside tf.function."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors import MultiScaleFlow
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model import quantization
from tfp_vaeflow.model.dequantizers import build_dequantizer
from tfp_vaeflow.model.draws import CodeNoise, LossNoise
from tfp_vaeflow.model.global_codes import Statistics, build_global_code
from tfp_vaeflow.model.objective import Losses, scores
from tfp_vaeflow.networks import Initializer

tfd = tfp.distributions


class VAEFlowCore(tf.Module):
    """The parts of a `VAEFlow` and the maths that joins them, for one batch.

    Nothing here checks its input or holds compiled functions; `VAEFlow` does.

    Attributes:
      global_code: the source of z; it holds encoder and prior.
      dequantizer: q(u | x).
      flow: v -> x, given z.
      decoder: p(x | z) as a distribution.
      initialized: whether data-dependent initialisation was done.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(name="vaeflow")
        self.config = config
        init, shape = Initializer(seed), config.image_shape
        self.global_code = build_global_code(config, init)
        self.dequantizer = build_dequantizer(config.dequantizer, shape, init)
        dim, before = config.latent_dim, self.global_code.decoder_layers(init)
        self.flow = MultiScaleFlow(config.flow, shape[-1], dim, init, before)
        base = tfd.Normal(tf.zeros(shape), 1.0)
        self.decoder = tfd.TransformedDistribution(tfd.Independent(base, 3), self.flow)
        self.initialized = tf.Variable(False, trainable=False, name="initialized")

    @property
    def encoder(self):
        """Gives q(z | x); None where z is not inferred."""
        return self.global_code.encoder

    @property
    def prior(self):
        """p(z); None for a model without z."""
        return self.global_code.prior

    # The bound:
    #     log p(x) >= E[log p(x | z)] - KL(q(z | x) || p(z)) - E[log q(u | x)]

    def statistics(
        self,
        images: tf.Tensor,
        *,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> Statistics:
        """The encoders' outputs without noise: the parameters of q(z, u | x).

        Encoders depend on the whole batch through batch norm. A step that takes its
        batch in pieces computes their outputs on the whole batch, so that the pieces
        add up to the result of the whole.

        Args:
          images: uint8 `[B, H, W, C]`.
          labels: `[B]`; for class-conditional models, ignored by others.
          training: whether batch norm uses (and updates from) the batch.

        Returns:
          Tensors `[B, ...]` by name, of `GlobalCode` and of the dequantizer.
        """
        x = self.noise_free(images)
        return {
            **self.global_code.statistics(x, labels=labels, training=training),
            **self.dequantizer.statistics(x, training=training),
        }

    def losses_given_statistics(
        self,
        images: tf.Tensor,
        statistics: Statistics,
        draws: LossNoise,
        training: bool = False,
    ) -> Losses:
        """The terms of the negative ELBO, given `statistics` of the images and noise.

        Args:
          images: uint8 `[B, H, W, C]`.
          statistics: of these images.
          draws: noise for K samples per image.
          training: whether batch norm in coupling networks uses (and updates from) the
            batch.

        Returns:
          Nats, each term `[B]`.
        """
        with compute.using(training=training):
            x, log_density_map = self.dequantized(images, statistics, draws)
            z = self.global_code.sample(statistics, draws.posterior)
            kl = self.global_code.kl(statistics, z)
            generation = -tf.reduce_mean(self.log_prob(x, z), axis=1)
            return Losses(generation, kl, tf.reduce_mean(_total(log_density_map), 1))

    def losses_given_noise(
        self,
        images: tf.Tensor,
        draws: LossNoise,
        training: bool = False,
        labels: tf.Tensor | None = None,
    ) -> Losses:
        """The terms of the negative ELBO for given noise; works inside tf.function.

        Args:
          images: uint8 `[B, H, W, C]`.
          draws: noise for K samples per image.
          training: whether batch norm uses (and updates from) the batch.
          labels: `[B]`; for class-conditional models, ignored by others.

        Returns:
          Nats, each term `[B]`.
        """
        statistics = self.statistics(images, labels=labels, training=training)
        return self.losses_given_statistics(images, statistics, draws, training)

    def losses_of_samples(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> Losses:
        """The terms of the negative ELBO at each sample; works inside tf.function.

        `-total = log w_k = log p(x, z_k) - log q(z_k | x) - log q(u_k | x)`: its mean
        over k is the ELBO, its log-mean-exp the importance-weighted bound. Here `kl` is
        always the estimate at the sample, even if the prior has an analytic one.

        Args:
          images, draws, labels: see `losses_given_noise`.

        Returns:
          Nats, each term `[B, K]`.

        Reference: Burda et al., arXiv 1509.00519, equation 8.
        """
        return self._losses_and_kl(images, draws, labels)[0]

    def _losses_and_kl(self, images, draws, labels):
        """`losses_of_samples`, and the `kl` of `losses_given_noise`."""
        statistics = self.statistics(images, labels=labels)
        x, log_density_map = self.dequantized(images, statistics, draws)
        log_density = _total(log_density_map)
        z = self.global_code.sample(statistics, draws.posterior)
        ratio = self.global_code.log_ratio(statistics, z) + tf.zeros_like(log_density)
        losses = Losses(-self.log_prob(x, z), ratio, log_density)
        return losses, self.global_code.kl(statistics, z)

    def scores_given_noise(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """How likely images are; see `VAEFlow.score`. It works inside tf.function."""
        of_samples, kl = self._losses_and_kl(images, draws, labels)
        return scores(of_samples, kl, draws.dequantization.shape[1], self.config)

    def dequantized(
        self, images: tf.Tensor, statistics: Statistics, draws: LossNoise
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """x of images with sampled u.

        Args:
          images: uint8 `[B, H, W, C]`.
          statistics: of these images.
          draws: noise for K samples per image.

        Returns:
          x `[B, K, H, W, C]`, and the map of `log q(u | x)`, the share of each
          position, `[B, K, H, W]`.
        """
        levels = quantization.to_levels(images, self.config.n_bins)[:, tf.newaxis]
        u, log_density_map = self.dequantizer.sample(statistics, draws.dequantization)
        return quantization.dequantize(levels, u, self.config.n_bins), log_density_map

    def log_prob(self, x: tf.Tensor, z: tf.Tensor | None) -> tf.Tensor:
        """`log p(x | z)` in nats, `[B, K]`.

        Args:
          x: `[B, K, H, W, C]`.
          z: `[B, K, D]`, or `[B, 1, D]` for the same z K times; None without z.
        """
        x_rows, z_rows = self._rows(x, z)
        kwargs = {} if z is None else {"conditioning": z_rows}
        log_prob = self.decoder.log_prob(x_rows, bijector_kwargs=kwargs)
        return tf.reshape(log_prob, tf.shape(x)[:2])

    def _rows(self, x, z):
        """x and z with one batch dimension: the K samples of an image in turn."""
        batch, count = keras.ops.shape(x)[:2]  # static ones, where they are known
        x_rows = tf.reshape(x, [batch * count, *self.config.image_shape])
        if z is None:
            return x_rows, None
        z = tf.broadcast_to(z, [batch, count, self.config.latent_dim])
        return x_rows, tf.reshape(z, [batch * count, self.config.latent_dim])

    def log_prob_map(self, x: tf.Tensor, z: tf.Tensor | None) -> tf.Tensor:
        """The share of each position in `log p(x | z)`, in nats, `[B, K, H, W]`.

            log p(x | z) = sum over positions of
                           share of log N(v; 0, I) + sum over layers of log-det maps

        Where the flow works at a lower resolution, the pixels of a block have equal
        shares.

        Args:
          x, z: see `log_prob`.
        """
        v, log_det_map = self.flow.inverse_and_log_det_map(*self._rows(x, z))
        base = self.flow.position_shares(tfd.Normal(0.0, 1.0).log_prob(v))
        return tf.reshape(base + log_det_map, tf.shape(x)[:4])

    def maps_given_noise(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The maps of `log p(x | z)` and of `log q(u | x)`, means over the K samples.

        Args:
          images, draws, labels: see `losses_given_noise`.

        Returns:
          Nats, each `[B, H, W]`.
        """
        statistics = self.statistics(images, labels=labels)
        x, log_density_map = self.dequantized(images, statistics, draws)
        z = self.global_code.sample(statistics, draws.posterior)
        maps = self.log_prob_map(x, z), log_density_map
        return tuple(tf.reduce_mean(one, axis=1) for one in maps)

    def log_prob_of_images(
        self, images: tf.Tensor, z: tf.Tensor, draws: LossNoise
    ) -> tf.Tensor:
        """`log p(x | z)` of images under each of K z.

        Args:
          images: uint8 `[B, H, W, C]`, dequantized with `draws`.
          z: `[B, K, D]`.
          draws: noise for one sample per image, the same for every z.

        Returns:
          Nats, `[B, K]`.
        """
        statistics = self.dequantizer.statistics(self.noise_free(images))
        x, _ = self.dequantized(images, statistics, draws)
        return self.log_prob(tf.repeat(x, tf.shape(z)[1], axis=1), z)

    def losses_batch(
        self,
        images: tf.Tensor,
        seed: tf.Tensor,
        first: tf.Tensor,
        num_samples: int,
        labels: tf.Tensor | None = None,
    ) -> Losses:
        """`VAEFlow.losses` for one batch, from position `first` on."""
        draws = self.draw_loss_noise(seed, tf.shape(images)[0], num_samples, first)
        return self.losses_given_noise(images, draws, labels=labels)

    # Codes.

    def encode_batch(
        self, images: tf.Tensor, u: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`VAEFlow.encode` for one batch; works inside tf.function."""
        x = self.noise_free(images)
        z = self.global_code.mean(self.global_code.statistics(x, labels=labels))
        return z, self.local_code(images, z, u)

    def local_code(
        self, images: tf.Tensor, z: tf.Tensor | None, u: float | tf.Tensor
    ) -> tf.Tensor:
        """v of uint8 images, given z, with each pixel at u in its bin."""
        return self.flow.inverse_and_log_det_map(self.placed(images, u), z)[0]

    def decode_batch(self, z: tf.Tensor | None, v: tf.Tensor) -> tf.Tensor:
        """`VAEFlow.decode` for one batch; works inside tf.function."""
        return self.to_pixels(self.flow.forward_and_log_det_map(v, z)[0])

    def encode_given_noise(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes of images with sampled z and u, given noise of one sample per image."""
        statistics = self.statistics(images, labels=labels)
        z = first_sample(self.global_code.sample(statistics, draws.posterior))
        x = first_sample(self.dequantized(images, statistics, draws)[0])
        return z, self.flow.inverse_and_log_det_map(x, z)[0]

    def codes_given_noise(
        self,
        draws: CodeNoise,
        temperature: float | tf.Tensor,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes from the prior, z `[B, D]` and v `[B, H, W, C]`.

        Args:
          draws: noise.
          temperature: factor on v; a scalar, or of v's rank.
          labels: `[B]`, for a class-conditional model; None draws them from p(label).
        """
        z = self.global_code.from_noise(draws.prior, labels)
        return z, temperature * draws.local

    # Noise.

    def draw_loss_noise(
        self,
        seed: int | tf.Tensor,
        batch: int | tf.Tensor,
        num_samples: int,
        first: int | tf.Tensor = 0,
    ) -> LossNoise:
        """Draws noise for `losses_given_noise`, for positions first, first + 1, ..."""
        shape = (num_samples, *self.config.image_shape)
        dequantization = self.dequantizer.draw(seed, batch, shape, first)
        posterior = self.global_code.draw(seed, batch, num_samples, first)
        return LossNoise(dequantization, posterior)

    def draw_code_noise(
        self, seed: int | tf.Tensor, batch: int, first: int | tf.Tensor = 0
    ) -> CodeNoise:
        """Draws noise for `codes_given_noise`, for positions first, first + 1, ..."""
        shape = self.config.image_shape
        local = noise.normal(seed, Stream.LOCAL_CODE, batch, shape, first)
        return CodeNoise(local, self.global_code.draw_prior(seed, batch, first))

    # Pixels.

    def noise_free(self, images: tf.Tensor) -> tf.Tensor:
        """Images as the encoders see them: x in [-1, 1) with u = 0."""
        return self.placed(images, 0.0)

    def placed(self, images: tf.Tensor, u: float | tf.Tensor) -> tf.Tensor:
        """x of uint8 images with each pixel at u in its bin."""
        levels = quantization.to_levels(images, self.config.n_bins)
        return quantization.dequantize(levels, u, self.config.n_bins)

    def to_pixels(self, x: tf.Tensor) -> tf.Tensor:
        """x, of any value, -> uint8 images of the same shape."""
        levels = quantization.quantize(x, self.config.n_bins)
        return quantization.to_pixels(levels, self.config.n_bins)

    # Initialisation and variables.

    def initialize_given_noise(
        self,
        images: list[tf.Tensor],
        draws: list[LossNoise],
        labels: tf.Tensor | None = None,
    ) -> None:
        """`VAEFlow.initialize` with given noise, of one sample per image.

        It keeps one activation of every image, but runs networks on one batch at a
        time. The flow sees images without noise; u only initialises the dequantizer.

        Args:
          images: batches of uint8 `[B, H, W, C]`.
          draws: noise for each batch.
          labels: of all images; for class-conditional models.
        """
        x = [self.noise_free(batch) for batch in images]
        z = self.global_code.initialize(x, labels, [d.posterior for d in draws])
        self.dequantizer.initialize(
            x, [first_sample(batch.dequantization) for batch in draws]
        )
        self.flow.initialize_on(x, z)
        self.initialized.assign(True)

    def variables_by_use(self) -> tuple[list[tf.Variable], list[tf.Variable]]:
        """The trainable variables that `statistics` uses, and the others."""
        parts = self.global_code, self.dequantizer
        used = [v for part in parts for v in part.statistics_variables()]
        known = {variable.ref() for variable in used}
        return used, [v for v in self.trainable_variables if v.ref() not in known]


def _total(log_density_map: tf.Tensor) -> tf.Tensor:
    """A map `[B, K, H, W]` summed over the positions, `[B, K]`."""
    return tf.reduce_sum(log_density_map, [2, 3])


def first_sample(samples: tf.Tensor | None) -> tf.Tensor | None:
    """`[B, K, ...]` -> the first of the K; None stays None."""
    return None if samples is None else samples[:, 0]
