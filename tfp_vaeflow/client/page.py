"""The Gradio components of the page, and the functions behind them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr
import numpy as np

from tfp_vaeflow.client import markup
from tfp_vaeflow.client.model import Client
from tfp_vaeflow.client.transports import ServerError
from tfp_vaeflow.common.errors import UserError

_KINDS = [".png", ".jpg", ".jpeg", ".webp"]
_INTRODUCTION = """\
Each image has two codes. **z**, the global code, is a vector of {latent_dim} numbers. \
**v**, the local code, has one number per channel of each pixel. The two codes \
together give the image back. *Alpha* moves z from image A to image B, *beta* moves \
v."""
_WITHOUT_Z = """\
This model has no z, only a local code **v** with one number per channel of each \
pixel. \
*Beta* moves it from image A to image B."""
_BY_LABEL = """\
In this model, z depends only on the class of an image. You give the class; the model \
does not infer z from the image, so there are no switches."""
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}


class Answers:
    """Answers events of the page; methods take and return the values of components.

    Attributes:
      has_z: whether the model has a z.
      count: number of sliders for entries of z.

    Args:
      model: behind the page.
    """

    def __init__(self, model: Client):
        self._model = model
        self.has_z = model.latent_dim > 0
        self.count = markup.slider_count(model.latent_dim)

    def choose(self, images, a, b, class_a, class_b, alpha, beta):
        """Picks two images: codes, pictures, bits/dim, maps, the mix and sliders."""
        pair = images[[int(a) - 1, int(b) - 1]]
        labels = [int(class_a), int(class_b)] if self._model.needs_labels else None
        codes = markup.Codes(*self._model.encode(pair, labels))
        dims = markup.slider_dims(codes) if self.has_z else []
        sliders = [gr.Slider(value=0, label=f"z {dim + 1}") for dim in dims]
        return (
            codes,
            markup.one_picture(pair[0], "image A", "A"),
            markup.one_picture(pair[1], "image B", "B"),
            markup.scores(self._model.score(pair, labels=labels)),
            self._maps(pair, labels),
            *self.mix(codes, alpha, beta, *[0] * self.count),
            *sliders,
        )

    def _maps(self, pair, labels):
        """Where the two images are hard to predict; empty for an older server."""
        if "likelihood_map" not in self._model.methods:
            return ""
        return markup.maps(self._model.likelihood_map(pair, labels=labels))

    def mix(self, codes, alpha, beta, *offsets):
        """The mix of the two images, and its z."""
        chosen = markup.between(codes, alpha, beta)
        if self.has_z:
            chosen = markup.moved(chosen, markup.slider_dims(codes), offsets)
        image = self._model.decode(*chosen)[0]
        mixed = markup.one_picture(image, "the mix of A and B", "mix")
        return (mixed, markup.chart(chosen.z[0])) if self.has_z else (mixed,)

    def reset(self, codes, alpha, beta):
        """Sets all sliders of z to 0; returns them and the mix."""
        zeros = [0] * self.count
        return zeros + list(self.mix(codes, alpha, beta, *zeros))

    def extend(self, images, more):
        """Adds images to pick from."""
        images = np.concatenate([images, more])
        numbers = gr.Dropdown(choices=list(range(1, len(images) + 1)))
        return images, markup.numbered(images, "image"), numbers, numbers

    def upload(self, images, files):
        """Adds the images of files, as the model sees them, to pick from."""
        # The images to show do not depend on the class.
        labels = [0] if self._model.needs_labels else None
        read = [images[:0]]
        for number, file in enumerate(files, 1):
            try:
                read.append(self._model.encode_bytes([file], labels)[0])
            except ServerError as error:  # the others may be good
                gr.Warning(f"File {number} of {len(files)} cannot be read: {error}")
        return *self.extend(images, np.concatenate(read)), None

    def switch(self, images, number):
        """A table of every z of the first images with every v."""
        first = images[: int(number)]
        return markup.matrix(first, markup.all_pairs(self._model, first))

    def sample(self, number, temperature, seed, label):
        """Samples."""
        labels = None
        if self._model.needs_labels and label >= 0:
            labels = [int(label)] * int(number)
        samples = self._model.sample(int(number), temperature, int(seed), labels)
        return samples, markup.numbered(samples, "sample", large=True)


def _guarded(function: Callable) -> Callable:
    """Shows errors of the client as notes on the page."""

    @functools.wraps(function)
    def run(*args):
        try:
            return function(*args)
        except (UserError, ServerError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return run


class _Picking(NamedTuple):
    """All images, and which two are picked."""

    pool: gr.State
    shown: gr.HTML
    a: gr.Dropdown
    b: gr.Dropdown
    classes: list[gr.Number]
    files: gr.File

    @property
    def images(self) -> list[gr.components.Component]:
        """The components that change when images are added."""
        return [self.pool, self.shown, self.a, self.b]


class _Mixing(NamedTuple):
    """The components of the two images and of their mix."""

    codes: gr.State
    first: gr.HTML
    mixed: gr.HTML
    second: gr.HTML
    alpha: gr.Slider
    beta: gr.Slider
    bars: list[gr.HTML]
    terms: gr.HTML
    maps: gr.HTML
    offsets: list[gr.Slider]
    back: gr.Button | None


def build(model: Client, images: np.ndarray, name: str) -> gr.Blocks:
    """Builds the page.

    Args:
      model: behind the page.
      images: to begin with, uint8 `[N, H, W, C]`, two or more.
      name: of the model, for the title.
    """
    answers = Answers(model)
    with gr.Blocks(title=f"{name} - tfp_vaeflow", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}")
        text = _INTRODUCTION if answers.has_z else _WITHOUT_Z
        gr.Markdown(text.format(latent_dim=model.latent_dim))
        switches = "switch" in model.methods
        if answers.has_z and not switches:
            gr.Markdown(_BY_LABEL)
        picking = _picking(model, images)
        mixing = _mixing(answers, model.latent_dim)
        if switches:
            _switches(answers, picking, len(images))
        _samples(answers, picking, images[:0], model.needs_labels)
        _connect(page, answers, picking, mixing)
    return page


def _picking(model: Client, images: np.ndarray) -> _Picking:
    pool = gr.State(images)
    gr.Markdown("## Two images")
    shown = gr.HTML(markup.numbered(images, "image"), elem_id="images")
    numbers = list(range(1, len(images) + 1))
    with gr.Row():
        a = gr.Dropdown(numbers, value=1, label="Image A")
        b = gr.Dropdown(numbers, value=2, label="Image B")
        classes = [
            gr.Number(0, label=f"Class of {which}", visible=model.needs_labels)
            for which in "AB"
        ]
    with gr.Accordion("More images, from files", open=False):
        files = gr.File(
            file_count="multiple",
            file_types=_KINDS,
            type="binary",
            label="PNG, JPEG and WebP files of any size",
            elem_id="files",
            height=140,
        )
    return _Picking(pool, shown, a, b, classes, files)


def _mixing(answers: Answers, latent_dim: int) -> _Mixing:
    codes = gr.State()
    gr.Markdown("## Between them")
    with gr.Row():
        first, mixed, second = (
            gr.HTML(min_width=80, elem_id=which) for which in ("a", "mix", "b")
        )
    with gr.Row():
        alpha = gr.Slider(
            0, 1, 0.5, step=0.01, label="Alpha: z from A to B", visible=answers.has_z
        )
        beta = gr.Slider(0, 1, 0.5, step=0.01, label="Beta: v from A to B")
    bars, offsets, back = [], [], None
    with gr.Row():
        with gr.Column(min_width=300):
            if answers.has_z:
                gr.Markdown("### z of the mix")
                bars.append(gr.HTML())
            gr.Markdown("### bits/dim of A and B")
            terms = gr.HTML(elem_id="scores")
            gr.Markdown("### Likelihood maps: bright pixels are hard to predict")
            maps = gr.HTML(elem_id="maps")
        if answers.has_z:
            with gr.Column(min_width=300):
                gr.Markdown("### Add to entries of z")
                if answers.count < latent_dim:
                    gr.Markdown(f"The {answers.count} in which A and B differ most.")
                back = gr.Button("Set all to 0")
                with gr.Row(elem_classes="vf-sliders"):
                    offsets = [
                        gr.Slider(-3, 3, 0, step=0.05, label=f"z {i}", min_width=120)
                        for i in range(1, answers.count + 1)
                    ]
    shown = bars, terms, maps
    return _Mixing(codes, first, mixed, second, alpha, beta, *shown, offsets, back)


def _switches(answers: Answers, picking: _Picking, count: int) -> None:
    gr.Markdown("## Every z with every v")
    label = "How many images, from the first"
    size = gr.Slider(2, 8, min(4, count), step=1, label=label)
    make = gr.Button("Make the table")
    table = gr.HTML(elem_id="switches")
    make.click(
        _guarded(answers.switch), [picking.pool, size], table, api_visibility="private"
    )


def _samples(
    answers: Answers, picking: _Picking, none: np.ndarray, needs_labels: bool
) -> None:
    samples = gr.State(none)
    gr.Markdown("## Samples")
    with gr.Row():
        number = gr.Slider(1, 64, 16, step=1, label="How many")
        temperature = gr.Slider(
            0, 1.5, 0.7, step=0.05, label="Temperature, a factor on v"
        )
        seed = gr.Number(1, precision=0, label="Seed")
        label = gr.Number(
            -1, precision=0, label="Class (-1: any)", visible=needs_labels
        )
    sample = gr.Button("Sample")
    drawn = gr.HTML(elem_id="samples")
    keep = gr.Button("Add them to the images above")
    asked = [number, temperature, seed, label]
    sample.click(_guarded(answers.sample), asked, [samples, drawn], **_QUIET)
    keep.click(
        _guarded(answers.extend), [picking.pool, samples], picking.images, **_QUIET
    )


def _connect(page: gr.Blocks, answers: Answers, picking: _Picking, mixing: _Mixing):
    """Connects the controls to the components that they change."""
    where = [mixing.alpha, mixing.beta]
    mix = [mixing.mixed, *mixing.bars]
    choose = {
        "fn": _guarded(answers.choose),
        "inputs": [picking.pool, picking.a, picking.b, *picking.classes, *where],
        "outputs": [
            *(mixing.codes, mixing.first, mixing.second, mixing.terms, mixing.maps),
            *(*mix, *mixing.offsets),
        ],
        **_QUIET,
    }
    for control in (picking.a, picking.b, *picking.classes):
        control.input(**choose)
    page.load(**choose)
    for slider in (*where, *mixing.offsets):
        slider.input(
            _guarded(answers.mix),
            [mixing.codes, *where, *mixing.offsets],
            mix,
            trigger_mode="always_last",
            **_QUIET,
        )
    if mixing.back is not None:
        reset = [*mixing.offsets, *mix]
        mixing.back.click(
            _guarded(answers.reset), [mixing.codes, *where], reset, **_QUIET
        )
    picking.files.upload(
        _guarded(answers.upload),
        [picking.pool, picking.files],
        [*picking.images, picking.files],
        **_QUIET,
    )
