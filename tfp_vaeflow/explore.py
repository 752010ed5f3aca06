"""A page to play with a model: python -m tfp_vaeflow.explore --saved_model=DIR

Takes an exported SavedModel into this process, or talks to a server of it (--server).
Pick two images, move z and v between them, change entries of z, exchange codes, sample.
No request leaves this machine but those to the server.
"""

import functools
import os
from pathlib import Path

from absl import flags

from tfp_vaeflow import command

command.define_path("saved_model", "What export wrote, to run in this process.")
flags.DEFINE_string(
    "server",
    None,
    "Or a server: http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME.",
)
command.define_path(
    "pictures", "Folder of pictures to pick from, as for training; default: samples."
)
flags.DEFINE_integer("num_pictures", 12, "How many pictures or samples to begin with.")
flags.DEFINE_string("host", "127.0.0.1", "Where the page listens.")
flags.DEFINE_integer("port", 7860, "Likewise.", lower_bound=1, upper_bound=65535)

_KINDS = [".png", ".jpg", ".jpeg", ".webp"]
_INTRODUCTION = """\
Each image has two codes. **z**, the global code, is a vector of {latent_dim} numbers. \
**v**, the local code, has a number for every value of a pixel. Together they give the \
image back. *Alpha* moves z from image A to image B, *beta* moves v."""
_WITHOUT_Z = """\
This model has no z, only a local code **v** with a number for every value of a pixel. \
*Beta* moves it from image A to image B."""
_BY_LABEL = """\
Here z goes by the class of an image, which has to be given; it is not found from the \
image, so there are no switches."""


def _first_images(model):
    """Images to begin with, uint8 `[N, H, W, C]`: pictures of a folder, or samples."""
    flag = command.FLAGS
    if flag.pictures is None:
        return model.sample(flag.num_pictures, temperature=0.7)
    command.start_tensorflow()  # which `data` needs, and would start loudly

    import numpy as np

    from tfp_vaeflow import data
    from tfp_vaeflow.data.pictures import decode
    from tfp_vaeflow.errors import UserError

    found = data.find_pictures(flag.pictures)
    for line in found.left_out.lines():
        print(line, flush=True)
    if len(found.paths) < 2:
        raise UserError(
            f"--pictures={flag.pictures} has {len(found.paths)} pictures that can be "
            "read; expected two or more"
        )
    chosen = found.paths[: flag.num_pictures]
    return np.stack([decode(path, model.image_shape) for path in chosen])


def _read(model, files):
    """Files as the model sees them, uint8 `[N, H, W, C]`."""
    # What is shown does not go by the class.
    labels = [0] * len(files) if model.needs_labels else None
    return model.encode_bytes(files, labels)[0]


