"""The losses of a batch and their gradient: what a step computes before its update."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.common import noise
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.data import Batch
from tfp_vaeflow.model.core import Statistics, VAEFlowCore
from tfp_vaeflow.model.objective import Losses, training_objective

# The name scopes of the parts, and the suffix for those of their gradients.
PARTS = ("statistics", "losses")
GRADIENT = "_gradient"


def loss_and_gradients(
    model: VAEFlowCore,
    config: ExperimentConfig,
    batch: Batch,
    step: int | tf.Tensor,
    compiled: Callable[[Callable], Callable] = lambda function: function,
) -> tuple[Losses, list[tf.Tensor]]:
    """The losses of a batch, and the gradient of the training objective.

    The batch may be a part of the global batch. Then both results are its contribution,
    and the caller sums them.

    Encoders see the whole batch at once, because of batch norm; prior and flow may take
    it in micro-batches. Then the encoders' gradient is one backward pass over the whole
    batch, from the micro-batches' gradients with respect to the statistics.

    Args:
      model: in training.
      config: the experiment.
      batch: images at consecutive positions of the global batch; they divide evenly
        into micro-batches.
      step: number of steps so far; the noise depends on it.
      compiled: wraps, and may compile, the function that computes the losses of a
        (micro-)batch given its statistics, and their gradient. That function needs no
        other replica.

    Returns:
      Each loss term, summed over the batch and divided by `TrainingConfig.batch_size`;
      and the gradient with respect to each of `model.trainable_variables`, likewise.
    """
    training = config.training
    seed = noise.step_seed(training.seed, step)
    encoder_variables, others = model.variables_by_use()
    with tf.name_scope(PARTS[0]), tf.GradientTape() as tape:
        statistics = model.statistics(batch.images, labels=batch.labels, training=True)

    @compiled
    def of_piece(first, images, given):
        with tf.name_scope(PARTS[1]), tf.GradientTape() as piece_tape:
            piece_tape.watch(given)
            count, num_samples = images.shape[0], config.objective.num_samples
            position = batch.positions[first]
            draws = model.draw_loss_noise(seed, count, num_samples, position)
            losses = model.losses_given_statistics(images, given, draws, training=True)
            prior_loss = None
            if config.objective.prior_always_learns:
                prior_loss = model.global_code.prior_loss(given, draws.posterior)
            objective = training_objective(losses, config.objective, step, prior_loss)
            loss = tf.reduce_sum(objective) / training.batch_size
            sums = Losses(*(tf.reduce_sum(t) / training.batch_size for t in losses))
        with tf.name_scope(PARTS[1] + GRADIENT):
            gradients = compute.gradient(piece_tape, loss, [others, given])
            return sums, *gradients

    if training.micro_batches == 1:
        sums, gradients, by_statistics = of_piece(0, batch.images, statistics)
    else:
        sums, gradients, by_statistics = _in_micro_batches(
            of_piece, training.micro_batches, batch.images, statistics, others
        )
    with tf.name_scope(PARTS[0] + GRADIENT):
        encoder_gradients = tape.gradient(
            statistics, encoder_variables, output_gradients=by_statistics
        )
    of = {
        variable.ref(): gradient
        for variable, gradient in zip(
            [*others, *encoder_variables],
            [*gradients, *encoder_gradients],
            strict=True,
        )
    }
    return sums, [of[variable.ref()] for variable in model.trainable_variables]


def _in_micro_batches(
    of_piece: Callable,
    count: int,
    images: tf.Tensor,
    statistics: Statistics,
    variables: list[tf.Variable],
) -> tuple[Losses, list[tf.Tensor], Statistics]:
    """The results of `of_piece` for a batch, in pieces one after another.

    Args:
      of_piece: (position of its first image, images, their statistics) -> losses, to be
        summed; gradients with respect to `variables`, to be summed; gradients with
        respect to its statistics.
      count: number of pieces.
      images, statistics: of the batch.
      variables: those whose gradients `of_piece` gives.
    """
    size = images.shape[0] // count
    arrays = {
        name: tf.TensorArray(value.dtype, count, element_shape=[size, *value.shape[1:]])
        for name, value in statistics.items()
    }

    def body(index, sums, gradients, arrays):
        piece = slice(index * size, (index + 1) * size)
        # Slices of a batch have no static number of images.
        given = {
            name: tf.ensure_shape(value[piece], [size, *value.shape[1:]])
            for name, value in statistics.items()
        }
        some_images = tf.ensure_shape(images[piece], [size, *images.shape[1:]])
        more_sums, more, by_statistics = of_piece(index * size, some_images, given)
        arrays = {n: a.write(index, by_statistics[n]) for n, a in arrays.items()}
        sums = Losses(*(total + one for total, one in zip(sums, more_sums)))
        gradients = [total + one for total, one in zip(gradients, more)]
        return index + 1, sums, gradients, arrays

    start = (
        0,
        Losses(*[tf.zeros([])] * len(Losses._fields)),
        [tf.zeros_like(variable) for variable in variables],
        arrays,
    )
    _, sums, gradients, arrays = tf.while_loop(
        lambda index, *_: index < count, body, start, parallel_iterations=1
    )
    return sums, gradients, {name: a.concat() for name, a in arrays.items()}
