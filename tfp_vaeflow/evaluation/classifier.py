"""A network that learns the labels of real images, to judge generated ones."""

import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data import Split, training_batches
from tfp_vaeflow.evaluation.keras_files import load_keras_file, reason_of
from tfp_vaeflow.evaluation.measure import Subject
from tfp_vaeflow.networks import Initializer

# A trained classifier's file, beside the figures of an evaluation.
FILE = "classifier.keras"
NAME = "a small classifier of the training images"
_BATCH_SIZE = 128
_WIDTHS = (24, 48, 96)
# Larger images are averaged over blocks of pixels, to at most 32 pixels a side.
_SIDE = 32
_RATE = 5e-3
_FIRST_RATE = 1e-4
_WARMUP = 0.2  # the part of the steps in which the rate grows
_WEIGHT_DECAY = 0.05
# Images are moved by up to this part of their side.
_SHIFT = 1 / 8


def _build(image_shape, num_classes: int, seed: int) -> keras.Model:
    """A residual network of three blocks, then global average pooling."""
    layers, init = keras.layers, Initializer(seed)

    def convolution(x, width, stride=1, size=3):
        kernel = keras.initializers.HeNormal(seed=init.next_seed())
        x = layers.Conv2D(
            width, size, stride, "same", use_bias=False, kernel_initializer=kernel
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input(image_shape, name="image")
    x = layers.Rescaling(1 / 64, -2.0)(inputs)
    block = -(-max(image_shape[:2]) // _SIDE)
    if block > 1:
        x = layers.AveragePooling2D(block, padding="same")(x)
    x = layers.ReLU()(convolution(x, _WIDTHS[0]))
    for number, width in enumerate(_WIDTHS):
        stride = 1 if number == 0 else 2
        y = layers.ReLU()(convolution(x, width, stride))
        y = convolution(y, width)
        if stride > 1:
            x = layers.AveragePooling2D(stride, padding="same")(x)
            x = convolution(x, width, size=1)
        x = layers.ReLU()(layers.add([y, x]))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    kernel = keras.initializers.HeNormal(seed=init.next_seed())
    logits = layers.Dense(num_classes, kernel_initializer=kernel)(x)
    return keras.Model(inputs, {"logits": logits, "features": x})


class ImageClassifier:
    """A classifier of images.

    Args:
      name: of the classifier, as an evaluation shows it.
      network: takes float32 images `[B, H, W, C]` of pixels from 0 to 255; it gives
        `logits` or probabilities `[B, classes]` and `features` `[B, F]`, by name.
      batch_size: images at a time.
    """

    def __init__(self, name: str, network: keras.Model, batch_size: int):
        self.name = name
        self.network = network
        self._batch_size = batch_size
        self._run = tf.function(network, autograph=False, reduce_retracing=True)

    def _outputs(self, images):
        return self._run(tf.cast(images, tf.float32), training=False)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """A batch of uint8 images `[B, H, W, C]` -> the likeliest labels, `[B]`."""
        return self._outputs(images)["logits"].numpy().argmax(axis=1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """A batch of uint8 images `[B, H, W, C]` -> the features, `[B, F]`."""
        return self._outputs(images)["features"].numpy()

    def accuracy(self, split: Split) -> float:
        """The share of a split's images for which it finds the right label."""
        found = np.concatenate(list(map(self.labels, split.batches(self._batch_size))))
        return float((found == split.labels).mean())


def fit(
    train: Split, num_steps: int, seed: int, batch_size: int, horizontal_flip: bool
) -> ImageClassifier:
    """A small residual network, fit on labelled images that are varied at random.

    Images are shifted by up to an eighth of their side. The rate of AdamW rises to
    5e-3, then falls to 0 by a cosine.

    Args:
      train: labelled images.
      num_steps: batches of 128 images to train on.
      seed: of weights, order and variations; the same seed gives the same network.
      batch_size: images that it judges at a time.
      horizontal_flip: whether images are mirrored at random, too.
    """
    image_shape = train.first(1).shape[1:]
    network = _build(image_shape, int(train.labels.max()) + 1, seed)
    warmup = int(_WARMUP * num_steps)
    rate = keras.optimizers.schedules.CosineDecay(
        _FIRST_RATE, num_steps - warmup, warmup_target=_RATE, warmup_steps=warmup
    )
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=_WEIGHT_DECAY),
        {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    )
    variations = DataConfig(
        horizontal_flip=horizontal_flip,
        shift=int(_SHIFT * min(image_shape[:2])),
        shift_fill="reflect",
    )
    batches = training_batches(train, variations, _BATCH_SIZE, seed, 0, True)
    network.fit(
        batches.map(
            lambda batch: (tf.cast(batch.images, tf.float32), {"logits": batch.labels})
        ),
        steps_per_epoch=num_steps,
        shuffle=False,  # `training_batches` has done that
        verbose=0,
    )
    return ImageClassifier(NAME, network, batch_size)


def read(
    path: str | os.PathLike,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
) -> ImageClassifier:
    """A classifier from a Keras file or a SavedModel.

    Args:
      path: of a network on images `[B, H, W, C]` of pixels from 0 to 255. Its output is
        `[B, num_classes]`, logits or probabilities in the order of the data's labels.
        With several outputs by name, as in the file that `evaluate` writes, that one
        is called `logits`, and `features` may hold features for FID and KID; else
        these take the logits.
      image_shape: `(H, W, C)` of the images that it will be given.
      num_classes: of the data.
      batch_size: images at a time.

    Raises:
      UserError: if the file cannot be read, or holds no such network.
    """
    network = load_keras_file(path, "classifier")
    try:
        inputs = keras.Input(image_shape)
        outputs = network(inputs)
    except Exception as error:  # Keras raises all kinds
        raise UserError(
            f"the classifier {path} does not take images of shape {image_shape}: "
            f"{reason_of(error)}"
        ) from error
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    if len(outputs) == 1:
        outputs = {"logits": next(iter(outputs.values()))}
    shape = getattr(outputs.get("logits"), "shape", None)
    if shape is None:
        raise UserError(
            f"the classifier {path} has several outputs; expected one, or one that is "
            "called 'logits'"
        )
    if tuple(shape) != (None, num_classes):
        raise UserError(
            f"the classifier {path} gives {tuple(shape[1:])} values per image; "
            f"expected ({num_classes},), one per class of the data"
        )
    outputs = {"features": outputs["logits"], **outputs}
    name = os.path.basename(os.path.normpath(path))
    return ImageClassifier(name, keras.Model(inputs, outputs), batch_size)


def named_classifier(subject: Subject) -> ImageClassifier | None:
    """The classifier that the user names; None if they name none.

    Raises:
      UserError: if it cannot be used.
    """
    config = subject.config
    if config.classifier is None:
        return None
    if subject.chosen is None:
        raise UserError(
            f"the classifier {config.classifier} has nothing to judge: "
            f"{subject.why_unlabelled}"
        )
    return read(
        config.classifier,
        subject.model.config.image_shape,
        int(subject.train.labels.max()) + 1,
        config.batch_size,
    )


def classifier_of(subject: Subject) -> ImageClassifier:
    """The classifier that the user names, or one that learns the training images.

    Raises:
      NotMeasuredError: if there is nothing to learn from labels.
    """
    subject.needs_labels()
    config = subject.config
    named = subject.once(named_classifier)
    if named is not None:
        return named
    subject.say("a classifier of real images")
    found = fit(
        subject.train,
        config.classifier_steps,
        config.seed,
        config.batch_size,
        subject.horizontal_flip,
    )
    if subject.folder is not None:
        _write(found.network, os.path.join(subject.folder, FILE))
    return found


def _write(network: keras.Model, path: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        local = os.path.join(directory, FILE)
        # Without the state of the optimizer.
        keras.Model(network.inputs, network.output).save(local)
        files.write_bytes(path, files.read_bytes(local))