def _guarded(function):
    """Shows what the client raises as a note on the page."""
    import gradio as gr

    from tfp_vaeflow.client import ServerError
    from tfp_vaeflow.errors import UserError

    @functools.wraps(function)
    def run(*args):
        try:
            return function(*args)
        except (UserError, ServerError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return run


def build_page(model, images, name):
    """The page.

    Args:
      model: a `Client`.
      images: to begin with, uint8 `[N, H, W, C]`, two or more.
      name: of the model, for the title.

    Returns:
      `gr.Blocks`.
    """
    import gradio as gr
    import numpy as np

    from tfp_vaeflow import exploration as ex
    from tfp_vaeflow.client import ServerError

    has_z, switches = model.latent_dim > 0, "switch" in model.methods
    count = ex.slider_count(model.latent_dim)

    def choose(images, a, b, class_a, class_b, alpha, beta):
        pair = images[[int(a) - 1, int(b) - 1]]
        labels = [int(class_a), int(class_b)] if model.needs_labels else None
        codes = ex.Codes(*model.encode(pair, labels))
        dims = ex.slider_dims(codes) if has_z else []
        sliders = [gr.Slider(value=0, label=f"z {dim + 1}") for dim in dims]
        return (
            codes,
            ex.one_picture(pair[0], "image A", "A"),
            ex.one_picture(pair[1], "image B", "B"),
            ex.scores(model.score(pair, labels=labels)),
            *show(codes, alpha, beta, *[0] * count),
            *sliders,
        )

    def show(codes, alpha, beta, *offsets):
        chosen = ex.between(codes, alpha, beta)
        if has_z:
            chosen = ex.moved(chosen, ex.slider_dims(codes), offsets)
        image = model.decode(*chosen)[0]
        mixed = ex.one_picture(image, "the mix of A and B", "mix")
        return (mixed, ex.chart(chosen.z[0])) if has_z else (mixed,)

    def reset(codes, alpha, beta):
        return [0] * count + list(show(codes, alpha, beta, *[0] * count))

    def extended(images, more):
        images = np.concatenate([images, more])
        numbers = gr.Dropdown(choices=list(range(1, len(images) + 1)))
        return images, ex.numbered(images, "image"), numbers, numbers

    def upload(images, files):
        read = [images[:0]]
        for number, file in enumerate(files, 1):
            try:
                read.append(_read(model, [file]))
            except ServerError as error:  # the others may be good
                gr.Warning(f"File {number} of {len(files)} cannot be read: {error}")
        return *extended(images, np.concatenate(read)), None

    def draw(number, temperature, seed, label):
        labels = None
        if model.needs_labels and label >= 0:
            labels = [int(label)] * int(number)
        samples = model.sample(int(number), temperature, int(seed), labels)
        return samples, ex.numbered(samples, "sample", large=True)

    def switch(images, number):
        first = images[: int(number)]
        return ex.matrix(first, ex.all_pairs(model, first))

    numbers = list(range(1, len(images) + 1))
    with gr.Blocks(title=f"{name} - tfp_vaeflow", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}")
        if has_z:
            gr.Markdown(_INTRODUCTION.format(latent_dim=model.latent_dim))
        else:
            gr.Markdown(_WITHOUT_Z)
        if has_z and not switches:
            gr.Markdown(_BY_LABEL)
        pool, samples, codes = gr.State(images), gr.State(images[:0]), gr.State()

        gr.Markdown("## Two images")
        shown = gr.HTML(ex.numbered(images, "image"), elem_id="images")
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

        gr.Markdown("## Between them")
        with gr.Row():
            first, mixed, second = (
                gr.HTML(min_width=80, elem_id=which) for which in ("a", "mix", "b")
            )
        with gr.Row():
            alpha = gr.Slider(
                0, 1, 0.5, step=0.01, label="Alpha: z from A to B", visible=has_z
            )
            beta = gr.Slider(0, 1, 0.5, step=0.01, label="Beta: v from A to B")
        bars, offsets = [], []
        with gr.Row():
            with gr.Column(min_width=300):
                if has_z:
                    gr.Markdown("### z of the mix")
                    bars.append(gr.HTML())
                gr.Markdown("### bits/dim of A and B")
                terms = gr.HTML(elem_id="scores")
            if has_z:
                with gr.Column(min_width=300):
                    gr.Markdown("### Add to entries of z")
                    if count < model.latent_dim:
                        gr.Markdown(f"The {count} in which A and B differ most.")
                    back = gr.Button("Set all to 0")
                    with gr.Row(elem_classes="vf-sliders"):
                        offsets = [
                            gr.Slider(
                                -3, 3, 0, step=0.05, label=f"z {i}", min_width=120
                            )
                            for i in range(1, count + 1)
                        ]

        if switches:
            gr.Markdown("## Every z with every v")
            size = gr.Slider(
                2,
                8,
                min(4, len(images)),
                step=1,
                label="How many images, from the first",
            )
            make = gr.Button("Make the table")
            table = gr.HTML(elem_id="switches")
            make.click(_guarded(switch), [pool, size], table, api_visibility="private")

        gr.Markdown("## Samples")
        with gr.Row():
            number = gr.Slider(1, 64, 16, step=1, label="How many")
            temperature = gr.Slider(
                0, 1.5, 0.7, step=0.05, label="Temperature, a factor on v"
            )
            seed = gr.Number(1, precision=0, label="Seed")
            label = gr.Number(
                -1, precision=0, label="Class (-1: any)", visible=model.needs_labels
            )
        sample = gr.Button("Sample")
        drawn = gr.HTML(elem_id="samples")
        keep = gr.Button("Add them to the images above")

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        mixing = [mixed, *bars]
        chosen = [pool, a, b, *classes, alpha, beta]
        results = [codes, first, second, terms, *mixing, *offsets]
        for control in (a, b, *classes):
            control.input(_guarded(choose), chosen, results, **quiet)
        page.load(_guarded(choose), chosen, results, **quiet)
        for slider in (alpha, beta, *offsets):
            slider.input(
                _guarded(show),
                [codes, alpha, beta, *offsets],
                mixing,
                trigger_mode="always_last",
                **quiet,
            )
        if has_z:
            back.click(
                _guarded(reset), [codes, alpha, beta], [*offsets, *mixing], **quiet
            )
        files.upload(
            _guarded(upload), [pool, files], [pool, shown, a, b, files], **quiet
        )
        sample.click(
            _guarded(draw),
            [number, temperature, seed, label],
            [samples, drawn],
            **quiet,
        )
        keep.click(_guarded(extended), [pool, samples], [pool, shown, a, b], **quiet)
    return page


def main() -> None:
    from tfp_vaeflow import client
    from tfp_vaeflow.errors import UserError

    flag = command.FLAGS
    if (flag.saved_model is None) == (flag.server is None):
        raise UserError("expected --saved_model or --server, and not both; see --help")
    if flag.num_pictures < 2:
        raise UserError(f"--num_pictures is {flag.num_pictures}; expected at least 2")
    address = flag.saved_model or flag.server
    if not address.startswith("http"):
        command.start_tensorflow()  # the client will need it, and would do it loudly
    try:
        model = client.connect(address)
        images = _first_images(model)
    except client.ServerError as error:
        raise UserError(str(error)) from error
    name = flag.server.rstrip("/").split("/")[-1] if flag.server else _name(address)
    # Before it is imported: it would ask for its latest version, and send statistics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from tfp_vaeflow import exploration

    fonts = ["system-ui", "sans-serif"]  # of the machine; Gradio's would be fetched
    page = build_page(model, images, name)
    try:
        page.launch(
            server_name=flag.host,
            server_port=flag.port,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
            css=exploration.STYLE,
            ssr_mode=False,
        )
    except OSError as error:
        reason = str(error).partition(". ")[0]
        raise UserError(
            f"no page at {flag.host}: {reason}; name another --port"
        ) from error
    print(f"the page: http://{flag.host}:{flag.port} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def _name(directory: str) -> str:
    """A model's name by the directory of its versions, or of one of them."""
    path = Path(directory).absolute()
    return path.parent.name if path.name.isdecimal() else path.name


if __name__ == "__main__":
    command.run_main(main, __doc__, with_tensorflow=False)
