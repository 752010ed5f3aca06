"""Makes pictures: python -m tfp_vaeflow.synthesize --model_dir=DIR --mode=MODE

Modes: sample (from the model, one file per temperature), reconstruct (encode and
decode; originals beside their reconstructions), interpolate (two images; z changes from
top to bottom, v from left to right), switch (2x2 cells: originals on one diagonal, with
exchanged global codes on the other), attribute (one row per original; z moves along the
direction from the images of --from to those of --toward, a strength per column). The
originals are images of the chosen split, or --images.
"""

import functools

from absl import flags

from tfp_vaeflow import command

command.define_model_dir("Directory of a trained model.")
command.define_bindings()
flags.DEFINE_enum(
    "mode",
    "sample",
    ["sample", "reconstruct", "interpolate", "switch", "attribute"],
    "What to make.",
)
command.define_path("output_dir", "Where to write; default: DIR/synthesis.")
flags.DEFINE_integer("num_images", 64, "Number of samples, or of original images.")
flags.DEFINE_integer("columns", 8, "Pictures per row.")
flags.DEFINE_multi_float(
    "temperature",
    [0.7, 1.0],
    "Factor on the v of samples; may be given several times.",
)
flags.DEFINE_multi_string(
    "label",
    None,
    "Class of the samples of a class-conditional model, by its name or its number; "
    "several are taken in turn. Default: drawn from the prior.",
)
flags.DEFINE_integer(
    "grid_size", 7, "Number of positions along z and along v of an interpolation."
)
command.define_path_list("images", "Files to take as originals: a.jpg,b.jpg.")
command.define_path(
    "toward", "Class, by name or number, or folder to move to in mode attribute."
)
command.define_path(
    "from", "Class or folder to move from; by default all other images."
)
flags.DEFINE_multi_float(
    "strength",
    [-0.5, 0.0, 0.5, 1.0, 1.5],
    "Factor on the direction in mode attribute; may be given several times.",
)
flags.DEFINE_integer("seed", 0, "Seed of all random draws.")
flags.DEFINE_enum(
    "split",
    "validation",
    ["train", "validation", "test"],
    "The data that originals come from.",
)
command.define_checkpoint()
command.define_path("data_dir", "Short for DataConfig.data_dir.")


_GROUP = 1000  # images that a direction is computed from, at most


@functools.cache
def _split(config):
    """The split that the flags name, loaded once."""
    from tfp_vaeflow import data
    from tfp_vaeflow.common import classes

    flag = command.FLAGS
    order = classes.order_of(flag.model_dir)
    split = data.load(config.data, config.model, order).part(flag.split)
    data.check_labels(split, config.model, flag.split)
    return split


def _decoded(paths, config):
    """The pictures in files."""
    import numpy as np

    from tfp_vaeflow.common import files
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.data.pictures import decode, fault

    found = []
    for path in paths:
        try:
            found.append(decode(path, config.model.image_shape))
        except Exception as error:  # Pillow raises all kinds
            raise UserError(
                f"{files.printable(path)} cannot be read: {fault(error)}"
            ) from error
    return np.stack(found)


