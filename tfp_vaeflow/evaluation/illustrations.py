"""The figures of an evaluation, each a PNG."""

import os

from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfp_vaeflow import figures, plots
from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.latents import posteriors
from tfp_vaeflow.evaluation.probes import at_most
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.objective import Losses

_MAP_IMAGES = 1000
_MATRIX_SIDE = 8
_LARGEST_PERPLEXITY = 30


def draw(
    model: VAEFlow,
    split: Split,
    result: dict,
    records: list[dict],
    folder: str,
    batch_size: int,
) -> dict[str, str]:
    """Draws all figures that a model and its evaluation have.

    Args:
      model: a trained model.
      split: the images that it was measured on.
      result: what `report.evaluate` returned.
      records: of the run's metrics; may be empty.
      folder: takes the PNG files.
      batch_size: images at a time.

    Returns:
      Captions by file name.
    """

    def path_of(name):
        return os.path.join(folder, name)

    captions = {}
    if any("bits_per_dim/total" in record for record in records):
        names = [f"bits_per_dim/{term}" for term in ("total", "generation")]
        plots.learning_curves(path_of("terms.png"), records, names, "bits/dim")
        captions["terms.png"] = "Bits/dim of the ELBO and its generation term by epoch"
        small = [f"nats/{term}" for term in Losses._fields[1:]]
        plots.learning_curves(path_of("kl.png"), records, small, "nats")
        captions["kl.png"] = "KL and dequantization terms by epoch"
    if result["usage"] is not None:
        heights = sorted(result["usage"]["kl_by_dimension"], reverse=True)
        plots.bars(path_of("z_dimensions.png"), heights, "dimension of z", "KL, nats")
        captions["z_dimensions.png"] = (
            "KL of the posterior to the Gaussian of its aggregate, by dimension of z, "
            "largest first"
        )
    if result["fidelity"] is not None:
        _draw_sweep(path_of("temperature.png"), result["fidelity"])
        captions["temperature.png"] = "Distance of samples from real images"
    if model.encoder is not None and split.num_images > 3:
        _draw_map(path_of("z_map.png"), model, split, batch_size)
        captions["z_map.png"] = "z of the images (t-SNE of the posterior means)"
        if split.labels is not None:
            captions["z_map.png"] += ", coloured by label"
        matrix = figures.switch_matrix(model, split.first(2 * _MATRIX_SIDE), batch_size)
        figures.write_png(path_of("switch_matrix.png"), matrix)
        captions["switch_matrix.png"] = (
            "Rows: z of the image at the left; columns: v of the image at the top"
        )
    return captions


def _draw_sweep(path: str, found: dict) -> None:
    measure = found["measure"]
    points = [
        (
            row["temperature"],
            row[measure],
            row["kid_stddev"] if measure == "kid" else 0.0,
        )
        for row in found["by_temperature"]
    ]
    level = found["floor"][measure]
    name = "training images"
    plots.curve_with_error(path, points, level, name, "temperature", measure.upper())


def _draw_map(path: str, model: VAEFlow, split: Split, batch_size: int) -> None:
    shown = at_most(split, _MAP_IMAGES, seed=0)
    z = posteriors(model, shown, batch_size).mean
    perplexity = min(_LARGEST_PERPLEXITY, (len(z) - 1) / 3)
    # Its threads wait for one another in a loop: on a busy machine that takes minutes.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, random_state=0).fit_transform(z)
    plots.scatter(path, points, shown.labels, shown.name_of)
