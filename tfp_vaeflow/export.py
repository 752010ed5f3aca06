"""Exports for TF Serving: python -m tfp_vaeflow.export --model_dir=DIR --export_dir=DIR

Writes EXPORT_DIR/VERSION, a SavedModel under the next free number. It has the average
of the weights where one was kept, and is folded for speed. The server's files go beside
it: models.config, batching.config, and signatures.md, which describes all requests.
"""

from absl import flags

from tfp_vaeflow import command

command.define_model_dir("Directory of a trained model.")
command.define_path(
    "export_dir",
    "Directory of the versions, such as serving/NAME; the server calls the model NAME.",
    required=True,
)
command.define_checkpoint()
flags.DEFINE_integer("num_samples", 1, "Samples per image in the signature `score`.")
flags.DEFINE_bool(
    "mixed_precision",
    False,
    "Compute the networks in bfloat16. It is faster on processors that have it (export "
    "on a machine like the server's), but decoded codes are then only close to the "
    "image that was encoded.",
)
flags.DEFINE_bool(
    "jit_compile",
    False,
    "Let XLA compile the flow in the server, for the batch sizes of batching.config, "
    "on a server with a GPU. This takes minutes while the server warms up.",
)


def main() -> None:
    import os

    from tfp_vaeflow.common import classes, files, typical_scores
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.serving import bundle

    flag = command.FLAGS
    model, step = checkpoints.load_with_step(flag.model_dir, flag.checkpoint)
    version = bundle.export(
        model,
        flag.export_dir,
        flag.num_samples,
        flag.mixed_precision,
        classes.read(flag.model_dir),
        flag.jit_compile,
        typical_scores.of_weights(flag.model_dir, flag.checkpoint, step),
    )
    print(f"wrote {version} ({files.total_size(version) / 1e6:.1f} MB)")
    description = os.path.join(os.path.dirname(version), "signatures.md")
    print(f"signatures and how to call them: {description}")


if __name__ == "__main__":
    command.run_main(main, __doc__)
