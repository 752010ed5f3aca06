"""Measures a model: python -m tfp_vaeflow.evaluate --model_dir=DIR

Prints bits/dim of the ELBO, its terms and the importance-weighted bound, how much the
decoder uses z, linear probes on the codes and a check of the samples, and writes them
to DIR/evaluation.json.
"""

from absl import flags

from tfp_vaeflow import command

command.define_model_dir("Directory of a trained model.")
command.define_bindings()
flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "The images to measure on."
)
flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Best is by validation bits/dim."
)
flags.DEFINE_integer("num_samples", None, "Short for EvaluationConfig.num_samples.")
flags.DEFINE_string("data_dir", None, "Short for DataConfig.data_dir.")


def main() -> None:
    import json
    from pathlib import Path

    from tfp_vaeflow import checkpoints, data, experiment, files
    from tfp_vaeflow.evaluation import report

    flag = command.FLAGS
    bindings = command.bindings_with(
        {
            "num_samples": "EvaluationConfig.num_samples",
            "data_dir": "DataConfig.data_dir",
        }
    )
    config = experiment.load_saved(flag.model_dir, bindings)
    splits = data.load(config.data, config.model)
    model = checkpoints.load(flag.model_dir, flag.checkpoint)
    result = {
        "step": checkpoints.step_of(flag.model_dir, flag.checkpoint),
        **report.evaluate(model, splits, flag.split, config.evaluation),
    }
    path = Path(flag.model_dir) / "evaluation.json"
    print(report.table(result), flush=True)
    files.write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    command.run_main(main, __doc__)
