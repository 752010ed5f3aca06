"""What flows and posteriors do to a few images: where a flow breaks, it shows here."""

import numpy as np
import tensorflow as tf

from tfp_vaeflow.bijectors import ActNorm, Coupling, MaskedConv, watched
from tfp_vaeflow.model import VAEFlow


def model_statistics(
    model: VAEFlow, images: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Values to draw histograms of, from one pass of the density direction.

    Args:
      model: as it is now.
      images: uint8 `[B, H, W, C]`.
      labels: theirs, for a class-conditional model.

    Returns:
      For each level of the flow that has layers: `log_det/levelN` (nats, an image
      each), `log_scale/levelN/actnorm` (a channel each) and `log_scale/levelN/coupling`
      (log-derivatives of the elementwise transforms, a value each); `posterior/mean`
      and `posterior/stddev` where z has a posterior.
    """
    parts, transforms, scales = {}, {}, {}
    for level, blocks in enumerate(model.flow.levels):
        for steps, split_prior in blocks:
            for part in (*steps, *([split_prior] if split_prior else [])):
                parts[part] = level
                for layer in part.submodules:
                    if isinstance(layer, (Coupling, MaskedConv)):
                        transforms[layer.transform] = level
                    elif isinstance(layer, ActNorm):
                        scales.setdefault(level, []).append(layer.log_scale)
    log_dets, log_scales = {}, {}

    def note(layer, x, log_det):
        if layer in parts:
            log_dets[parts[layer]] = log_dets.get(parts[layer], 0.0) + log_det
        else:
            log_scales.setdefault(transforms[layer], []).append(np.ravel(log_det))

    with watched([*parts, *transforms], note):
        draws = model.draw_loss_noise(0, len(images), 1)
        model.losses_given_noise(images, draws, labels=labels)
    found = {f"log_det/level{level}": v.numpy() for level, v in log_dets.items()}
    for name, values in (("actnorm", scales), ("coupling", log_scales)):
        for level, pieces in values.items():
            found[f"log_scale/level{level}/{name}"] = np.concatenate(pieces)
    if model.encoder is not None:
        posterior = model.encoder(model.noise_free(tf.constant(images))).distribution
        found["posterior/mean"] = posterior.loc.numpy()
        found["posterior/stddev"] = posterior.scale.numpy()
    return found
