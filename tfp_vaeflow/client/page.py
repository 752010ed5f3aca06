"""The Gradio components of the page."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr
import numpy as np

from tfp_vaeflow.client import markup
from tfp_vaeflow.client.answers import Answers
from tfp_vaeflow.client.model import Client
from tfp_vaeflow.client.transports import ServerError
from tfp_vaeflow.common.errors import UserError

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
    image: gr.State
    pictures: list[gr.HTML]  # of A, the mix, B
    maps: list[gr.HTML]
    where: list[gr.Slider]
    bars: list[gr.HTML]
    terms: gr.HTML
    toward: gr.Dropdown
    strength: gr.Slider
    offsets: list[gr.Slider]
    back: gr.Button

    @property
    def moves(self) -> list[gr.components.Component]:
        """The components that say where the mix is."""
        return [*self.where, self.toward, self.strength, *self.offsets]

    @property
    def mix(self) -> list[gr.components.Component]:
        """The components that show the mix."""
        return [self.image, self.pictures[1], *self.bars]


def build(
    model: Client,
    pictures: markup.Pictures,
    name: str,
    read: Callable[[str, tuple[int, int, int]], np.ndarray],
) -> gr.Blocks:
    """Builds the page.

    Args:
      model: behind the page.
      pictures: that the page begins with.
      name: of the model, for the title.
      read: reads an image from a file: (path, image shape) -> uint8 `[H, W, C]`; raises
        a `UserError` if it cannot.
    """
    answers = Answers(model, pictures, read)
    with gr.Blocks(title=f"{name} - tfp_vaeflow", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}")
        text = _INTRODUCTION if answers.has_z else _WITHOUT_Z
        gr.Markdown(text.format(latent_dim=model.latent_dim))
        switches = "switch" in model.methods
        if answers.has_z and not switches:
            gr.Markdown(_BY_LABEL)
        picking = _picking(answers, model.needs_labels)
        mixing = _mixing(answers, model.latent_dim)
        if switches:
            _switches(answers, picking, len(pictures.images))
        _samples(answers, picking, pictures.images[:0], model.needs_labels)
        _connect(page, answers, picking, mixing)
    return page


def _picking(answers: Answers, needs_labels: bool) -> _Picking:
    first = answers.pool()
    pool = gr.State(first)
    gr.Markdown("## Two images")
    shown = gr.HTML(markup.of_pool(first), elem_id="images")
    numbers = list(range(1, len(first.images) + 1))
    with gr.Row():
        a = gr.Dropdown(numbers, value=1, label="Image A")
        b = gr.Dropdown(numbers, value=answers.second(), label="Image B")
        classes = [
            gr.Number(
                answers.label(number), label=f"Class of {which}", visible=needs_labels
            )
            for which, number in (("A", 1), ("B", answers.second()))
        ]
    with gr.Accordion("More images, from files", open=False):
        files = gr.File(
            file_count="multiple",
            type="filepath",
            label="Pictures of any size, read as for training",
            elem_id="files",
            height=140,
        )
    return _Picking(pool, shown, a, b, classes, files)


def _mixing(answers: Answers, latent_dim: int) -> _Mixing:
    codes, image, has_classes = gr.State(), gr.State(), bool(answers.classes)
    gr.Markdown("## Between them")
    pictures, maps = [], []
    with gr.Row():
        for which in ("a", "mix", "b"):
            with gr.Column(min_width=80):
                pictures.append(gr.HTML(elem_id=which))
                maps.append(gr.HTML(elem_id=f"map-{which}", visible=answers.has_maps))
    if answers.has_maps:
        gr.Markdown(
            "Below each image is its likelihood map: dark pixels are expected, "
            "bright ones are hard to predict."
        )
    with gr.Row():
        alpha = gr.Slider(
            0, 1, 0.5, step=0.01, label="Alpha: z from A to B", visible=answers.has_z
        )
        beta = gr.Slider(0, 1, 0.5, step=0.01, label="Beta: v from A to B")
    with gr.Row(visible=has_classes):
        toward = gr.Dropdown(
            answers.classes,
            label="A class to move z towards, from all other classes",
            visible=has_classes,
        )
        label = "Strength: 1 is the distance between the means"
        strength = gr.Slider(-2, 2, 0, step=0.05, label=label, visible=has_classes)
    bars = []
    with gr.Row():
        with gr.Column(min_width=300):
            if answers.has_z:
                gr.Markdown("### z of the mix")
                bars.append(gr.HTML())
            gr.Markdown("### bits/dim of A and B")
            terms = gr.HTML(elem_id="scores")
        with gr.Column(min_width=300, visible=answers.has_z):
            offsets, back = _offsets(answers.dims, latent_dim)
    where = [alpha, beta]
    shown = pictures, maps, where, bars, terms
    return _Mixing(codes, image, *shown, toward, strength, offsets, back)


def _offsets(dims, latent_dim: int) -> tuple[list[gr.Slider], gr.Button]:
    """Sliders of entries of z; those with the least effect are folded away."""
    gr.Markdown("### Add to entries of z, the one with the most effect first")
    back = gr.Button("Set all to 0")
    count = markup.SLIDERS_IN_SIGHT

    def sliders(some):
        with gr.Row(elem_classes="vf-sliders"):
            return [
                gr.Slider(-3, 3, 0, step=0.05, label=f"z {dim + 1}", min_width=120)
                for dim in some
            ]

    made = sliders(dims[:count])
    if len(dims) > count:
        of_all = f" of {latent_dim}" if len(dims) < latent_dim else ""
        title = f"{len(dims) - count} more entries{of_all}"
        with gr.Accordion(title, open=False):
            made += sliders(dims[count:])
    return made, back


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
    map_of_mix = {
        "fn": _guarded(answers.map_of_mix),
        "inputs": [mixing.image, mixing.where[0], *picking.classes],
        "outputs": mixing.maps[1],
        "trigger_mode": "always_last",
        **_QUIET,
    }
    picked = [picking.pool, picking.a, picking.b, *picking.classes]
    choose = {
        "fn": _guarded(answers.choose),
        "inputs": [*picked, *mixing.where],
        "outputs": [
            *(mixing.codes, mixing.pictures[0], mixing.pictures[2]),
            *(*mixing.mix, mixing.strength, *mixing.offsets),
        ],
        **_QUIET,
    }
    likelihoods = {
        "fn": _guarded(answers.likelihoods),
        "inputs": picked,
        "outputs": [mixing.terms, mixing.maps[0], mixing.maps[2]],
        "trigger_mode": "always_last",
        **_QUIET,
    }
    chosen = [
        control.input(**choose) for control in (picking.a, picking.b, *picking.classes)
    ]
    chosen.append(page.load(**choose))
    changed = [event.success(**likelihoods) for event in chosen]
    changed += [
        control.input(
            _guarded(answers.mix),
            [mixing.codes, *mixing.moves],
            mixing.mix,
            trigger_mode="always_last",
            **_QUIET,
        )
        for control in mixing.moves
    ]
    changed.append(
        mixing.back.click(
            _guarded(answers.reset),
            [mixing.codes, *mixing.where],
            [mixing.strength, *mixing.offsets, *mixing.mix],
            **_QUIET,
        )
    )
    if answers.has_maps:
        for event in changed:
            event.success(**map_of_mix)
    picking.files.upload(
        _guarded(answers.upload),
        [picking.pool, picking.files],
        [*picking.images, picking.files],
        **_QUIET,
    )
