"""A page to play with a model: python -m tfp_vaeflow.explore

Without flags, it opens a model of handwritten digits that comes with the package. With
--model_dir or --saved_model it loads a model into this process; with --server it talks
to a server. Pick two images, move z and v between them, move z towards a class, change
entries of z, exchange codes, sample. Nothing is sent outside this machine, except
requests to that server.
"""

import functools
import os
from pathlib import Path

from absl import flags

from tfp_vaeflow import command

command.define_path("model_dir", "Directory of a trained model.")
command.define_checkpoint()
command.define_served_model()
command.define_path(
    "pictures",
    "Folder of pictures to pick from, laid out as for training; by default, samples.",
)
flags.DEFINE_integer("num_pictures", 20, "Number of pictures or samples to begin with.")
flags.DEFINE_string("host", "127.0.0.1", "Address that the page listens on.")
flags.DEFINE_integer(
    "port", 7860, "Port that the page listens on.", lower_bound=1, upper_bound=65535
)

_PRETRAINED = "digits"
_start_tensorflow = functools.cache(command.start_tensorflow)  # once is enough
_GROUP = 500  # images that a direction is computed from, at most


def _connect():
    """The model that the flags name, and its name."""
    from tfp_vaeflow import client
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    places = [flag.model_dir, flag.saved_model, flag.server]
    if sum(place is not None for place in places) > 1:
        raise UserError(
            "expected one of --model_dir, --saved_model and --server, or none of them "
            "for a pretrained model; see --help"
        )
    if flag.server is not None:
        if not flag.server.startswith("http"):
            _start_tensorflow()  # quietly, before the client imports it
        return client.connect(flag.server), flag.server.rstrip("/").split("/")[-1]
    _start_tensorflow()
    if flag.saved_model is not None:
        return client.connect(flag.saved_model), _name(flag.saved_model)

    from tfp_vaeflow import pretrained
    from tfp_vaeflow.client.transports import ModelTransport
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.serving import folding

    place = flag.model_dir or pretrained.directory(_PRETRAINED)
    model = checkpoints.load(place, flag.checkpoint)
    folding.fold(model)
    return client.Client(ModelTransport(model, 1, place)), _name(place)


def _pictures(model):
    """Pictures to begin with: of a folder or of a pretrained model, else samples."""
    import numpy as np

    from tfp_vaeflow.client import markup
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    is_pretrained = not (flag.model_dir or flag.saved_model or flag.server)
    if flag.pictures is None and not is_pretrained:
        return markup.Pictures(model.sample(flag.num_pictures, temperature=0.7))
    _start_tensorflow()  # quietly, before `data` imports it

    from tfp_vaeflow import data, pretrained

    if flag.pictures is None:
        split = pretrained.pictures(_PRETRAINED)
    else:
        split = data.load_whole_folder(flag.pictures, model.image_shape)
        if split.num_images < 2:
            raise UserError(f"{flag.pictures} holds one picture; expected two or more")
    if split.labels is None:
        return markup.Pictures(split.first(flag.num_pictures))
    chosen = split.in_turn()[: flag.num_pictures]
    labels = np.unique(split.labels)

    def examples(label):
        is_own = split.labels == label
        return split.some(is_own, _GROUP), split.some(~is_own, _GROUP)

    return markup.Pictures(
        split.subset(chosen).first(len(chosen)),
        split.labels[chosen],
        {int(label): split.name_of(label) for label in labels},
        examples,
    )


def _decoded(path: str, image_shape):
    """A picture in a file, read as for training."""
    _start_tensorflow()  # quietly, before `data` imports it

    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.data.pictures import decode, fault

    try:
        return decode(path, image_shape)
    except Exception as error:  # Pillow raises all kinds
        raise UserError(fault(error)) from error


def main() -> None:
    from tfp_vaeflow import client
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if flag.num_pictures < 2:
        raise UserError(f"--num_pictures is {flag.num_pictures}; expected at least 2")
    try:
        model, name = _connect()
        pictures = _pictures(model)
        # Before the import: Gradio would ask for its latest version, and send numbers.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import gradio as gr

        from tfp_vaeflow.client import markup, page

        built = page.build(model, pictures, name, _decoded)
    except client.ServerError as error:
        raise UserError(str(error)) from error
    fonts = ["system-ui", "sans-serif"]  # local fonts; Gradio would download its own
    try:
        built.launch(
            server_name=flag.host,
            server_port=flag.port,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
            css=markup.STYLE,
            ssr_mode=False,
        )
    except OSError as error:
        reason = str(error).partition(". ")[0]
        raise UserError(
            f"no page at {flag.host}: {reason}; name another --port"
        ) from error
    print(f"the page: http://{flag.host}:{flag.port} (Ctrl-C ends it)", flush=True)
    built.block_thread()


def _name(directory: str) -> str:
    """A model's name, from the directory of its versions or of one version."""
    path = Path(directory).absolute()
    return path.parent.name if path.name.isdecimal() else path.name


if __name__ == "__main__":
    command.run_main(main, __doc__, with_tensorflow=False)
