"""Measures a model: python -m tfp_vaeflow.evaluate --model_dir=DIR

Bits/dim of the ELBO and of the importance-weighted bound, how z is used, what probes
read off z and v, whether a switch carries the class over (decoupling), whether z is
about the content, how far samples are from real images (KID, FID), and, with
--other_data, how well other images are told apart. Prints a table, and writes it with
figures to DIR/evaluation.md and all numbers to DIR/evaluation.json; TensorBoard shows
the table too. Each call replaces these two files; DIR/evaluation/SPLIT-step-N keeps
those of each split and step, and the classifier, for --classifier.
"""

from absl import flags

from tfp_vaeflow import command

command.define_model_dir("Directory of a trained model.")
command.define_bindings()
flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "The images to measure on."
)
command.define_checkpoint()
flags.DEFINE_list(
    "only",
    None,
    "Measures to take, such as bound,probes; figures of others of the same step stay. "
    "By default all: bound, usage, probes, samples, fidelity, decoupling, content, "
    "by_class, novelty.",
)
flags.DEFINE_integer("num_samples", None, "Short for EvaluationConfig.num_samples.")
command.define_path("data_dir", "Short for DataConfig.data_dir.")
command.define_path("other_data", "Short for EvaluationConfig.other_data.")
command.define_path("feature_network", "Short for EvaluationConfig.feature_network.")
command.define_path("classifier", "Short for EvaluationConfig.classifier.")


def _former(path: str) -> dict:
    """The evaluation in a file; empty if there is none that others can be added to."""
    import json

    from tfp_vaeflow.common import files

    if not files.exists(path):
        return {}
    try:
        found = json.loads(files.read_text(path))
    except ValueError:
        return {}
    return found if "measures" in found else {}


def main() -> None:
    import json
    import os

    from tfp_vaeflow import data
    from tfp_vaeflow.common import classes, files, metrics_file
    from tfp_vaeflow.common.progress import watched
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.evaluation import page, report
    from tfp_vaeflow.evaluation.measure import Drawing
    from tfp_vaeflow.model import checkpoints
    from tfp_vaeflow.training import summaries

    flag = command.FLAGS
    bindings = command.bindings_with(
        {
            "num_samples": "EvaluationConfig.num_samples",
            "data_dir": "DataConfig.data_dir",
            "other_data": "EvaluationConfig.other_data",
            "feature_network": "EvaluationConfig.feature_network",
            "classifier": "EvaluationConfig.classifier",
        }
    )
    config = experiment.load_saved(flag.model_dir, bindings)
    order = classes.order_of(flag.model_dir)
    splits = data.load(config.data, config.model, order)
    model, step = checkpoints.load_with_step(flag.model_dir, flag.checkpoint)

    def say(line):
        print(f"measuring {line}", flush=True)

    directory = flag.model_dir
    folder = page.folder(flag.split, step)
    kept = os.path.join(directory, folder)
    with data.reading():
        measured = report.evaluate(
            model,
            splits,
            flag.split,
            config.evaluation,
            say=say,
            only=flag.only,
            watch=watched,
            horizontal_flip=config.data.horizontal_flip,
            folder=kept,
        )
    source = files.printable(config.data.data_dir or config.data.name)
    result = {"step": step, "data": source, **measured}
    former = {}
    if flag.only is not None:
        former = _former(os.path.join(kept, "evaluation.json"))
    data_of = former.get("data", source), former.get("num_images")
    if former and data_of == (source, result["num_images"]):
        result = report.merged(former, result)
    elif former:
        print(
            "the figures of other measures are left out, because they are of "
            f"{data_of[1]} images of {data_of[0]}"
        )
    text = page.table(result)
    print(f"\n{text}\n", flush=True)
    with data.reading():
        captions = report.draw(
            Drawing(
                model,
                splits.part(flag.split),
                result,
                metrics_file.read(directory),
                kept,
                config.evaluation.batch_size,
            )
        )
    result["figures"] = captions
    numbers = json.dumps(result, indent=2, allow_nan=False) + "\n"
    name = os.path.basename(files.absolute(directory))
    title = f"Evaluation of {name} at step {step}"
    pictures = {f"{folder}/{name}": caption for name, caption in captions.items()}
    for place, figures in ((kept, captions), (directory, pictures)):
        files.write_text(os.path.join(place, "evaluation.json"), numbers)
        markdown = page.markdown(result, title, figures)
        files.write_text(os.path.join(place, "evaluation.md"), markdown)
    summaries.write_text(directory, f"evaluation/{flag.split}", text, step)
    path = os.path.join(directory, "evaluation.md")
    print(f"written to {path}, evaluation.json and {folder}/")


if __name__ == "__main__":
    command.run_main(main, __doc__)
