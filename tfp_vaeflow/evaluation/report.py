"""The whole evaluation of one model: everything that `evaluation.json` holds."""

import math
import re
from collections.abc import Callable, Sequence

from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Splits
from tfp_vaeflow.evaluation.measure import (
    Drawing,
    Measure,
    NotMeasuredError,
    Subject,
    Watch,
    unwatched,
)
from tfp_vaeflow.evaluation.measures import MEASURES
from tfp_vaeflow.model import VAEFlow

_NOT_FINITE = "Some figures are not finite: the model overflows on some images."


def evaluate(
    model: VAEFlow,
    splits: Splits,
    split_name: str,
    config: EvaluationConfig,
    say: Callable[[str], None] = lambda line: None,
    only: Sequence[str] | None = None,
    watch: Watch = unwatched,
    horizontal_flip: bool = False,
    folder: str | None = None,
) -> dict:
    """Measures a model on one split.

    Args:
      model: a trained model.
      splits: the model's data; probes are fit on the training part.
      split_name: `train`, `validation` or `test`.
      config: numbers of samples and sizes.
      say: called with the name of each thing that is being measured.
      only: names of the measures to take; None for all.
      watch: shows how far long measurements are, such as `progress.watched`.
      horizontal_flip: whether training mirrors images at random.
      folder: for files that measures write; None for no files.

    Returns:
      What `evaluation.json` holds: `split`, `num_images`, `parameters`, `measures` (the
      names of the measures that were taken), and the keys of all measures (see their
      `result`). A key is None where its measure was not taken, found a figure that is
      not finite, or needs a z, labels, more images or other data that are missing.
      Standard errors of a single image are None too. `notes` gives the reasons by the
      measures' names. Measures that learn from labels use only the images whose classes
      the training part has.

    Raises:
      UserError: if a measure is unknown, the other data set, the classifier or the
        feature network cannot be used, or a class-conditional model has no class for
        an image.
    """
    split = splits.part(split_name)
    data.check_labels(split, model.config, split_name)
    subject = Subject(
        model, splits.train, split, config, say, watch, horizontal_flip, folder
    )
    chosen = _chosen(only)
    for measure in chosen:
        measure.check(subject)
    result = dict.fromkeys(key for m in MEASURES for key in m.result.__annotations__)
    notes = {}
    for measure in chosen:
        try:
            result |= _finite(measure, subject)
        except NotMeasuredError as error:
            notes[measure.name] = str(error)
    return {
        "split": split_name,
        "num_images": split.num_images,
        "parameters": model.parameter_counts()["total"],
        "measures": [measure.name for measure in chosen],
        **result,
        "notes": notes,
    }


def _finite(measure: Measure, subject: Subject) -> dict:
    """The figures of a measure.

    Raises:
      NotMeasuredError: if one of them is not finite, or nothing can be measured.
    """
    try:
        found = measure.run(subject)
    except ValueError as error:  # of scikit-learn
        if not re.search("NaN|infinity", str(error)):
            raise
        raise NotMeasuredError(_NOT_FINITE) from error
    if not _is_finite(found):
        raise NotMeasuredError(_NOT_FINITE)
    return found


def _is_finite(found: object) -> bool:
    """Whether all numbers in nested dicts and lists are finite."""
    if isinstance(found, dict):
        return all(map(_is_finite, found.values()))
    if isinstance(found, (list, tuple)):
        return all(map(_is_finite, found))
    return not isinstance(found, float) or math.isfinite(found)


def _chosen(only: Sequence[str] | None) -> list[Measure]:
    names = [measure.name for measure in MEASURES]
    for name in only or ():
        if name not in names:
            raise UserError(
                f"there is no measure {name!r}; expected some of {', '.join(names)}"
            )
    return [m for m in MEASURES if only is None or m.name in only]


def merged(former: dict, result: dict) -> dict:
    """An evaluation of some measures, with the others as in a former evaluation.

    Both are of the same images and step.
    """
    taken = set(result["measures"])
    kept = [m for m in MEASURES if m.name in former["measures"] and m.name not in taken]
    keys = [key for measure in kept for key in measure.result.__annotations__]
    notes = {m.name: former["notes"][m.name] for m in kept if m.name in former["notes"]}
    both = taken | {measure.name for measure in kept}
    return {
        **result,
        **{key: former[key] for key in keys},
        "measures": [m.name for m in MEASURES if m.name in both],
        "notes": {**notes, **result["notes"]},
    }


def draw(drawing: Drawing) -> dict[str, str]:
    """Draws all figures of an evaluation's measures; gives captions by file name."""
    captions = {}
    for measure in _chosen(drawing.result["measures"]):
        if measure.name not in drawing.result["notes"]:
            captions |= measure.figures(drawing)
    return captions
