"""A page to play with a model: python -m tfp_vaeflow.explore --saved_model=DIR

Loads an exported SavedModel into this process, or talks to a server (--server).
Pick two images, move z and v between them, change entries of z, exchange codes, sample.
Nothing is sent outside this machine, except requests to that server.
"""

import os
from pathlib import Path

from absl import flags

from tfp_vaeflow import command

command.define_served_model()
command.define_path(
    "pictures", "Folder of pictures to pick from; by default, samples of the model."
)
flags.DEFINE_integer("num_pictures", 12, "Number of pictures or samples to begin with.")
flags.DEFINE_string("host", "127.0.0.1", "Address that the page listens on.")
flags.DEFINE_integer(
    "port", 7860, "Port that the page listens on.", lower_bound=1, upper_bound=65535
)


def _first_images(model):
    """Images to begin with, uint8 `[N, H, W, C]`: pictures of a folder, or samples."""
    flag = command.FLAGS
    if flag.pictures is None:
        return model.sample(flag.num_pictures, temperature=0.7)
    command.start_tensorflow()  # quietly, before `data` imports it

    import numpy as np

    from tfp_vaeflow import data
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.data.pictures import decode

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


def main() -> None:
    from tfp_vaeflow import client
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if (flag.saved_model is None) == (flag.server is None):
        raise UserError("expected --saved_model or --server, and not both; see --help")
    if flag.num_pictures < 2:
        raise UserError(f"--num_pictures is {flag.num_pictures}; expected at least 2")
    address = flag.saved_model or flag.server
    if not address.startswith("http"):
        command.start_tensorflow()  # quietly, before the client imports it
    try:
        model = client.connect(address)
        images = _first_images(model)
    except client.ServerError as error:
        raise UserError(str(error)) from error
    name = flag.server.rstrip("/").split("/")[-1] if flag.server else _name(address)
    # Before the import: Gradio would ask for its latest version, and send statistics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from tfp_vaeflow.client import markup, page

    fonts = ["system-ui", "sans-serif"]  # local fonts; Gradio would download its own
    built = page.build(model, images, name)
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
