"""How much faster a model is folded: python tools/benchmark_export.py --model_dir=DIR

Times the signatures decode and encode before and after folding, in one process and by
turns, so that a machine whose speed changes does not favour either. Takes a trained
model, or the architecture of an experiment with random weights (--gin_file).
"""

import statistics
import time

from absl import flags

from tfp_vaeflow import command

flags.DEFINE_string("model_dir", None, "Directory of a trained model.")
flags.DEFINE_string("gin_file", None, "Or an experiment, for random weights.")
flags.DEFINE_multi_integer("batch_size", [1, 64], "Images at a time.")
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
    return build_model(experiment.load([flag.gin_file]).model)


def main() -> None:
    import tensorflow as tf

    from tfp_vaeflow.serving import folding
    from tfp_vaeflow.serving.signatures import Signatures
    from tfp_vaeflow.serving.warmup import example

    flag = command.FLAGS
    kinds = {}
    for kind in ("unfolded", "folded"):
        model = _model()
        if kind == "folded":
            folding.fold(model)
        config = model.config
        signatures = Signatures(model, 1).all()
        for name in ("decode", "encode"):
            signature = signatures[name]
            function = tf.function(signature.function, autograph=False)
            specs = {spec.name: spec for spec in signature.inputs}
            concrete = function.get_concrete_function(**specs)
            kinds[name, kind] = concrete, signature.inputs
    for size in flag.batch_size:
        for name in ("decode", "encode"):
            runs = {}
            for kind in ("unfolded", "folded"):
                concrete, specs = kinds[name, kind]
                inputs = {
                    spec.name: tf.repeat(example(config, spec), size, 0)
                    for spec in specs
                }
                runs[kind] = lambda concrete=concrete, inputs=inputs: concrete(**inputs)
            seconds = {kind: [] for kind in runs}
            for number in range(flag.rounds + 2):
                for kind, run in runs.items():
                    start = time.perf_counter()
                    run()
                    if number > 1:  # the first calls prepare the graph
                        seconds[kind].append(time.perf_counter() - start)
            before, after = (statistics.median(s) for s in seconds.values())
            print(
                f"{name}, batch {size}: {before * 1e3:.1f} ms unfolded, "
                f"{after * 1e3:.1f} ms folded, {before / after:.2f}x as fast"
            )


if __name__ == "__main__":
    command.run_main(main, __doc__)
