"""How well a model explains images, and how much its decoder uses z."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow import noise, quantization
from tfp_vaeflow.data import Batch, Split, evaluation_batches
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.noise import Stream
from tfp_vaeflow.objective import Losses, bits_per_dim_terms


def labelled_batches(model: VAEFlow, split: Split, batch_size: int) -> tf.data.Dataset:
    """All images of a split in order, with labels if the model needs them."""
    return evaluation_batches(split, batch_size, model.config.is_class_conditional)


def labels_for(model: VAEFlow, batch: Batch, number: int) -> tf.Tensor | None:
    """What to pass as `labels=` with the first `number` images of a batch."""
    return batch.labels[:number] if model.config.is_class_conditional else None


def mean_losses(
    model: VAEFlow, split: Split, num_samples: int, batch_size: int, seed: int
) -> Losses:
    """The mean loss terms over a split, in nats, with `num_samples` samples of (z, u).

    Args:
      model: a trained model.
      split: the images.
      num_samples: K.
      batch_size: images at a time.
      seed: of the noise.

    Returns:
      Scalars, accumulated in float64.
    """
    run = tf.function(model.losses_batch)
    seed = noise.as_seed(seed)
    sums = np.zeros(len(Losses._fields))
    for batch in labelled_batches(model, split, batch_size):
        first = batch.positions[0]
        losses = run(batch.images, seed, first, num_samples, batch.labels)
        weights = np.asarray(batch.weights, np.float64)
        sums += [np.sum(weights * np.asarray(term, np.float64)) for term in losses]
    return Losses(*(sums / split.num_images))


def bits_per_dim_report(model: VAEFlow, losses: Losses) -> dict[str, float]:
    """bits/dim of mean losses: `total` and its terms, as floats."""
    terms = bits_per_dim_terms(losses, model.config)
    return {name: float(value) for name, value in terms.items()}


def shuffled_z_gap(model: VAEFlow, split: Split, batch_size: int, seed: int) -> float:
    """How much worse the decoder explains an image with another image's z, in nats.

        mean over x of  -log p(x | z')  -  -log p(x | z),   z ~ q(z | x), z' ~ q(z | x')

    x' is the next image of the split, for the last one the first. 0 where z is ignored.

    Args:
      model: a trained model with z.
      split: the images, two or more.
      batch_size: images at a time.
      seed: of z, z' and the dequantization noise, which is the same for both.
    """
    seed = noise.as_seed(seed)

    @tf.function
    def log_probs(batch, others):
        count = tf.shape(batch.images)[0]
        first = batch.positions[0]
        draws = model.draw_loss_noise(seed, count, 1, first)
        other_draws = noise.normal(
            seed, Stream.SHUFFLED, count, (1, model.config.latent_dim), first
        )
        own = model.log_prob_with_z_of(batch.images, batch.images, draws)
        changed = model.log_prob_with_z_of(
            batch.images, others, draws._replace(posterior=other_draws)
        )
        return own, changed

    total = 0.0
    for batch in evaluation_batches(split, batch_size):
        others = split.read((batch.positions + 1) % split.num_images)
        own, changed = log_probs(batch, others)
        weights = np.asarray(batch.weights, np.float64)
        total += np.sum(weights * (own.numpy() - changed.numpy()))
    return total / split.num_images


def exactly_decoded(model: VAEFlow, split: Split, batch_size: int) -> int:
    """How many images of a split `decode(*encode(x))` gives back without a change."""
    count = 0
    for batch in labelled_batches(model, split, batch_size):
        number = int(tf.reduce_sum(batch.weights))
        real = batch.images[:number]
        levels = quantization.to_levels(real, model.config.n_bins)
        expected = quantization.to_pixels(levels, model.config.n_bins)
        codes = model.encode(real, labels=labels_for(model, batch, number))
        same = model.decode(*codes) == expected
        count += int(tf.math.count_nonzero(tf.reduce_all(same, axis=[1, 2, 3])))
    return count