def _originals(config, even: bool):
    """The images of the flags, or the first ones of the split, and their labels."""
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    labels = None
    if flag.images:
        if config.model.is_class_conditional:
            raise UserError(
                "--images is given, but this model needs the labels of images; leave "
                "it out"
            )
        images = _decoded(flag.images, config)
    else:
        split = _split(config)
        images = split.first(flag.num_images)
        if config.model.is_class_conditional:
            labels = split.labels[: len(images)]
    if even and len(images) < 2:
        raise UserError(f"{flag.mode} needs two originals; got {len(images)}")
    if even:
        images = images[: len(images) // 2 * 2]
        labels = None if labels is None else labels[: len(images)]
    return images, labels


def _two_originals(config):
    """Two images of the flags; of the split, the first two of different classes."""
    import numpy as np

    from tfp_vaeflow.common import classes

    flag = command.FLAGS
    images = _originals(config, even=True)[0]
    labels = None if flag.images else _split(config).labels
    if labels is not None:
        pair = np.array([0, classes.first_of_another(labels)])
        images = _split(config).read(pair).numpy()
    return images[0], images[1]


def _group(name: str, given: str, config):
    """Images of a class of the split, or of a folder; and which of the split they are.

    Args:
      name: of the flag.
      given: its value.
      config: the experiment.
    """
    import numpy as np

    from tfp_vaeflow import data
    from tfp_vaeflow.common import classes, files
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if files.is_dir(given):
        found = data.find_pictures(given)
        for line in found.left_out.lines():
            print(line, flush=True)
        if not found.paths:
            raise UserError(f"--{name}={given} has no pictures that can be read")
        order = np.random.default_rng(0).permutation(len(found.paths))[:_GROUP]
        return _decoded([found.paths[number] for number in order], config), None
    split = _split(config)
    if split.labels is None:
        raise UserError(
            f"--{name} is {given}; expected a folder: the data has no labels"
        )
    count = int(split.labels.max()) + 1
    label = classes.label_of(given, classes.read(flag.model_dir), count)
    chosen = split.labels == label
    if not chosen.any():
        raise UserError(f"the {flag.split} images have none of class {given}")
    return split.some(chosen, _GROUP), chosen


def _direction(model, config, batch_size: int):
    """The direction of --toward and --from."""
    import numpy as np

    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if flag.toward is None:
        raise UserError("--mode=attribute needs --toward, a class or a folder")
    images, chosen = _group("toward", flag.toward, config)
    if flag["from"].value is not None:
        others, _ = _group("from", flag["from"].value, config)
    else:
        split = _split(config)
        left = np.ones(split.num_images, bool) if chosen is None else ~chosen
        if not left.any():
            raise UserError("there are no other images; expected --from, a folder")
        others = split.some(left, _GROUP)
    return model.direction(images, others, batch_size)


def _labels(config):
    """The labels of the samples, from the flag `label`; None without the flag."""
    import numpy as np

    from tfp_vaeflow.common import classes
    from tfp_vaeflow.common.errors import UserError

    flag = command.FLAGS
    if flag.label is None:
        return None
    if not config.is_class_conditional:
        raise UserError(
            f"--label is {', '.join(flag.label)}, but this model is not "
            "class-conditional (PriorConfig.kind); leave it out"
        )
    names = classes.read(flag.model_dir)
    count = config.prior.num_classes
    found = [classes.label_of(name, names, count) for name in flag.label]
    return np.resize(found, flag.num_images)


def _sample(model, config):
    """Samples, a picture per temperature."""
    from tfp_vaeflow.evaluation import figures

    flag = command.FLAGS
    labels = _labels(model.config)
    for temperature in flag.temperature:
        images = model.sample(
            flag.num_images,
            temperature,
            flag.seed,
            config.evaluation.batch_size,
            labels,
        ).numpy()
        yield (
            f"samples_t{temperature:g}",
            figures.described(
                figures.grid(images, flag.columns),
                f"samples at temperature {temperature:g}",
            ),
        )


def _reconstruct(model, config):
    """Originals and what decoding gives."""
    import numpy as np

    from tfp_vaeflow.evaluation import figures

    flag = command.FLAGS
    images, labels = _originals(config, even=False)
    back = model.reconstruct(images, flag.seed, config.evaluation.batch_size, labels)
    pairs = np.stack([images, back.numpy()], 1).reshape(-1, *images.shape[1:])
    per_row = max(1, min(flag.columns // 2, len(images)))
    yield (
        "reconstructions",
        figures.described(
            figures.grid(pairs, 2 * per_row),
            "originals, and what decoding their codes gives",
            ["original", "decoded"] * per_row,
        ),
    )


def _interpolate(model, config):
    """Images between two originals."""
    import numpy as np

    from tfp_vaeflow.evaluation import figures

    size = command.FLAGS.grid_size
    a, b = _two_originals(config)
    positions = np.linspace(0, 1, size)
    images = model.interpolate(a, b, positions, positions, config.evaluation.batch_size)
    images = images.numpy().reshape(-1, *a.shape)
    names = ["A", *[""] * (size - 2), "B"][:size]
    yield (
        "interpolation",
        figures.described(
            figures.grid(images, size),
            "z moves from image A to image B downwards, v to the right",
            [name and f"v of {name}" for name in names],
            [name and f"z of {name}" for name in names],
        ),
    )


def _switch(model, config):
    """Pairs of originals with exchanged codes."""
    from tfp_vaeflow.evaluation import figures

    images, _ = _originals(config, even=True)
    a, b = images[0::2], images[1::2]
    switched = model.switch(a, b, config.evaluation.batch_size)
    per_row = min(command.FLAGS.columns, len(a))
    yield (
        "switches",
        figures.described(
            figures.switch_grid(a, b, *switched, per_row),
            "cells of two images A and B, with z and v exchanged",
            ["v of A", "v of B"] * per_row,
            ["z of A", "z of B"] * -(-len(a) // per_row),
        ),
    )


def _attribute(model, config):
    """Originals with z moved along a direction."""
    from tfp_vaeflow.common import files
    from tfp_vaeflow.evaluation import figures

    flag = command.FLAGS
    images, _ = _originals(config, even=False)
    direction = _direction(model, config, config.evaluation.batch_size)
    made = model.move(images, direction, flag.strength, config.evaluation.batch_size)
    made = made.numpy().reshape(-1, *images.shape[1:])
    origin, aim = (
        files.printable(given.rstrip("/").rpartition("/")[2])  # a folder's own name
        for given in (flag["from"].value or "all others", flag.toward)
    )
    yield (
        "attribute",
        figures.described(
            figures.grid(made, len(flag.strength)),
            f"z moved from {origin} to {aim} by the strength of each column, v kept",
            [f"{strength:g}" for strength in flag.strength],
        ),
    )


# Each gives the names and the pictures of its files.
_MODES = {
    "sample": _sample,
    "reconstruct": _reconstruct,
    "interpolate": _interpolate,
    "switch": _switch,
    "attribute": _attribute,
}


def main() -> None:
    import os

    from tfp_vaeflow.common.arguments import check_at_least_one
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.evaluation import figures
    from tfp_vaeflow.model import checkpoints

    flag = command.FLAGS
    for name in ("num_images", "columns", "grid_size"):
        check_at_least_one(f"--{name}", flag[name].value)
    model = checkpoints.load(flag.model_dir, flag.checkpoint)
    bindings = command.bindings_with({"data_dir": "DataConfig.data_dir"})
    config = experiment.load_saved(flag.model_dir, bindings)
    if model.encoder is None and flag.mode in ("interpolate", "switch", "attribute"):
        raise UserError(
            f"--mode={flag.mode} needs a z inferred from images; this model has none"
        )
    _labels(model.config)  # a mistake in --label, whatever the mode
    output_dir = flag.output_dir or os.path.join(flag.model_dir, "synthesis")
    for name, picture in _MODES[flag.mode](model, config):
        path = os.path.join(output_dir, f"{name}.png")
        figures.write_png(path, picture)
        print(f"wrote {path}")


if __name__ == "__main__":
    command.run_main(main, __doc__)
