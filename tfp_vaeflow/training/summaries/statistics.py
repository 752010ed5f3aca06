"""Statistics of flows and posteriors on a few images; they show where flows break."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow.bijectors import ActNorm, Parametrized, total_log_det, watched
from tfp_vaeflow.model import VAEFlow

# Values per transform and image at most, evenly spread over the image.
_LOG_SCALES = 2048


def model_statistics(
    model: VAEFlow, images: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> dict[str, np.ndarray]:
    """Values to draw histograms of, from one pass of the density direction.

    The flow runs layer by layer, so that memory holds only the tensors of one layer and
    these values.

    Args:
      model: as it is now.
      images: uint8 `[B, H, W, C]`.
      labels: of the images, for a class-conditional model.
      batch_size: images at a time.

    Returns:
      For each level of the flow that has layers: `log_det/levelN` (nats, one value per
      image), `log_scale/levelN/actnorm` (one per channel) and
      `log_scale/levelN/coupling` (log-derivatives of the elementwise transforms, at
      most 2,048 per transform and image); `posterior/mean` and `posterior/stddev` where
      z has a posterior.
    """
    parts, transformed, scales = {}, {}, {}
    for level, blocks in enumerate(model.flow.levels):
        for steps, split_prior in blocks:
            for part in (*steps, *([split_prior] if split_prior else [])):
                parts[part] = level
                for layer in part.submodules:
                    if isinstance(layer, Parametrized):
                        transformed[layer] = level
                    elif isinstance(layer, ActNorm):
                        scales.setdefault(level, []).append(layer.log_scale)
    found = {}

    def add(name, values):
        found.setdefault(name, []).append(np.asarray(values))

    for level, pieces in scales.items():
        add(f"log_scale/level{level}/actnorm", np.concatenate(pieces))

    log_dets = {}

    def note_log_det(part, v, log_det_map):
        level = parts[part]
        log_det = total_log_det(log_det_map, v)
        log_dets[level] = log_dets.get(level, 0.0) + log_det

    def note_log_scale(layer, v, log_derivative):
        values = tf.reshape(log_derivative, [len(v), -1])
        values = values[:, :: -(-values.shape[1] // _LOG_SCALES)]
        add(f"log_scale/level{transformed[layer]}/coupling", np.ravel(values))

    xs, zs = model.flow_inputs(images, batch_size=batch_size, labels=labels)
    with (
        watched(list(parts), note_log_det),
        watched(list(transformed), note_log_scale, "inverse_by"),
    ):
        for first in range(0, len(images), batch_size):
            batch = slice(first, first + batch_size)
            z = None if zs is None else zs[batch]
            model.flow.inverse_and_log_det(xs[batch], z)
            for level in list(log_dets):
                add(f"log_det/level{level}", log_dets.pop(level))
    if model.encoder is not None:
        mean, stddev = model.posterior(images, batch_size)
        add("posterior/mean", mean)
        add("posterior/stddev", stddev)
    return {name: np.concatenate(values) for name, values in found.items()}
