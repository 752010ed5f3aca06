"""`VAEFlow`: the public interface of the model, for any number of images."""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.arguments import (
    between,
    check_at_least_one,
    check_temperature,
    grid_of,
    moved,
)
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.model.inputs import (
    DEFAULT_BATCH_SIZE,
    batched,
    check_posterior,
    checked_codes,
    checked_images,
    checked_labels,
    in_batches,
    with_labels,
)
from tfp_vaeflow.model.likelihoods import VAEFlowLikelihoods

_LARGEST_U = 0.999  # above it, float32 may round a pixel into the next bin


class VAEFlow(VAEFlowLikelihoods):
    """A VAE whose decoder is an invertible flow.

        z ~ p(z),  v ~ N(0, I),  x = flow(v; z)                      (generation)
        q(z | x) = N(mean(x), std(x)^2),  v = flow^-1(x; z)          (inference)

    z is the global code `[D]`, v the local code, of the image's own shape. Images are
    uint8 `[B, H, W, C]`; z and v are float32. With `latent_dim = 0` there is no z: z is
    then None wherever it is returned or expected. With a categorical prior the model is
    class-conditional: z is a function of the image's label, and methods that take
    images need `labels=`.

    Methods compute `batch_size` images at a time. Apart from rounding, no result
    depends on `batch_size` or on the other images of the batch.

    Reference: Ma, Kong, Zhang & Hovy, *Decoupling Global and Local Representations via
    Invertible Generative Flows*, ICLR 2021, arXiv 2004.11820.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    # Weights and initialisation.

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters by part, and their `total`."""
        parts = {
            "encoder": self.encoder,
            "prior": self.prior,
            "dequantizer": self.dequantizer,
            "flow": self.flow,
        }
        counts = {
            name: sum(int(tf.size(v)) for v in part.trainable_variables) if part else 0
            for name, part in parts.items()
        }
        return {**counts, "total": sum(counts.values())}

    def initialize(
        self,
        images: tf.Tensor,
        seed: int = 0,
        labels: tf.Tensor | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Data-dependent initialisation on training images, once.

        Every ActNorm gets outputs of mean 0 and std 1, every coupling becomes the
        identity, and the posterior becomes N(0, 1). The posterior and the prior come
        first, then the dequantizer, then the decoder, on noise-free x and sampled z.

        Args:
          images: uint8 `[B, H, W, C]`, a few hundred or more.
          seed: of the sampled z and the dequantizer's noise.
          labels: of the images, `[B]`; for a class-conditional model.
          batch_size: images at a time; the statistics are those of all images.

        Raises:
          UserError: if the model is initialised already.
        """
        if tf.convert_to_tensor(self.initialized):
            raise UserError(
                "the model is initialised already; initialise a newly built one"
            )
        images = checked_images(self.config, images)
        if len(images) < 2:
            raise UserError("initialize got 1 image; expected two or more")
        labels = checked_labels(self.config, labels, len(images))
        batches, draws = [], []
        for first, batch in in_batches([images], batch_size):
            drawn = self.draw_loss_noise(seed, len(batch), 1, first)
            if self.config.dequantizer is None:
                drawn = drawn._replace(dequantization=None)
            batches.append(batch)
            draws.append(drawn)
        self.initialize_given_noise(batches, draws, labels)

    # Codes.

    def encode(
        self,
        images: tf.Tensor,
        u: float = 0.5,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """The codes of images; `decode` takes them back to the quantised images.

        With 256 bins these are the images themselves; with fewer, each pixel comes back
        as the smallest pixel of its level.

        Args:
          images: uint8 `[B, H, W, C]`.
          u: position of each pixel in its bin, from 0 to 0.999. The centre leaves half
            a bin of room for rounding errors on either side.
          batch_size: images at a time.
          labels: of the images, `[B]`; for a class-conditional model.

        Returns:
          The posterior mean of z (or the code of the label) `[B, D]`, and v
          `[B, H, W, C]`.
        """
        if not 0 <= u <= _LARGEST_U:
            raise UserError(f"u is {u}; expected 0 <= u <= {_LARGEST_U}")
        images = checked_images(self.config, images)
        return batched(
            lambda x, *labels: self._encode(x, u, *labels),
            with_labels(self.config, images, labels),
            batch_size,
        )

    def posterior(
        self, images: tf.Tensor, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of `q(z | x)`, each `[B, D]`.

        Args:
          images: uint8 `[B, H, W, C]`.
          batch_size: images at a time.
        """
        check_posterior(self.config, "posterior")
        images = checked_images(self.config, images)
        return batched(self._posterior, [images], batch_size)

    def flow_inputs(
        self,
        images: tf.Tensor,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The inputs of the flow for images: x with u ~ q(u | x), and z ~ q(z | x).

        Args:
          images: uint8 `[B, H, W, C]`.
          seed: of u and z.
          batch_size: images at a time.
          labels: of the images, `[B]`; for a class-conditional model.

        Returns:
          x `[B, H, W, C]` and z `[B, D]`.
        """
        run = functools.partial(self._flow_inputs, seed=noise.as_seed(seed))
        inputs = with_labels(self.config, images, labels)
        return batched(run, inputs, batch_size, position=True)

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

        For codes from `encode`, it returns exactly the images that were encoded
        (quantised to the model's levels), as long as the flow computes in float32: on
        CPUs, and on GPUs without TF32. While a process trains with
        `TrainingConfig.allow_tf32` on a GPU, and in a model exported with
        `mixed_precision`, some pixels come back a level or more off. Training in mixed
        precision changes nothing here.
        """
        z, v = checked_codes(self.config, z, v)
        return batched(self._decode, [z, v], batch_size)

    def sample_codes(
        self,
        num_images: int,
        temperature: float = 1.0,
        seed: int = 0,
        first: int = 0,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Codes from the prior: z `[B, D]`, v `[B, H, W, C]`; see `sample`."""
        drawn = num_images, temperature, seed, first, labels
        return self._sampled(lambda *codes: codes, *drawn, DEFAULT_BATCH_SIZE)

    def _sampled(
        self, function, num_images, temperature, seed, first, labels, batch_size
    ):
        """Applies `function` to codes from the prior, one batch at a time."""
        check_at_least_one("num_images", num_images)
        check_temperature(temperature)
        inputs = [tf.range(num_images)]
        if labels is not None:  # raises for a model without classes
            inputs.append(checked_labels(self.config, labels, num_images))

        def make(position, numbers, labels=None):
            draws = self.draw_code_noise(seed, len(numbers), first + position)
            return function(*self._codes(draws, temperature, labels))

        return batched(make, inputs, batch_size, position=True)

    def sample(
        self,
        num_images: int,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
        first: int = 0,
    ) -> tf.Tensor:
        """Images from the model, uint8 `[num_images, H, W, C]`.

        `sample(16, seed=1)[8:]` equals `sample(8, seed=1, first=8)`.

        Args:
          num_images: how many.
          temperature: factor on the local code v; z keeps temperature 1.
          seed: of the codes.
          batch_size: images at a time.
          labels: classes to show, `[num_images]`, for a class-conditional model;
            without them, labels are drawn from the prior.
          first: position of the first image.
        """
        return self._sampled(
            self._decode, num_images, temperature, seed, first, labels, batch_size
        )

    def reconstruct(
        self,
        images: tf.Tensor,
        seed: int = 0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Encodes with sampled z ~ q(z | x) and u ~ q(u | x), decodes with the same z.

        The flow is invertible whatever z is, so the images come back; a pixel whose u
        falls within rounding error of its bin's edge may differ by one level.

        Args:
          images: uint8 `[B, H, W, C]`.
          seed: of z and u.
          batch_size: images at a time.
          labels: of the images, `[B]`; for a class-conditional model.

        Returns:
          uint8 `[B, H, W, C]`.
        """
        run = functools.partial(self._reconstruct, seed=noise.as_seed(seed))
        inputs = with_labels(self.config, images, labels)
        return batched(run, inputs, batch_size, position=True)

    def switch(
        self, a: tf.Tensor, b: tf.Tensor, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Exchanges the global codes of two batches of images.

        Returns:
          (z of a with v of b, z of b with v of a), each uint8 `[B, H, W, C]`.
        """
        check_posterior(self.config, "switch")
        if len(a) != len(b):
            raise UserError(
                f"switch got {len(a)} and {len(b)} images; expected the same number"
            )

        def run(a, b):
            (z_a, v_a), (z_b, v_b) = self._encode(a, 0.5), self._encode(b, 0.5)
            return self._decode(z_a, v_b), self._decode(z_b, v_a)

        inputs = [checked_images(self.config, images) for images in (a, b)]
        return batched(run, inputs, batch_size)

    def direction(
        self,
        images: tf.Tensor,
        others: tf.Tensor,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """The direction in z from other images to images: the difference of mean z.

        Args:
          images: uint8 `[B, H, W, C]`, such as those of one class.
          others: uint8 `[B', H, W, C]`.
          batch_size: images at a time.

        Returns:
          `[D]`; `move` takes it.
        """
        check_posterior(self.config, "direction")
        means = (
            tf.reduce_mean(self.posterior(group, batch_size)[0], 0)
            for group in (images, others)
        )
        return tf.subtract(*means)

    def move(
        self,
        images: tf.Tensor,
        direction: tf.Tensor,
        strengths: Sequence[float],
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """Images with z moved along a direction, and v kept.

            z + strength * direction

        Args:
          images: uint8 `[B, H, W, C]`.
          direction: `[D]`, such as `direction` gives.
          strengths: S numbers; 0 gives the image itself.
          batch_size: images at a time.

        Returns:
          uint8 `[B, S, H, W, C]`.
        """
        check_posterior(self.config, "move")
        z, v = (code.numpy() for code in self.encode(images, batch_size=batch_size))
        made = self.decode(*moved(z, v, direction, strengths), batch_size)
        return tf.reshape(made, [len(z), -1, *self.config.image_shape])

    def interpolate(
        self,
        a: tf.Tensor,
        b: tf.Tensor,
        alphas: Sequence[float],
        betas: Sequence[float],
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> tf.Tensor:
        """Interpolates two images: z by alpha, v by beta; 0 gives a and 1 gives b.

            z = (1 - alpha) z_a + alpha z_b,  v = (1 - beta) v_a + beta v_b

        Args:
          a, b: uint8 images `[H, W, C]`.
          alphas, betas: positions along z and along v.
          batch_size: images at a time.

        Returns:
          uint8 `[len(alphas), len(betas), H, W, C]`.
        """
        check_posterior(self.config, "interpolate")
        grid = np.array(grid_of(alphas, betas), np.float32)
        for image in (a, b):
            if tuple(image.shape) != self.config.image_shape:
                raise UserError(
                    f"interpolate got an image of shape {tuple(image.shape)}; expected "
                    f"one image {self.config.image_shape}"
                )
        pair = tf.stack([tf.convert_to_tensor(a), tf.convert_to_tensor(b)])
        z, v = self.encode(pair, batch_size=batch_size)

        def decode(alpha, beta):
            beta = tf.reshape(beta, [-1, 1, 1, 1])
            pairs = (z[:1], z[1:]), (v[:1], v[1:])
            return self._decode(*between(*pairs, alpha, beta))

        positions = [tf.constant(grid[:, :1]), tf.constant(grid[:, 1:])]
        images = batched(decode, positions, batch_size)
        shape = [len(alphas), len(betas), *self.config.image_shape]
        return tf.reshape(images, shape)
