"""The whole evaluation of one model: everything that `evaluation.json` holds."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tfp_vaeflow import data
from tfp_vaeflow.config import DataConfig, EvaluationConfig
from tfp_vaeflow.data import Split, Splits
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.evaluation import (
    decoupling,
    fidelity,
    latents,
    likelihood,
    novelty,
    probes,
)
from tfp_vaeflow.evaluation.by_class import by_class
from tfp_vaeflow.evaluation.classifier import ImageClassifier
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.objective import bits_per_dim, nats_per_bit_dim


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
      splits: its data; probes are fit on the training part.
      split_name: `train`, `validation` or `test`.
      config: numbers of samples and sizes.
      say: told what is being measured.

    Returns:
      What `evaluation.json` holds: `split`, `num_images`, `num_samples`, `parameters`,
      `bits_per_dim` (of the mean ELBO) and its `standard_error` over images,
      `iw_bits_per_dim` (importance-weighted bound, the same samples) and its
      `iw_standard_error`, `terms` (bits/dim), `kl_nats`, `shuffled_z_gap_nats`,
      `prior_z_gap_nats` and `zeros_z_gap_nats`, `exactly_decoded` (images), and the
      parts `usage` (of z, see `latents`), `probe` (accuracies of logistic regression),
      `probes` (of all classifiers), `samples`, `decoupling`, `fidelity`, `by_class`,
      `novelty`. A part is None where the model has no z for it, the data no labels or
      too few images, or nothing else was asked for; standard errors of a single image
      are. `notes` says why, by the names of parts. What learns from labels is measured
      on the images whose classes the training part has.

    Raises:
      UserError: if the other data set or the feature network cannot be used, or a
        class-conditional model has no class for an image.
    """
    split = splits.part(split_name)
    data.check_labels(split, model.config, split_name)
    others = _other_split(model, config)
    network = None
    if config.feature_network:
        network = fidelity.load_network(
            config.feature_network,
            config.feature_pixel_range,
            config.batch_size,
            model.config.image_shape,
        )
    found = None
    if model.encoder is not None:
        found = latents.posteriors(model, split, config.batch_size)
    say(f"bits/dim of {split.num_images} images")
    bounds = likelihood.bounds(
        model, split, config.num_samples, config.batch_size, config.seed
    )
    result = {
        "split": split_name,
        "num_images": split.num_images,
        "num_samples": config.num_samples,
        "parameters": model.parameter_counts()["total"],
        **_likelihood(model, split, bounds, config),
        "usage": None,
        **_labelled(model, splits.train, split, found, config, network, say),
        "by_class": by_class(model, splits.train, split, bounds, config),
        "novelty": None,
    }
    if found is not None:
        say("the use of z")
        result["usage"] = latents.usage(model, found, config.seed)
    if others is not None:
        say(f"telling {config.other_data} from the model's own")
        result["novelty"] = novelty.novelty(
            model,
            splits.train,
            split,
            others,
            config.probe_images,
            config.batch_size,
            config.seed,
        )
    return result


def _other_split(model: VAEFlow, config: EvaluationConfig) -> Split | None:
    if config.other_data is None:
        return None
    if model.config.is_class_conditional:
        raise UserError(
            "EvaluationConfig.other_data needs log p(x), and a class-conditional model "
            "has log p(x | label) only; leave it out"
        )
    name = config.other_data
    try:
        if data.holds_images(name):
            return data.load_whole_folder(name, model.config.image_shape)
        if name.partition(":")[0] not in ("digits", "tfds"):
            raise UserError("expected a folder of pictures, 'digits' or 'tfds:NAME'")
        return data.load(DataConfig(name), model.config).part("test")
    except UserError as error:
        raise UserError(f"EvaluationConfig.other_data is {name!r}: {error}") from error


