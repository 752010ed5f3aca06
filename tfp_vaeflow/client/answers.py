"""What the page of `explore` answers: a method per event."""

import functools
import os
from collections.abc import Callable

import gradio as gr
import numpy as np

from tfp_vaeflow.client import markup
from tfp_vaeflow.client.model import Client
from tfp_vaeflow.common import classes
from tfp_vaeflow.common.errors import UserError


class Answers:
    """Answers events of the page; methods take and return the values of components.

    Attributes:
      has_z: whether the model has a z.
      has_maps: whether the model gives likelihood maps; an older server does not.
      classes: to move z towards: (name, label).
      dims: the entries of z that have a slider, the one with the most effect first.

    Args:
      model: behind the page.
      pictures: that the page begins with.
      read: reads an image from a file: (path, image shape) -> uint8 `[H, W, C]`.
    """

    def __init__(self, model: Client, pictures: markup.Pictures, read: Callable):
        self._model = model
        self._pictures = pictures
        self._read = read
        self.has_z = model.latent_dim > 0
        self.has_maps = "likelihood_map" in model.methods
        self.classes = []
        if "switch" in model.methods and len(pictures.names) > 1:
            self.classes = [(name, label) for label, name in pictures.names.items()]
        self.direction = functools.cache(self._direction)
        self.dims = np.zeros(0, np.int64)
        if self.has_z:
            first = pictures.images[:2]
            labels = [0] * len(first) if model.needs_labels else None
            codes = markup.Codes(*model.encode(first, labels))
            self.dims = markup.slider_dims(model, codes)

    def _direction(self, label: int) -> np.ndarray:
        """The direction of z from all other classes to one."""
        return self._model.direction(*self._pictures.examples(label))

    def pool(self) -> markup.Pool:
        """The images to pick from at first."""
        images, labels = self._pictures.images, self._pictures.labels
        names = None
        if labels is not None:
            names = [self._pictures.names[label] for label in labels]
        return markup.Pool(images, markup.numbers(1, len(images), names))

    def label(self, number: int) -> int:
        """The label of the image of that number; 0 where labels are not known."""
        labels = self._pictures.labels
        return 0 if labels is None else int(labels[number - 1])

    def second(self) -> int:
        """The number of the first image that is not of the class of the first one."""
        labels = self._pictures.labels
        return 2 if labels is None else classes.first_of_another(labels) + 1

    def choose(self, pool, a, b, class_a, class_b, alpha, beta):
        """Picks two images: codes, pictures, the mix; offsets are 0."""
        pair, labels = self._pair(pool, a, b, class_a, class_b)
        codes = markup.Codes(*self._model.encode(pair, labels))
        zeros = [0] * len(self.dims)
        return (
            codes,
            markup.one_picture(pair[0], "image A", "A"),
            markup.one_picture(pair[1], "image B", "B"),
            *self.mix(codes, alpha, beta, None, 0, *zeros),
            0,
            *zeros,
        )

    def _pair(self, pool, a, b, class_a, class_b):
        """The two images and their labels."""
        pair = pool.images[[int(a) - 1, int(b) - 1]]
        labels = [int(class_a), int(class_b)] if self._model.needs_labels else None
        return pair, labels

    def likelihoods(self, pool, a, b, class_a, class_b):
        """bits/dim and maps of two images: slower than the pictures, so on its own."""
        pair, labels = self._pair(pool, a, b, class_a, class_b)
        scores = markup.scores(self._model.score(pair, labels=labels))
        return scores, *self._maps(pair, labels, ["image A", "image B"])

    def _maps(self, images, labels, names):
        """Where images are hard to predict."""
        if not self.has_maps:
            return [""] * len(images)
        found = self._model.likelihood_map(images, labels=labels)
        return [
            markup.map_picture(each, f"the likelihood map of {name}")
            for each, name in zip(found, names)
        ]

    def mix(self, codes, alpha, beta, toward, strength, *offsets):
        """The mix of the two images, as an image and a picture, and its z."""
        chosen = markup.between(codes, alpha, beta)
        if self.has_z:
            chosen = markup.moved(chosen, self.dims, offsets)
        if strength and toward is not None:
            z = chosen.z + np.float32(strength) * self.direction(int(toward))
            chosen = chosen._replace(z=z)
        image = self._model.decode(*chosen)[0]
        mixed = image, markup.one_picture(image, "the mix of A and B", "mix")
        return (*mixed, markup.chart(chosen.z[0])) if self.has_z else mixed

    def map_of_mix(self, image, alpha, class_a, class_b):
        """The likelihood map of the mix; z by label is that of the nearer image."""
        labels = [int(class_a if alpha < 0.5 else class_b)]
        labels = labels if self._model.needs_labels else None
        return self._maps(image[np.newaxis], labels, ["the mix"])[0]

    def reset(self, codes, alpha, beta):
        """Sets the strength and all sliders of z to 0; returns them and the mix."""
        zeros = [0] * len(self.dims)
        return 0, *zeros, *self.mix(codes, alpha, beta, None, 0, *zeros)

    def extend(self, pool, more, names=None):
        """Adds images to pick from."""
        captions = markup.numbers(len(pool.images) + 1, len(more), names)
        pool = markup.Pool(
            np.concatenate([pool.images, more]), [*pool.captions, *captions]
        )
        choices = gr.Dropdown(choices=list(range(1, len(pool.images) + 1)))
        return pool, markup.of_pool(pool), choices, choices

    def upload(self, pool, paths):
        """Adds the images of files, as the model sees them, to pick from."""
        read, names = [pool.images[:0]], []
        for path in paths:
            name = os.path.basename(path)
            try:
                image = self._read(path, self._model.image_shape)
            except UserError as error:  # the others may be good
                gr.Warning(f"{name} cannot be read: {error}")
            else:
                read.append(image[np.newaxis])
                names.append(name)
        return *self.extend(pool, np.concatenate(read), names), None

    def switch(self, pool, number):
        """A table of every z of the first images with every v."""
        first = pool.images[: int(number)]
        return markup.matrix(first, markup.all_pairs(self._model, first))

    def sample(self, number, temperature, seed, label):
        """Samples."""
        labels = None
        if self._model.needs_labels and label >= 0:
            labels = [int(label)] * int(number)
        samples = self._model.sample(int(number), temperature, int(seed), labels)
        return samples, markup.numbered(samples, "sample", large=True)
