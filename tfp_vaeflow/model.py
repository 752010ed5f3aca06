"""`VAEFlow`: encoder, prior, dequantizer and flow decoder as one model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow import noise, quantization
from tfp_vaeflow.bijectors import MultiScaleFlow
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.dequantizers import UniformDequantizer
from tfp_vaeflow.encoders import GaussianEncoder
from tfp_vaeflow.noise import Initializer, Stream
from tfp_vaeflow.objective import Losses, bits_per_dim_terms
from tfp_vaeflow.priors import build_prior

tfd = tfp.distributions

DEFAULT_BATCH_SIZE = 256


class LossNoise(NamedTuple):
    """The random draws behind one evaluation of the losses.

    Attributes:
      dequantization: `[B, K, H, W, C]`.
      posterior: standard normal `[B, K, D]`, or None without z.
    """

    dequantization: tf.Tensor
    posterior: tf.Tensor | None


class VAEFlow(tf.Module):
    """A VAE whose decoder is an invertible flow.

        z ~ p(z),  v ~ N(0, I),  x = flow(v; z)                      (generation)
        q(z | x) = N(mean(x), std(x)^2),  v = flow^-1(x; z)          (inference)

    z is the global code `[D]`, v the local code, of the image's own shape. Images are
    uint8 `[B, H, W, C]`; z and v are float32. With `latent_dim = 0` there is no z: z is
    then None wherever it is returned or expected.

    Many images are worked on `batch_size` at a time; no result depends on it, nor on
    the other images of the batch.

    Reference: Ma, Kong, Zhang & Hovy, *Decoupling Global and Local Representations via
    Invertible Generative Flows*, ICLR 2021, arXiv 2004.11820.

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
        if config.latent_dim:
            self.encoder = GaussianEncoder(
                config.encoder, config.image_shape, config.latent_dim, init
            )
            self.prior = build_prior(config.prior, config.latent_dim, init)
        self.dequantizer = UniformDequantizer()
        self.flow = MultiScaleFlow(config.flow, channels, config.latent_dim, init)
        base = tfd.Normal(tf.zeros(config.image_shape), 1.0)
        self.decoder = tfd.TransformedDistribution(tfd.Independent(base, 3), self.flow)
        self.initialized = tf.Variable(False, trainable=False, name="initialized")
        # Traced once, for any number of images.
        images = tf.TensorSpec([None, *config.image_shape], tf.uint8)
        code = tf.TensorSpec([None, *config.image_shape], tf.float32)
        codes = [code]
        if config.latent_dim:
            codes.append(tf.TensorSpec([None, config.latent_dim], tf.float32))
        scalar = tf.TensorSpec([], tf.float32)
        self._encode = tf.function(self.encode_batch, [images, scalar])
        self._decode = tf.function(self.decode_batch, codes)

    # Weights and initialisation.

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters by part, and their `total`."""
        parts = {"encoder": self.encoder, "prior": self.prior, "flow": self.flow}
        counts = {
            name: sum(int(tf.size(v)) for v in part.trainable_variables) if part else 0
            for name, part in parts.items()
        }
        return {**counts, "total": sum(counts.values())}

    def initialize(self, images: tf.Tensor, seed: int = 0) -> None:
        """Data-dependent initialisation on a batch of training images, once.

        Every ActNorm gets outputs of mean 0 and std 1, every coupling becomes the
        identity, the posterior N(0, 1). First the posterior and with it the prior, then
        the decoder, on noise-free x and the sampled z.

        Args:
          images: uint8 `[B, H, W, C]`, a few hundred or more.
          seed: of the sampled z.

        Raises:
          ValueError: if the model is initialised already.
        """
        if self.initialized:
            raise ValueError(
                "the model is initialised already; initialise a newly built one"
            )
        images = self._checked_images(images)
        if self.encoder is None:
            self.initialize_given_noise(images, None)
            return
        draw = noise.normal(
            seed, Stream.POSTERIOR, images.shape[0], (self.config.latent_dim,)
        )
        self.initialize_given_noise(images, draw)

    def initialize_given_noise(
        self, images: tf.Tensor, posterior_noise: tf.Tensor | None
    ) -> None:
        """`initialize` with given standard normal noise `[B, D]` for z."""
        x = self._noise_free(images)
        z = None
        if self.encoder is not None:
            posterior = self.encoder.initialize(x)
            base = posterior.distribution
            z = base.loc + base.scale * posterior_noise
            self.prior.initialize(z)
        self.flow.initialize(x, z)
        self.initialized.assign(True)

    # Losses.

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

    def losses_given_noise(
        self, images: tf.Tensor, draws: LossNoise, training: bool = False
    ) -> Losses:
        """The terms of the negative ELBO for given noise; works inside tf.function.

        Args:
          images: uint8 `[B, H, W, C]`.
          draws: noise for K samples an image.
          training: whether batch norm uses (and updates from) the batch.

        Returns:
          Nats, each term `[B]`.
        """
        levels = quantization.to_levels(images, self.config.n_bins)
        u, log_density = self.dequantizer(draws.dequantization)
        x = quantization.dequantize(levels[:, tf.newaxis], u, self.config.n_bins)
        num_samples = x.shape[1]
        kl = tf.zeros(tf.shape(images)[:1])
        z = None
        if self.encoder is not None:
            posterior = self.encoder(self._noise_free(images), training)
            z = self._sample_posterior(posterior, draws.posterior)
            kl = self.prior.kl(posterior, tf.transpose(z, [1, 0, 2]))
        generation = -self.log_prob_given_z(x, z)
        return Losses(
            generation=tf.reduce_mean(generation, axis=1),
            kl=kl,
            dequantization=tf.reduce_mean(
                tf.ensure_shape(log_density, [None, num_samples]), axis=1
            ),
        )

    def log_prob_given_z(self, x: tf.Tensor, z: tf.Tensor | None) -> tf.Tensor:
        """`log p(x | z)` in nats: x `[B, K, H, W, C]`, z `[B, K, D]` -> `[B, K]`."""
        # The flow takes one batch dimension; the K samples of an image are neighbours.
        flat_x = tf.reshape(x, [-1, *self.config.image_shape])
        kwargs = {}
        if z is not None:
            kwargs["conditioning"] = tf.reshape(z, [-1, self.config.latent_dim])
        log_prob = self.decoder.log_prob(flat_x, bijector_kwargs=kwargs)
        return tf.reshape(log_prob, tf.shape(x)[:2])

    def losses(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Losses:
        """The terms of the negative ELBO, per example.

        Args:
          images: uint8 `[B, H, W, C]`.
          num_samples: K samples of (z, u) an image.
          seed: of the noise; the noise of an image depends on its position.
          batch_size: images at a time.

        Returns:
          Nats, each term `[B]`.
        """

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *self.config.image_shape], tf.uint8),
                tf.TensorSpec([], tf.int64),
            ]
        )
        def batch_losses(batch, first):
            draws = self.draw_loss_noise(seed, tf.shape(batch)[0], num_samples, first)
            return self.losses_given_noise(batch, draws)

        images = self._checked_images(images)
        return Losses(*_batched(batch_losses, [images], batch_size, position=True))

    def bits_per_dim(self, losses: Losses) -> tf.Tensor:
        """bits/dim of each example, of the losses' shape; see `objective`."""
        return bits_per_dim_terms(losses, self.config)["total"]

    def score(
        self,
        images: tf.Tensor,
        num_samples: int = 1,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> dict[str, tf.Tensor]:
        """bits/dim of each image: `total` and its terms, each `[B]`."""
        losses = self.losses(images, num_samples, seed, batch_size)
        return bits_per_dim_terms(losses, self.config)

    # Codes.

    def encode_batch(
        self, images: tf.Tensor, u: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`encode` for one batch; works inside tf.function."""
        z = None
        if self.encoder is not None:
            z = self.encoder(self._noise_free(images)).distribution.loc
        levels = quantization.to_levels(images, self.config.n_bins)
        x = quantization.dequantize(levels, u, self.config.n_bins)
        return z, self.flow.inverse_and_log_det(x, z)[0]

    def decode_batch(self, v: tf.Tensor, z: tf.Tensor | None = None) -> tf.Tensor:
        """`decode` for one batch; works inside tf.function."""
        x, _ = self.flow.forward_and_log_det(v, z)
        levels = quantization.quantize(x, self.config.n_bins)
        return quantization.to_pixels(levels, self.config.n_bins)

    def encode(
        self, images: tf.Tensor, u: float = 0.5, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """The codes of images; `decode` takes them back exactly.

        Args:
          images: uint8 `[B, H, W, C]`.
          u: where in its bin each pixel lies, in [0, 1). The centre leaves half a bin
            of room for rounding errors on either side.
          batch_size: images at a time.

        Returns:
          The posterior mean of z `[B, D]`, and v `[B, H, W, C]`.
        """
        if not 0 <= u < 1:
            raise ValueError(f"u is {u}; expected 0 <= u < 1")
        offset = tf.constant(u, tf.float32)
        images = self._checked_images(images)
        return _batched(lambda x: self._encode(x, offset), [images], batch_size)

    def decode(
        self,
        z: tf.Tensor | None,
        v: tf.Tensor,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """Codes -> uint8 images `[B, H, W, C]`.

        Args:
          z: global codes `[B, D]` (None for a model without z).
          v: local codes `[B, H, W, C]`.
          batch_size: images at a time.
        """
        z, v = self._checked_codes(z, v)
        return _batched(self._decode, [v] if z is None else [v, z], batch_size)

    def sample_codes(
        self, num_images: int, temperature: float = 1.0, seed: int = 0, first: int = 0
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes from the prior: z `[B, D]`, v `[B, H, W, C]`; see `sample`."""
        if not temperature >= 0:
            raise ValueError(f"temperature is {temperature}; expected at least 0")
        shape = self.config.image_shape
        v = noise.normal(seed, Stream.LOCAL_CODE, num_images, shape, first)
        z = None
        if self.prior is not None:
            shape = (self.config.latent_dim,)
            draw = noise.normal(seed, Stream.PRIOR, num_images, shape, first)
            z = self.prior.from_noise(draw)
        return z, temperature * v

    def sample(
        self,
        num_images: int,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """Images from the model, uint8 `[num_images, H, W, C]`.

        `sample(16, seed=1)[:8]` equals `sample(8, seed=1)`.

        Args:
          num_images: how many.
          temperature: factor on the local code v; z keeps temperature 1.
          seed: of the codes.
          batch_size: images at a time.
        """
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}; expected at least 1")
        return self.decode(*self.sample_codes(num_images, temperature, seed), batch_size)

    def reconstruct(
        self, images: tf.Tensor, seed: int = 0, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tf.Tensor:
        """Stochastic z and v from the posterior, then back: uint8 `[B, H, W, C]`.

        z ~ q(z | x) is one sample, v the local code under another one, with fresh
        dequantization noise, so the two codes do not fit together by construction: what
        comes back shows how much of an image the pair keeps when z is only known up to
        the posterior's width.
        """
        images = self._checked_images(images)
        draws = self.draw_loss_noise(seed, images.shape[0], 2)
        levels = quantization.to_levels(images, self.config.n_bins)
        x = quantization.dequantize(
            levels, self.dequantizer(draws.dequantization)[0][:, 0], self.config.n_bins
        )

        def encode_noisy(batch, noisy, posterior_noise=None):
            if self.encoder is None:
                return self.flow.inverse_and_log_det(noisy)[0]
            posterior = self.encoder(self._noise_free(batch))
            z = self._sample_posterior(posterior, posterior_noise)
            return z[:, 1], self.flow.inverse_and_log_det(noisy, z[:, 0])[0]

        if self.encoder is None:
            v = _batched(encode_noisy, [images, x], batch_size)
            return self.decode(None, v, batch_size)
        codes = _batched(encode_noisy, [images, x, draws.posterior], batch_size)
        return self.decode(*codes, batch_size)

    def switch(
        self, a: tf.Tensor, b: tf.Tensor, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Exchanges the global codes of two batches of images.

        Returns:
          (z of a with v of b, z of b with v of a), each uint8 `[B, H, W, C]`.
        """
        self._require_z("switch")
        z_a, v_a = self.encode(a, batch_size=batch_size)
        z_b, v_b = self.encode(b, batch_size=batch_size)
        return self.decode(z_a, v_b, batch_size), self.decode(z_b, v_a, batch_size)

    def interpolate(
        self,
        a: tf.Tensor,
        b: tf.Tensor,
        alphas: Sequence[float],
        betas: Sequence[float],
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """Between two images: z by alpha, v by beta, 0 being a and 1 being b.

            z = (1 - alpha) z_a + alpha z_b,  v = (1 - beta) v_a + beta v_b

        Args:
          a, b: uint8 images `[H, W, C]`.
          alphas, betas: positions along z and along v.
          batch_size: images at a time.

        Returns:
          uint8 `[len(alphas), len(betas), H, W, C]`.
        """
        self._require_z("interpolate")
        pair = tf.stack([tf.convert_to_tensor(a), tf.convert_to_tensor(b)])
        z, v = self.encode(pair, batch_size=batch_size)
        grid = np.array([(i, j) for i in alphas for j in betas], np.float32)
        alpha, beta = grid[:, :1], grid[:, 1].reshape(-1, 1, 1, 1)
        images = self.decode(
            (1 - alpha) * z[:1] + alpha * z[1:],
            (1 - beta) * v[:1] + beta * v[1:],
            batch_size,
        )
        shape = [len(alphas), len(betas), *self.config.image_shape]
        return tf.reshape(images, shape)

    # Helpers.

    def _noise_free(self, images: tf.Tensor) -> tf.Tensor:
        levels = quantization.to_levels(images, self.config.n_bins)
        return quantization.dequantize(levels, 0.0, self.config.n_bins)

    @staticmethod
    def _sample_posterior(posterior: tfd.Independent, draws: tf.Tensor) -> tf.Tensor:
        """Noise `[B, K, D]` -> z `[B, K, D]`."""
        base = posterior.distribution
        return base.loc[:, tf.newaxis] + base.scale[:, tf.newaxis] * draws

    def _require_z(self, method: str) -> None:
        if self.encoder is None:
            raise ValueError(
                f"{method} needs a global code z, and this model has none "
                "(ModelConfig.latent_dim = 0)"
            )

    def _checked_images(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        expected = self.config.image_shape
        shape = tuple(images.shape)
        if images.dtype != tf.uint8 or len(shape) != 4 or shape[1:] != expected:
            raise ValueError(
                f"images are {images.dtype.name} of shape {shape}; expected uint8 of "
                f"shape (batch, {', '.join(map(str, expected))})"
            )
        if shape[0] == 0:
            raise ValueError("images are an empty batch; expected at least one image")
        return images

    def _checked_codes(self, z, v):
        v = tf.convert_to_tensor(v, tf.float32)
        expected = (None, *self.config.image_shape)
        if v.shape.rank != 4 or v.shape[1:] != expected[1:] or v.shape[0] == 0:
            raise ValueError(f"v is of shape {tuple(v.shape)}; expected {expected}")
        if self.encoder is None:
            if z is not None:
                raise ValueError("z is given, but this model has none; pass None")
            return None, v
        if z is None:
            raise ValueError("z is None; expected the global codes of the images")
        z = tf.convert_to_tensor(z, tf.float32)
        expected = (v.shape[0], self.config.latent_dim)
        if tuple(z.shape) != expected:
            raise ValueError(f"z is of shape {tuple(z.shape)}; expected {expected}")
        return z, v


def _batched(
    function: Callable, inputs: list[tf.Tensor], batch_size: int, position: bool = False
):
    """Applies `function` to `batch_size` examples at a time and joins the results.

    Args:
      function: tensors with a leading batch dimension -> such tensors.
      inputs: its arguments for all examples.
      batch_size: examples at a time.
      position: whether `function` also takes the first example's position.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    results = []
    for first in range(0, inputs[0].shape[0], batch_size):
        arguments = [value[first : first + batch_size] for value in inputs]
        if position:
            arguments.append(tf.constant(first, tf.int64))
        results.append(function(*arguments))
    return tf.nest.map_structure(
        lambda *parts: None if parts[0] is None else tf.concat(parts, 0), *results
    )


def build_model(config: ModelConfig, seed: int = 0) -> VAEFlow:
    """Builds a model with fresh weights; call `initialize` before training it.

    Turns TF32 off (or on, `config.allow_tf32`) for the process: TensorFlow's default
    rounds convolutions on recent GPUs to 10 bits of mantissa.

    Args:
      config: the architecture.
      seed: of the initial weights; the same seed gives the same weights.
    """
    tf.config.experimental.enable_tensor_float_32_execution(config.allow_tf32)
    return VAEFlow(config, seed)
