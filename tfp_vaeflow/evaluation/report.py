"""The whole evaluation of one model: everything that `evaluation.json` holds."""

from collections.abc import Callable

from tfp_vaeflow import data
from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Splits
from tfp_vaeflow.evaluation.measure import Drawing, NotMeasuredError, Subject
from tfp_vaeflow.evaluation.measures import MEASURES
from tfp_vaeflow.model import VAEFlow


def evaluate(
    model: VAEFlow,
    splits: Splits,
    split_name: str,
    config: EvaluationConfig,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Measures a model on one split.

    Args:
      model: a trained model.
      splits: the model's data; probes are fit on the training part.
      split_name: `train`, `validation` or `test`.
      config: numbers of samples and sizes.
      say: called with the name of each thing that is being measured.

    Returns:
      What `evaluation.json` holds: `split`, `num_images`, `num_samples`, `parameters`,
      and the keys of all measures (see their `result`). A key is None where its measure
      needs a z, labels, more images or other data that are missing. Standard errors
      of a single image are None too. `notes` gives the reasons by the measures' names.
      Measures that learn from labels use only the images whose classes the training
      part has.

    Raises:
      UserError: if the other data set or the feature network cannot be used, or a
        class-conditional model has no class for an image.
    """
    split = splits.part(split_name)
    data.check_labels(split, model.config, split_name)
    subject = Subject(model, splits.train, split, config, say)
    for measure in MEASURES:
        measure.check(subject)
    result, notes = {}, {}
    for measure in MEASURES:
        result |= dict.fromkeys(measure.result.__annotations__)
        try:
            result |= measure.run(subject)
        except NotMeasuredError as error:
            notes[measure.name] = str(error)
    return {
        "split": split_name,
        "num_images": split.num_images,
        "num_samples": config.num_samples,
        "parameters": model.parameter_counts()["total"],
        **result,
        "notes": notes,
    }


def draw(drawing: Drawing) -> dict[str, str]:
    """Draws all figures that an evaluation has; gives captions by file name."""
    captions = {}
    for measure in MEASURES:
        captions |= measure.figures(drawing)
    return captions
