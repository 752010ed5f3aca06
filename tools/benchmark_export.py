"""How fast an exported model is: python tools/benchmark_export.py --model_dir=DIR

Exports a model and prints the time that this takes, the size on disk and the time of
each signature. --compare then times pairs in one process and by turns, so that a
machine whose speed changes favours none: the Python API and the exported model, the
graph of a signature before and after folding, and density in Python and sampling by the
exported model, which evaluate the same networks. Takes a trained model, or the
architecture of an experiment with random weights (--gin_file).
"""

import functools
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

command.define_path("model_dir", "Directory of a trained model.")
command.define_path("gin_file", "Or an experiment, for random weights.")
flags.DEFINE_multi_integer("batch_size", [1, 64], "Images at a time.")
flags.DEFINE_multi_string("signature", ["sample", "encode", "decode"], "What to time.")
flags.DEFINE_bool("compare", True, "Whether to compare them.")
flags.DEFINE_integer("rounds", 50, "How often each is timed.")
flags.DEFINE_bool("mixed_precision", False, "Whether to export in mixed precision.")

_COMPARED = {"decode": ("z", "v"), "encode": ("image",)}  # with their arguments


def _model():
    import numpy as np

    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.model import build_model, checkpoints

    flag = command.FLAGS
    if (flag.model_dir is None) == (flag.gin_file is None):
        raise UserError("expected --model_dir or --gin_file, and not both")
    if flag.model_dir is not None:
        return checkpoints.load(flag.model_dir)
    model = build_model(experiment.load([flag.gin_file]).model)
    shape = (4, *model.config.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape)
    model.initialize(images.astype(np.uint8))
    return model


def _inputs(signature):
    return list(signature.structured_input_signature[1].values())


def _rows(config, specs, size):
    import tensorflow as tf

    from tfp_vaeflow.serving.warmup import example

    return {spec.name: tf.repeat(example(config, spec), size, axis=0) for spec in specs}


def _milliseconds(runs, rounds) -> dict[str, float]:
    """The median time of each run; the runs take turns."""
    seconds = {kind: [] for kind in runs}
    for number in range(rounds + 3):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if number > 2:  # the first calls prepare the graph
                seconds[kind].append(time.perf_counter() - start)
    return {kind: 1e3 * statistics.median(times) for kind, times in seconds.items()}


def _compare_graphs(names, python, exported) -> None:
    import tensorflow as tf

    from tfp_vaeflow.serving import folding
    from tfp_vaeflow.serving.signatures import Signatures

    flag = command.FLAGS
    unfolded, folded = _model(), _model()
    folding.fold(folded)
    before, after = (Signatures(model, 1).all() for model in (unfolded, folded))
    for name in names:
        inputs = before[name].inputs
        graphs = [
            tf.function(
                signatures[name].function, autograph=False
            ).get_concrete_function(**{spec.name: spec for spec in inputs})
            for signatures in (before, after)
        ]
        for size in flag.batch_size:
            rows = _rows(python.config, inputs, size)
            arguments = [rows.get(key) for key in _COMPARED[name]]
            runs = {
                "Python API": functools.partial(getattr(python, name), *arguments),
                "exported": functools.partial(exported[name], **rows),
                "unfolded graph": functools.partial(graphs[0], **rows),
                "folded graph": functools.partial(graphs[1], **rows),
            }
            print(f"{name}, batch {size}:")
            _print_ratios(_milliseconds(runs, flag.rounds))


def _compare_sampling(python, exported) -> None:
    flag = command.FLAGS
    for size in flag.batch_size:
        rows, images = (
            _rows(python.config, _inputs(exported[name]), size)
            for name in ("sample", "encode")
        )
        runs = {
            "density": functools.partial(
                python.losses, images["image"], batch_size=size
            ),
            "exported": functools.partial(exported["sample"], **rows),
        }
        print(f"sample, batch {size}:")
        _print_ratios(_milliseconds(runs, flag.rounds))


def _print_ratios(times: dict[str, float]) -> None:
    """Prints the ratio of the first two times, and that of the next two."""
    names = list(times)
    for slow, fast in zip(names[::2], names[1::2]):
        print(
            f"  {slow} {times[slow]:.2f} ms, {fast} {times[fast]:.2f} ms: "
            f"{times[slow] / times[fast]:.2f}x as fast",
            flush=True,
        )


def main() -> None:
    import tensorflow as tf

    from tfp_vaeflow.common import files
    from tfp_vaeflow.serving import bundle

    flag = command.FLAGS
    model = _model()
    config = model.config
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        version = bundle.export(
            model,
            Path(directory) / "model",
            mixed_precision=flag.mixed_precision,
        )
        seconds = time.perf_counter() - start
        size = files.total_size(version)
        print(f"exported in {seconds:.1f} s: {size / 1e6:.1f} MB", flush=True)
        start = time.perf_counter()
        loaded = tf.saved_model.load(str(version))
    print(f"loaded in {time.perf_counter() - start:.1f} s", flush=True)
    exported = loaded.signatures
    for name in flag.signature:
        specs = _inputs(exported[name])
        for size in flag.batch_size:
            run = functools.partial(exported[name], **_rows(config, specs, size))
            times = _milliseconds({name: run}, flag.rounds)
            print(f"{name}, batch {size}: {times[name]:.2f} ms", flush=True)
    if flag.compare:
        python = _model()
        names = [name for name in _COMPARED if name in flag.signature]
        if names:
            _compare_graphs(names, python, exported)
        if "sample" in flag.signature:
            _compare_sampling(python, exported)


if __name__ == "__main__":
    command.run_main(main, __doc__)
