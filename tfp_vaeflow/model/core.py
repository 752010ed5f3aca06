"""The probabilistic model on one batch: what runs inside tf.function."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow import noise, quantization
from tfp_vaeflow.bijectors import MultiScaleFlow
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.dequantizers import build_dequantizer
from tfp_vaeflow.encoders import build_gaussian_encoder
from tfp_vaeflow.model.draws import CodeNoise, LossNoise
from tfp_vaeflow.noise import Initializer, Stream
from tfp_vaeflow.norms import batch_statistics
from tfp_vaeflow.objective import Losses
from tfp_vaeflow.priors import build_prior, log_ratio

tfd = tfp.distributions


class VAEFlowCore(tf.Module):
    """The parts of a `VAEFlow` and the maths that joins them, for one batch.

    Nothing here checks its input or holds compiled functions; `VAEFlow` does.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(name="vaeflow")
        self.config = config
        init = Initializer(seed)
        channels = config.image_shape[-1]
        self.encoder = self.prior = None
        if config.has_posterior:
            self.encoder = build_gaussian_encoder(
                config.encoder, config.image_shape, config.latent_dim, init
            )
        if config.latent_dim:
            self.prior = build_prior(config.prior, config.latent_dim, init)
        self.dequantizer = build_dequantizer(
            config.dequantizer, config.image_shape, init
        )
        self.flow = MultiScaleFlow(config.flow, channels, config.latent_dim, init)
        base = tfd.Normal(tf.zeros(config.image_shape), 1.0)
        self.decoder = tfd.TransformedDistribution(tfd.Independent(base, 3), self.flow)
        self.initialized = tf.Variable(False, trainable=False, name="initialized")

    def initialize_given_noise(
        self,
        images: list[tf.Tensor],
        draws: list[LossNoise],
        labels: tf.Tensor | None = None,
    ) -> None:
        """`initialize` with given noise, of one sample an image.

        It holds the present value of all images; networks see one batch at a time.

        Args:
          images: batches of uint8 `[B, H, W, C]`.
          draws: noise for each batch; what a dequantizer does not need may be None.
          labels: of all images; for class-conditional models.
        """
        x = [self.noise_free(batch) for batch in images]
        z = None
        if self.encoder is not None:
            drawn = tf.concat([batch.posterior for batch in draws], axis=0)
            z = self._sample_posterior(self.encoder.initialize(x), drawn)[:, 0]
            self.prior.initialize(z)
        elif self.prior is not None:
            z = self.prior.codes(labels)
        if self.config.dequantizer is not None:
            self.dequantizer.initialize(x, [d.dequantization[:, 0] for d in draws])
        z = [None] * len(x) if z is None else tf.split(z, [len(batch) for batch in x])
        self.flow.initialize_on(x, z)
        self.initialized.assign(True)

    def draw_loss_noise(
        self,
        seed: int | tf.Tensor,
        batch: int | tf.Tensor,
        num_samples: int,
        first: int | tf.Tensor = 0,
    ) -> LossNoise:
        """Draws what `losses_given_noise` needs for positions first, first + 1, ..."""
        shape = (num_samples, *self.config.image_shape)
        dequantization = self.dequantizer.draw(seed, batch, shape, first)
        posterior = None
        if self.encoder is not None:
            shape = (num_samples, self.config.latent_dim)
            posterior = noise.normal(seed, Stream.POSTERIOR, batch, shape, first)
        return LossNoise(dequantization, posterior)

    def features(
        self,
        images: tf.Tensor,
        training: bool = False,
        labels: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """What encoders say about images: all that their batch norm has a part in.

        A step that takes its batch in pieces computes this on the whole batch, so that
        the pieces add up to the whole.

        Args:
          images: uint8 `[B, H, W, C]`.
          training: whether batch norm uses (and updates from) the batch.
          labels: `[B]`; for class-conditional models, ignored by others.

        Returns:
          `posterior`, `[B, 2 D]`, mean and log-variance of z, where z has a posterior;
          `z`, `[B, D]`, and `kl`, `[B]`, where it goes by the label; `local`,
          `[B, H, W, F]`, where dequantization is variational.
        """
        found = {}
        x = self.noise_free(images)
        if self.encoder is not None:
            found["posterior"] = self.encoder.statistics(x, training)
        elif self.prior is not None:
            found["z"] = self.prior.codes(labels)
            found["kl"] = self.prior.kl(labels)
        if self.config.dequantizer is not None:
            found["local"] = self.dequantizer.encoder(x, training)
        return found

    def variables_by_use(self) -> tuple[list[tf.Variable], list[tf.Variable]]:
        """The trainable variables that `features` uses, and the others."""
        parts = []
        if self.encoder is not None:
            parts.append(self.encoder)
        elif self.prior is not None:
            parts.append(self.prior)
        if self.config.dequantizer is not None:
            parts.append(self.dequantizer.encoder)
        used = [variable for part in parts for variable in part.trainable_variables]
        known = {variable.ref() for variable in used}
        return used, [v for v in self.trainable_variables if v.ref() not in known]

    def losses_given_features(
        self,
        images: tf.Tensor,
        features: dict[str, tf.Tensor],
        draws: LossNoise,
        training: bool = False,
    ) -> Losses:
        """The terms of the negative ELBO, given `features` of the images and noise.

        Args:
          images: uint8 `[B, H, W, C]`.
          features: of these images.
          draws: noise for K samples an image.
          training: whether batch norm in coupling networks uses (and updates from) the
            batch.

        Returns:
          Nats, each term `[B]`.
        """
        with batch_statistics(training):
            x, log_density = self._dequantized(images, draws.dequantization, features)
            posterior, z = self._posterior_and_z(features, draws)
            kl = tf.zeros(tf.shape(images)[:1])
            if posterior is not None:
                kl = self.prior.kl(posterior, tf.transpose(z, [1, 0, 2]))
            elif self.prior is not None:
                kl = features["kl"]
            return Losses(
                generation=-tf.reduce_mean(self.log_prob_given_z(x, z), axis=1),
                kl=kl,
                dequantization=tf.reduce_mean(log_density, axis=1),
            )

    def losses_of_samples(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> Losses:
        """The terms of the negative ELBO at each sample; works inside tf.function.

        `-total = log w_k = log p(x, z_k) - log q(z_k | x) - log q(u_k | x)`: its mean
        over k is the ELBO, its log-mean-exp the importance-weighted bound. Here `kl` is
        always the estimate at the sample, also where a prior has an analytic one.

        Args:
          images: uint8 `[B, H, W, C]`.
          draws: noise for K samples an image.
          labels: `[B]`; for class-conditional models, ignored by others.

        Returns:
          Nats, each term `[B, K]`.

        Reference: Burda et al., arXiv 1509.00519, equation 8.
        """
        features = self.features(images, labels=labels)
        x, log_density = self._dequantized(images, draws.dequantization, features)
        posterior, z = self._posterior_and_z(features, draws)
        kl = tf.zeros_like(log_density)
        if posterior is not None:
            samples = tf.transpose(z, [1, 0, 2])
            kl = tf.transpose(log_ratio(posterior, self.prior.distribution, samples))
        elif self.prior is not None:
            kl += features["kl"][:, tf.newaxis]
        return Losses(-self.log_prob_given_z(x, z), kl, log_density)

    def _posterior_and_z(
        self, features: dict[str, tf.Tensor], draws: LossNoise
    ) -> tuple[tfd.Independent | None, tf.Tensor | None]:
        """`q(z | x)` and z `[B, K, D]` for drawn noise; None where there is none."""
        if self.encoder is not None:
            posterior = self.encoder.posterior(features["posterior"])
            return posterior, self._sample_posterior(posterior, draws.posterior)
        if self.prior is not None:
            count = tf.shape(draws.dequantization)[1]
            return None, tf.repeat(features["z"][:, tf.newaxis], count, axis=1)
        return None, None

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
          draws: noise for K samples an image.
          training: whether batch norm uses (and updates from) the batch.
          labels: `[B]`; for class-conditional models, ignored by others.

        Returns:
          Nats, each term `[B]`.
        """
        features = self.features(images, training, labels)
        return self.losses_given_features(images, features, draws, training)

    def sample_z_of(self, images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Samples of `q(z | x)` for uint8 images and noise `[B, K, D]`: `[B, K, D]`."""
        return self._sample_posterior(self.encoder(self.noise_free(images)), drawn)

    def log_prob_with_z(
        self, images: tf.Tensor, z: tf.Tensor, draws: LossNoise
    ) -> tf.Tensor:
        """`log p(x | z)` of images under each of K z.

        Args:
          images: uint8 `[B, H, W, C]`, dequantized with `draws`.
          z: `[B, K, D]`.
          draws: noise for one sample an image, the same for every z.

        Returns:
          Nats, `[B, K]`.
        """
        features = self.features(images)
        x, _ = self._dequantized(images, draws.dequantization, features)
        return self.log_prob_given_z(tf.repeat(x, tf.shape(z)[1], axis=1), z)

    def log_prob_given_z(self, x: tf.Tensor, z: tf.Tensor | None) -> tf.Tensor:
        """`log p(x | z)` in nats: x `[B, K, H, W, C]`, z `[B, K, D]` -> `[B, K]`."""
        # The flow takes one batch dimension; the K samples of an image are neighbours.
        flat_x = tf.reshape(x, [-1, *self.config.image_shape])
        kwargs = {}
        if z is not None:
            kwargs["conditioning"] = tf.reshape(z, [-1, self.config.latent_dim])
        log_prob = self.decoder.log_prob(flat_x, bijector_kwargs=kwargs)
        return tf.reshape(log_prob, tf.shape(x)[:2])

    def losses_batch(
        self,
        images: tf.Tensor,
        seed: tf.Tensor,
        first: tf.Tensor,
        num_samples: int,
        labels: tf.Tensor | None = None,
    ) -> Losses:
        """`losses` for one batch from position `first` on; works inside tf.function."""
        draws = self.draw_loss_noise(seed, tf.shape(images)[0], num_samples, first)
        return self.losses_given_noise(images, draws, labels=labels)

    def encode_batch(
        self, images: tf.Tensor, u: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`encode` for one batch; works inside tf.function."""
        z = None
        if self.encoder is not None:
            z = self.encoder(self.noise_free(images)).distribution.loc
        elif self.prior is not None:
            z = self.prior.codes(labels)
        return z, self.local_code(images, z, u)

    def local_code(
        self, images: tf.Tensor, z: tf.Tensor | None, u: float | tf.Tensor
    ) -> tf.Tensor:
        """v of uint8 images, given z, with each pixel at u in its bin."""
        return self.flow.inverse_and_log_det(self.placed(images, u), z)[0]

    def decode_batch(self, v: tf.Tensor, z: tf.Tensor | None = None) -> tf.Tensor:
        """`decode` for one batch; works inside tf.function."""
        return self.to_pixels(self.flow.forward_and_log_det(v, z)[0])

    def to_pixels(self, x: tf.Tensor) -> tf.Tensor:
        """x, of any value, -> uint8 images of the same shape."""
        levels = quantization.quantize(x, self.config.n_bins)
        return quantization.to_pixels(levels, self.config.n_bins)

    def draw_code_noise(
        self, seed: int | tf.Tensor, batch: int, first: int | tf.Tensor = 0
    ) -> CodeNoise:
        """Draws what `codes_from_noise` needs for positions first, first + 1, ..."""
        shape = self.config.image_shape
        local = noise.normal(seed, Stream.LOCAL_CODE, batch, shape, first)
        prior = None
        if self.config.is_class_conditional:
            prior = noise.uniform(seed, Stream.LABELS, batch, (), first)
        elif self.prior is not None:
            shape = (self.config.latent_dim,)
            prior = noise.normal(seed, Stream.PRIOR, batch, shape, first)
        return CodeNoise(local, prior)

    def codes_from_noise(
        self,
        draws: CodeNoise,
        temperature: float | tf.Tensor,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes from the prior, z `[B, D]` and v `[B, H, W, C]`.

        Args:
          draws: noise.
          temperature: factor on v; a scalar, or of v's rank.
          labels: `[B]`, of a class-conditional model; drawn by p(label) without.
        """
        z = None
        if self.config.is_class_conditional:
            if labels is None:
                labels = self.prior.labels_from_noise(draws.prior)
            z = self.prior.codes(labels)
        elif self.prior is not None:
            z = self.prior.from_noise(draws.prior)
        return z, temperature * draws.local

    def sampled_codes(
        self, images: tf.Tensor, draws: LossNoise, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes of images with sampled z and u, given noise of one sample an image."""
        features = self.features(images, labels=labels)
        _, z = self._posterior_and_z(features, draws)
        z = None if z is None else z[:, 0]
        x = self._dequantized(images, draws.dequantization, features)[0][:, 0]
        return z, self.flow.inverse_and_log_det(x, z)[0]

    def _dequantized(
        self, images: tf.Tensor, drawn: tf.Tensor, features: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and drawn noise `[B, K, H, W, C]` -> (x, log q(u | x) `[B, K]`)."""
        levels = quantization.to_levels(images, self.config.n_bins)[:, tf.newaxis]
        u, log_density = self.dequantizer(drawn, features.get("local"))
        return quantization.dequantize(levels, u, self.config.n_bins), log_density

    def noise_free(self, images: tf.Tensor) -> tf.Tensor:
        """Images as the encoders see them: x in [-1, 1) with u = 0."""
        return self.placed(images, 0.0)

    def placed(self, images: tf.Tensor, u: float | tf.Tensor) -> tf.Tensor:
        """x of uint8 images with each pixel at u in its bin."""
        levels = quantization.to_levels(images, self.config.n_bins)
        return quantization.dequantize(levels, u, self.config.n_bins)

    @staticmethod
    def _sample_posterior(posterior: tfd.Independent, draws: tf.Tensor) -> tf.Tensor:
        """Noise `[B, K, D]` -> z `[B, K, D]`."""
        base = posterior.distribution
        return base.loc[:, tf.newaxis] + base.scale[:, tf.newaxis] * draws
