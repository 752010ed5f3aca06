"""The whole evaluation of one model: a dictionary, and the table that shows it."""

from tfp_vaeflow.config import EvaluationConfig
from tfp_vaeflow.data import Splits
from tfp_vaeflow.evaluation import likelihood, probes
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.objective import bits_per_dim, nats_per_bit_dim


def evaluate(
    model: VAEFlow, splits: Splits, split_name: str, config: EvaluationConfig
) -> dict:
    """Measures a model on one split.

    Args:
      model: a trained model.
      splits: its data; probes are fit on the training part.
      split_name: `train`, `validation` or `test`.
      config: numbers of samples and sizes.

    Returns:
      What `evaluation.json` holds: `split`, `num_images`, `num_samples`,
      `bits_per_dim` (of the mean ELBO) and its `standard_error` over images,
      `iw_bits_per_dim` (importance-weighted bound, the same samples) and its
      `iw_standard_error`, `terms` (bits/dim), `kl_nats`, `shuffled_z_gap_nats`,
      `prior_z_gap_nats` and `zeros_z_gap_nats` (None without z), `exactly_decoded`
      (images), and, where there are labels, `probe` (accuracies) and `samples`.
    """
    split = splits.part(split_name)
    size, seed = config.batch_size, config.seed
    bounds = likelihood.bounds(model, split, config.num_samples, size, seed)
    terms = likelihood.bits_per_dim_report(model, bounds.losses)
    scale = nats_per_bit_dim(model.config)
    gaps = dict.fromkeys(likelihood.OTHER_CODES)
    if model.encoder is not None:
        gaps = likelihood.z_gaps(model, split, size, seed)
    result = {
        "split": split_name,
        "num_images": split.num_images,
        "num_samples": config.num_samples,
        "bits_per_dim": terms.pop("total"),
        "standard_error": bounds.standard_error / scale,
        "iw_bits_per_dim": bits_per_dim(bounds.importance_weighted, model.config),
        "iw_standard_error": bounds.importance_weighted_standard_error / scale,
        "kl_nats": float(bounds.losses.kl),
        "terms": terms,
        **{f"{name}_z_gap_nats": gap for name, gap in gaps.items()},
        "exactly_decoded": likelihood.exactly_decoded(model, split, size),
        "probe": None,
        "samples": None,
    }
    if split.labels is not None:
        result["probe"] = probes.linear_probes(model, splits.train, split, size)
        result["samples"] = {
            "num_images": config.generated_images,
            "temperature": config.temperature,
            **probes.sample_check(
                model,
                splits.train,
                config.generated_images,
                config.temperature,
                seed,
                size,
            ),
        }
    return result


def _with_error(value: float, error: float) -> str:
    return f"{value:.4f} ± {error:.4f}"


def table(result: dict) -> str:
    """The evaluation as lines of text, one figure each."""
    rows = [
        ("bits/dim", _with_error(result["bits_per_dim"], result["standard_error"])),
        *((f"  {name}", f"{value:.4f}") for name, value in result["terms"].items()),
        (
            "bits/dim, importance-weighted",
            _with_error(result["iw_bits_per_dim"], result["iw_standard_error"]),
        ),
        ("KL, nats", f"{result['kl_nats']:.2f}"),
    ]
    for name, title in (
        ("shuffled", "-log p(x|z) with another's z, nats more"),
        ("prior", "  with z of the prior"),
        ("zeros", "  with z = 0"),
    ):
        if result[f"{name}_z_gap_nats"] is not None:
            rows.append((title, f"{result[f'{name}_z_gap_nats']:.2f}"))
    exact = f"{result['exactly_decoded']} of {result['num_images']}"
    rows.append(("decoded exactly", exact))
    for name, accuracy in (result["probe"] or {}).items():
        rows.append((f"linear probe on {name}", f"{accuracy:.1%}"))
    if result["samples"] is not None:
        samples = result["samples"]
        title = f"{samples['num_images']} samples at temperature"
        title = f"{title} {samples['temperature']}"
        rows.append((title, f"top probability {samples['mean_top_probability']:.3f}"))
        rows.append(("  rarest class", f"{samples['min_class_share']:.1%}"))
        if "label_agreement" in samples:
            rows.append(
                ("  of the class asked for", f"{samples['label_agreement']:.1%}")
            )
    head = (
        f"{result['split']} split: {result['num_images']} images, "
        f"{result['num_samples']} samples of (z, u) each"
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"{name:<{width}}  {value}" for name, value in rows)])