def _likelihood(
    model: VAEFlow, split: Split, bounds: likelihood.Bounds, config: EvaluationConfig
) -> dict:
    size, seed = config.batch_size, config.seed
    terms = likelihood.bits_per_dim_report(model, bounds.losses)
    scale = nats_per_bit_dim(model.config)
    gaps = dict.fromkeys(likelihood.OTHER_CODES)
    if model.encoder is not None:
        gaps = likelihood.z_gaps(model, split, size, seed)

    def error(nats):
        return None if math.isnan(nats) else nats / scale

    return {
        "bits_per_dim": terms.pop("total"),
        "standard_error": error(bounds.standard_error),
        "iw_bits_per_dim": bits_per_dim(bounds.importance_weighted, model.config),
        "iw_standard_error": error(bounds.importance_weighted_standard_error),
        "kl_nats": float(bounds.losses.kl),
        "terms": terms,
        **{f"{name}_z_gap_nats": gap for name, gap in gaps.items()},
        "exactly_decoded": likelihood.exactly_decoded(model, split, size),
    }


_NETWORK = (
    " To compare features without labels, name a network: "
    "EvaluationConfig.feature_network."
)


def _learned(train: Split, split: Split) -> tuple[np.ndarray | None, str]:
    """Which images are of classes that can be learned, and why there are none."""
    if train.labels is None or split.labels is None:
        which = "training" if train.labels is None else "measured"
        return None, f"The {which} images have no labels."
    classes = np.unique(train.labels)
    if len(classes) < 2:
        name = train.name_of(classes[0])
        return None, f"The training images are all of one class, {name}."
    chosen = np.flatnonzero(np.isin(split.labels, classes))
    if not len(chosen):
        return None, "The measured images are of classes that training lacks."
    return chosen, ""


def _labelled(model, train, split, found, config, network, say) -> dict:
    """The parts that learn from labels, or do without where they can."""
    z = None if found is None else found.mean
    size, seed = config.batch_size, config.seed
    result = dict.fromkeys(("probe", "probes", "samples", "decoupling", "fidelity"))
    chosen, reason = _learned(train, split)
    classifier = None
    if chosen is None:
        notes = {"probes": reason, "samples": reason, "fidelity": reason + _NETWORK}
        split = dataclasses.replace(split, read_labels=None)
    else:
        notes = {}
        split, z = split.subset(chosen), None if z is None else z[chosen]
        say("probes")
        result["probes"] = probes.probes(
            model, train, split, config.probe_seeds, config.probe_images, size
        )
        logistic = result["probes"]["logistic"]
        result["probe"] = {name: found["mean"] for name, found in logistic.items()}
        say("a check of the samples")
        result["samples"] = {
            "num_images": config.generated_images,
            "temperature": config.temperature,
            **probes.sample_check(
                model,
                probes.at_most(train, config.probe_images, seed=0),
                config.generated_images,
                config.temperature,
                seed,
                size,
            ),
        }
        say("a classifier of real images")
        classifier = ImageClassifier(train, config.classifier_steps, seed, size)
    if model.config.is_class_conditional:
        notes["decoupling"] = (
            "z is a function of the label: there is nothing to infer and to switch."
        )
    elif split.num_images < 2:
        notes["decoupling"] = _too_few(split.num_images, 2)
    else:
        say("switches")
        result["decoupling"] = decoupling.decoupling(
            model, train, split, classifier, z, config
        )
    if network is None and classifier is not None:
        known = probes.at_most(train, config.probe_images, seed=0)
        network = fidelity.own_network(classifier, known)
    fewest = min(train.num_images, split.num_images)
    if fewest < fidelity.LEAST_IMAGES:
        notes["fidelity"] = _too_few(fewest, fidelity.LEAST_IMAGES)
    elif network is not None:
        notes.pop("fidelity", None)
        say(f"samples at {len(config.temperatures)} temperatures")
        result["fidelity"] = fidelity.fidelity(
            model,
            train,
            split,
            network,
            config.temperatures,
            config.generated_images,
            size,
            seed,
        )
    return {**result, "notes": notes}


def _too_few(count: int, least: int) -> str:
    number = "one image" if count == 1 else f"{count} images"
    return f"Of {number} this cannot be told; it takes {least} or more."
