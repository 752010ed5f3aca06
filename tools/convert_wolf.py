"""Converts a model of the reference implementation: tools/convert_wolf.py --source=DIR

Reads `config.json` and `model.pt` (or a `checkpoint*.tar` of its training) as
github.com/XuezheMax/wolf writes them. This needs no PyTorch and runs no code from these
files. Writes a model directory that every command takes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

command.define_path("source", "Directory with config.json.", required=True)
command.define_path("output", "The model directory to write.", required=True)
command.define_path(
    "weights",
    "File with the weights; default: model.pt in --source, or else the checkpoint*.tar "
    "of the highest step there.",
)
flags.DEFINE_integer("n_bits", 8, "Bits a channel; the reference's files do not say.")
flags.DEFINE_string(
    "image_size",
    None,
    "Pixels a side, or HEIGHTxWIDTH; the reference's files do not say. Default: what "
    "the encoder fits, or without one the size that its levels take to 4x4.",
)
command.define_path(
    "gin_file",
    "Experiment whose data and training settings go with the model.",
    default="gin/base.gin",
)


def _weights_file(source: Path) -> Path:
    from tfp_vaeflow.common.errors import UserError

    if command.FLAGS.weights:
        return Path(command.FLAGS.weights)
    if (source / "model.pt").exists():
        return source / "model.pt"

    def step(path):
        digits = path.stem.removeprefix("checkpoint")
        return int(digits) if digits.isdigit() else -1

    found = max(source.glob("checkpoint*.tar"), key=step, default=None)
    if found is None:
        raise UserError(
            f"{source} has neither model.pt nor checkpoint*.tar; name the file with "
            "--weights"
        )
    return found


def _image_size(text: str | None) -> tuple[int, int] | None:
    from tfp_vaeflow.common.errors import UserError

    if text is None:
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise UserError(f"--image_size is {text!r}; expected 64 or 64x48, say")
    return int(sides[0]), int(sides[-1])


def _round_trip(model) -> str:
    """The error of a random image that is encoded and decoded again, as text."""
    import numpy as np
    import tensorflow as tf

    config = model.config
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *config.image_shape)).astype(np.uint8)
    labels = [0] if config.is_class_conditional else None
    z, v = model.encode(image, u=0.0, labels=labels)
    x = model.flow.forward_and_log_det(v, z)[0]
    error = float(tf.reduce_max(tf.abs(x - model.noise_free(image))))
    half_bin = 1 / config.n_bins
    return f"{error:.2e} (half a level is {half_bin:.2e})"


def main() -> None:
    import tensorflow as tf

    from tfp_vaeflow import reference
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.training import Trainer
    from tfp_vaeflow.training.devices import locked

    flag = command.FLAGS
    source, output = Path(flag.source), Path(flag.output)
    if not 1 <= flag.n_bits <= 8:
        raise UserError(f"--n_bits is {flag.n_bits}; expected 1 to 8")
    if experiment.is_saved(output):
        raise UserError(f"{output} holds a model already; name another --output")
    size = _image_size(flag.image_size)
    config = reference.read_config(source / "config.json", size, 2**flag.n_bits)
    path = _weights_file(source)
    tensors = reference.read_state_dict(path)
    bindings = experiment.model_bindings(config)
    if flag.gin_file == flag["gin_file"].default:
        bindings.append("DataConfig.name = 'folder'")
    settings = experiment.load([flag.gin_file], bindings)
    # With a fresh optimizer, so that training can go on from here.
    trainer = Trainer(settings, tf.distribute.get_strategy())
    ignored = reference.assign(trainer.model, tensors)
    trainer.start_average()
    height, width, _ = config.image_shape
    print(f"{path}: {len(tensors) - len(ignored)} tensors, each used once")
    for suffix in reference.IGNORED:
        count = sum(name.endswith(suffix) for name in ignored)
        print(f"left out, for they are no parameters: {count} *{suffix}")
    print(f"images of {height}x{width} at {flag.n_bits} bits (--image_size, --n_bits)")
    for part, count in trainer.model.parameter_counts().items():
        print(f"{part + ' parameters':<28}{count:>14,}")
    print(f"largest round-trip error on a random image: {_round_trip(trainer.model)}")
    with locked(output):
        checkpoints.CheckpointKeeper(output, 1, trainer.state).save(0)
        checkpoints.write_description(output, config)
        experiment.save(output)
    print(f"wrote {output}; to measure it on images of yours:")
    print(
        f"  python -m tfp_vaeflow.evaluate --model_dir={output} --data_dir=DIR "
        "--split=test"
    )


if __name__ == "__main__":
    command.run_main(main, __doc__)
