"""The whole evaluation of one model: everything that `evaluation.json` holds."""

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
      `probes` (of all classifiers), `samples`, `decoupling`, `fidelity`, `novelty`. A
      part is None where the model has no z for it, the data no labels, or nothing else
      was asked for; standard errors of a single image are.

    Raises:
      UserError: if the other data set or the feature network cannot be used.
    """
    split = splits.part(split_name)
    others = _other_split(model, config)
    network = None
    if config.feature_network:
        network = fidelity.load_network(
            config.feature_network, config.feature_pixel_range
        )
    found = None
    if model.encoder is not None:
        found = latents.posteriors(model, split, config.batch_size)
    say(f"bits/dim of {split.num_images} images")
    result = {
        "split": split_name,
        "num_images": split.num_images,
        "num_samples": config.num_samples,
        "parameters": model.parameter_counts()["total"],
        **_likelihood(model, split, config),
        "usage": None,
        **_labelled(model, splits.train, split, found, config, network, say),
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
    is_folder = data.holds_images(name)
    source = DataConfig("folder" if is_folder else name, name if is_folder else None)
    try:
        return data.load(source, model.config).part("test")
    except UserError as error:
        raise UserError(f"EvaluationConfig.other_data is {name!r}: {error}") from error


def _likelihood(model: VAEFlow, split: Split, config: EvaluationConfig) -> dict:
    size, seed = config.batch_size, config.seed
    bounds = likelihood.bounds(model, split, config.num_samples, size, seed)
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


def _labelled(model, train, split, found, config, network, say) -> dict:
    """The parts that learn from labels, or do without where they can."""
    z = None if found is None else found.mean
    size, seed = config.batch_size, config.seed
    if split.labels is not None and len(np.unique(train.labels)) < 2:
        split = Split(split.num_images, split.read, None)  # one class tells nothing
    result = dict.fromkeys(("probe", "probes", "samples", "decoupling", "fidelity"))
    classifier = None
    if split.labels is not None:
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
    if not model.config.is_class_conditional and split.num_images > 1:
        say("switches")
        result["decoupling"] = decoupling.decoupling(
            model, train, split, classifier, z, config
        )
    if network is None and classifier is not None:
        known = probes.at_most(train, config.probe_images, seed=0)
        network = fidelity.own_network(classifier, known, size)
    if network is not None:
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
    return result
