"""How fast an exported model is: python tools/benchmark_export.py --model_dir=DIR

Times decode and encode in one process and by turns, so that a machine whose speed
changes favours none: the Python API against the exported model, and the graph of the
signature before and after folding. Takes a trained model, or the architecture of an
experiment with random weights (--gin_file).
"""

import functools
import statistics
import tempfile
import time
from pathlib import Path

from absl import flags

from tfp_vaeflow import command

flags.DEFINE_string("model_dir", None, "Directory of a trained model.")
flags.DEFINE_string("gin_file", None, "Or an experiment, for random weights.")
flags.DEFINE_multi_integer("batch_size", [1, 64], "Images at a time.")
flags.DEFINE_multi_enum(
    "signature", ["decode", "encode"], ["decode", "encode"], "What to time."
)
flags.DEFINE_integer("rounds", 50, "How often each is timed.")


def _model():
    from tfp_vaeflow import checkpoints, experiment
    from tfp_vaeflow.errors import UserError
    from tfp_vaeflow.model import build_model

    flag = command.FLAGS
    if (flag.model_dir is None) == (flag.gin_file is None):
        raise UserError("expected --model_dir or --gin_file, and not both")
    if flag.model_dir is not None:
        return checkpoints.load(flag.model_dir)
    model = build_model(experiment.load([flag.gin_file]).model)
    model.initialized.assign(True)
    return model


def _milliseconds(runs, rounds) -> dict[str, float]:
    """The median time of each run, all run by turns."""
    seconds = {kind: [] for kind in runs}
    for number in range(rounds + 3):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if number > 2:  # the first calls prepare the graph
                seconds[kind].append(time.perf_counter() - start)
    return {kind: 1e3 * statistics.median(times) for kind, times in seconds.items()}


def main() -> None:
    import tensorflow as tf

    from tfp_vaeflow.serving import bundle, folding
    from tfp_vaeflow.serving.signatures import Signatures
    from tfp_vaeflow.serving.warmup import example

    flag = command.FLAGS
    python, unfolded, folded = _model(), _model(), _model()
    config = python.config
    with tempfile.TemporaryDirectory() as directory:
        version = bundle.export(_model(), Path(directory) / "model")
        exported = tf.saved_model.load(str(version)).signatures
    folding.fold(folded)
    before, after = (Signatures(model, 1).all() for model in (unfolded, folded))
    calls = {"decode": ("z", "v"), "encode": ("image",)}
    for name in flag.signature:
        specs = {spec.name: spec for spec in before[name].inputs}
        graphs = [
            tf.function(
                signatures[name].function, autograph=False
            ).get_concrete_function(**specs)
            for signatures in (before, after)
        ]
        for size in flag.batch_size:
            rows = {
                key: tf.repeat(example(config, spec), size, 0)
                for key, spec in specs.items()
            }
            arguments = [rows.get(key) for key in calls[name]]
            runs = {
                "Python API": functools.partial(getattr(python, name), *arguments),
                "exported": functools.partial(exported[name], **rows),
                "unfolded graph": functools.partial(graphs[0], **rows),
                "folded graph": functools.partial(graphs[1], **rows),
            }
            times = _milliseconds(runs, flag.rounds)
            print(f"{name}, batch {size}:")
            names = list(times)
            for slow, fast in (names[:2], names[2:]):
                print(
                    f"  {slow} {times[slow]:.2f} ms, {fast} {times[fast]:.2f} ms: "
                    f"{times[slow] / times[fast]:.2f}x as fast"
                )


if __name__ == "__main__":
    command.run_main(main, __doc__)
