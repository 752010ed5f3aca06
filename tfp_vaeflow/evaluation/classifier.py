"""A small network that learns the labels of real images, to judge generated ones."""

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data import Split, training_batches
from tfp_vaeflow.evaluation.measure import Subject
from tfp_vaeflow.networks import Initializer

_BATCH_SIZE = 64
_WIDTHS = (32, 64, 128)


def _build(image_shape, num_classes: int, seed: int) -> keras.Model:
    """Three convolutions, global average pooling, one hidden layer."""
    init = Initializer(seed)

    def kernel():
        return keras.initializers.HeUniform(seed=init.next_seed())

    inputs = keras.Input(image_shape, name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for number, width in enumerate(_WIDTHS):
        stride = 1 if number == 0 else 2
        x = keras.layers.Conv2D(
            width, 3, stride, "same", activation="relu", kernel_initializer=kernel()
        )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(64, "relu", kernel_initializer=kernel(), name="features")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=kernel())(x)
    return keras.Model(inputs, {"logits": logits, "features": x})


class ImageClassifier:
    """A small convolutional network, fit on labelled images without augmentation.

    Args:
      train: labelled images.
      num_steps: batches of 64 to train on. If `batch_size` is less than 64, each batch
        is computed in parts of at most `batch_size` images.
      seed: of weights and order; the same seed gives the same network.
      batch_size: images at a time.
    """

    def __init__(self, train: Split, num_steps: int, seed: int, batch_size: int):
        self._batch_size = batch_size
        classes = int(train.labels.max()) + 1
        self._network = _build(train.first(1).shape[1:], classes, seed)
        parts = -(-_BATCH_SIZE // batch_size)
        num_steps *= parts
        self._network.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(3e-3, num_steps),
                gradient_accumulation_steps=parts if parts > 1 else None,
            ),
            {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        )
        size = _BATCH_SIZE // parts
        batches = training_batches(train, DataConfig(), size, seed, 0, True)
        self._network.fit(
            batches.map(lambda batch: (batch.images, {"logits": batch.labels})),
            steps_per_epoch=num_steps,
            shuffle=False,  # `training_batches` has done that
            verbose=0,
        )

        self._run = tf.function(self._network, autograph=False, reduce_retracing=True)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """A batch of uint8 images `[B, H, W, C]` -> the likeliest labels, `[B]`."""
        return self._run(images, training=False)["logits"].numpy().argmax(axis=1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """A batch of uint8 images `[B, H, W, C]` -> the hidden layer, `[B, 64]`."""
        return self._run(images, training=False)["features"].numpy()

    def accuracy(self, split: Split) -> float:
        """The share of a split's images for which it finds the right label."""
        found = np.concatenate(list(map(self.labels, split.batches(self._batch_size))))
        return float((found == split.labels).mean())


def classifier_of(subject: Subject) -> ImageClassifier:
    """A classifier of the training images.

    Raises:
      NotMeasuredError: if there is nothing to learn from labels.
    """
    subject.needs_labels()
    config = subject.config
    subject.say("a classifier of real images")
    return ImageClassifier(
        subject.train, config.classifier_steps, config.seed, config.batch_size
    )
