"""`VAEFlow`: the model as its users meet it, on any number of images."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfp_vaeflow import noise
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.noise import Stream
from tfp_vaeflow.objective import Losses, bits_per_dim_terms

DEFAULT_BATCH_SIZE = 256
_LARGEST_U = 0.999  # beyond, float32 may round a pixel into the next bin


class VAEFlow(VAEFlowCore):
    """A VAE whose decoder is an invertible flow.

        z ~ p(z),  v ~ N(0, I),  x = flow(v; z)                      (generation)
        q(z | x) = N(mean(x), std(x)^2),  v = flow^-1(x; z)          (inference)

    z is the global code `[D]`, v the local code, of the image's own shape. Images are
    uint8 `[B, H, W, C]`; z and v are float32. With `latent_dim = 0` there is no z: z is
    then None wherever it is returned or expected.

    Many images are worked on `batch_size` at a time; but for rounding, no result
    depends on it, nor on the other images of the batch.

    Reference: Ma, Kong, Zhang & Hovy, *Decoupling Global and Local Representations via
    Invertible Generative Flows*, ICLR 2021, arXiv 2004.11820.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(config, seed)
        # Traced once, for any number of images.
        images = tf.TensorSpec([None, *config.image_shape], tf.uint8)
        code = tf.TensorSpec([None, *config.image_shape], tf.float32)
        codes = [code]
        if config.latent_dim:
            codes.append(tf.TensorSpec([None, config.latent_dim], tf.float32))
        scalar = tf.TensorSpec([], tf.float32)
        self._encode = tf.function(self.encode_batch, [images, scalar])
        self._decode = tf.function(self.decode_batch, codes)
        self._losses = tf.function(self.losses_batch, reduce_retracing=True)
        self._reconstruct = tf.function(self.reconstruct_batch, reduce_retracing=True)

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
          UserError: if the model is initialised already.
        """
        if tf.convert_to_tensor(self.initialized):
            raise UserError(
                "the model is initialised already; initialise a newly built one"
            )
        images = self._checked_images(images)
        if len(images) < 2:
            raise UserError("initialize got 1 image; expected two or more")
        if self.encoder is None:
            self.initialize_given_noise(images, None)
            return
        draw = noise.normal(
            seed, Stream.POSTERIOR, images.shape[0], (self.config.latent_dim,)
        )
        self.initialize_given_noise(images, draw)

    # Losses.

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
        if num_samples < 1:
            raise UserError(f"num_samples is {num_samples}; expected at least 1")
        images = self._checked_images(images)
        seed = noise.as_seed(seed)

        def batch_losses(batch, first):
            return self._losses(batch, seed, first, num_samples)

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

    def encode(
        self, images: tf.Tensor, u: float = 0.5, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """The codes of images; `decode` takes them back to the quantised images.

        With 256 bins these are the images themselves; with fewer, each pixel comes back
        as the smallest one of its level.

        Args:
          images: uint8 `[B, H, W, C]`.
          u: where in its bin each pixel lies, from 0 to 0.999. The centre leaves half
            a bin of room for rounding errors on either side.
          batch_size: images at a time.

        Returns:
          The posterior mean of z `[B, D]`, and v `[B, H, W, C]`.
        """
        if not 0 <= u <= _LARGEST_U:
            raise UserError(f"u is {u}; expected 0 <= u <= {_LARGEST_U}")
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
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature is {temperature}; expected at least 0")
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
            raise UserError(f"num_images is {num_images}; expected at least 1")
        z, v = self.sample_codes(num_images, temperature, seed)
        return self.decode(z, v, batch_size)

    def reconstruct(
        self, images: tf.Tensor, seed: int = 0, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tf.Tensor:
        """Encodes with sampled z ~ q(z | x) and u ~ q(u | x), decodes with the same z.

        The flow is invertible whatever z is, so the images come back; a pixel whose u
        falls within rounding error of its bin's edge may differ by one level.

        Args:
          images: uint8 `[B, H, W, C]`.
          seed: of z and u.
          batch_size: images at a time.

        Returns:
          uint8 `[B, H, W, C]`.
        """
        images = self._checked_images(images)
        seed = noise.as_seed(seed)

        def run_batch(batch, first):
            return self._reconstruct(batch, seed, first)

        return _batched(run_batch, [images], batch_size, position=True)

    def switch(
        self, a: tf.Tensor, b: tf.Tensor, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Exchanges the global codes of two batches of images.

        Returns:
          (z of a with v of b, z of b with v of a), each uint8 `[B, H, W, C]`.
        """
        self._require_z("switch")
        if len(a) != len(b):
            raise UserError(
                f"switch got {len(a)} and {len(b)} images; expected as many"
            )
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
        if np.ndim(alphas) != 1 or np.ndim(betas) != 1 or not len(alphas) * len(betas):
            raise UserError(
                f"alphas and betas are {alphas} and {betas}; expected a list each"
            )
        for image in (a, b):
            if tuple(image.shape) != self.config.image_shape:
                raise UserError(
                    f"interpolate got an image of shape {tuple(image.shape)}; expected "
                    f"one image {self.config.image_shape}"
                )
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

    def _require_z(self, method: str) -> None:
        if self.encoder is None:
            raise UserError(
                f"{method} needs a global code z, and this model has none "
                "(ModelConfig.latent_dim = 0)"
            )

    def _checked_images(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        expected = self.config.image_shape
        shape = tuple(images.shape)
        if images.dtype != tf.uint8 or len(shape) != 4 or shape[1:] != expected:
            raise UserError(
                f"images are {images.dtype.name} of shape {shape}; expected uint8 of "
                f"shape (batch, {', '.join(map(str, expected))})"
            )
        if shape[0] == 0:
            raise UserError("images are an empty batch; expected at least one image")
        return images

    def _checked_codes(self, z, v):
        v = tf.convert_to_tensor(v, tf.float32)
        expected = (None, *self.config.image_shape)
        if v.shape.rank != 4 or v.shape[1:] != expected[1:] or v.shape[0] == 0:
            raise UserError(f"v is of shape {tuple(v.shape)}; expected {expected}")
        if self.encoder is None:
            if z is not None:
                raise UserError("z is given, but this model has none; pass None")
            return None, v
        if z is None:
            raise UserError("z is None; expected the global codes of the images")
        z = tf.convert_to_tensor(z, tf.float32)
        expected = (v.shape[0], self.config.latent_dim)
        if tuple(z.shape) != expected:
            raise UserError(f"z is of shape {tuple(z.shape)}; expected {expected}")
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
        raise UserError(f"batch_size is {batch_size}; expected at least 1")
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
