"""How well likelihood maps find a patch that does not belong to a picture.

    python tools/benchmark_maps.py --model_dir=runs/digits

A patch of noise, or of another picture, is pasted into each test picture. The score of
a pixel is minus its value in the likelihood map; beside it, the square of v there. The
table has the mean over pictures of the area under the ROC curve of these scores, for
the patch's pixels against the others (0.5: no better than a guess; 1: every pixel of
the patch scores higher than all others).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

command.define_model_dir("Directory of a trained model.")
flags.DEFINE_multi_integer(
    "size", [2, 3, 4], "Height and width of the patch; may be given several times."
)
flags.DEFINE_integer("num_images", 360, "Number of test pictures.")
flags.DEFINE_integer("num_samples", 4, "Samples per picture.")
flags.DEFINE_integer("seed", 0, "Seed of patches and samples.")


def pasted(images, kind: str, size: int, seed: int):
    """Images with a patch each, and the mask of the patches, `[N, H, W]`.

    Args:
      images: uint8 `[N, H, W, C]`.
      kind: `noise` (pixels drawn from the values of all images) or `another` (the same
        place of another image, turned by 180 degrees).
      size: height and width of the patch.
      seed: of places and noise.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    made, mask = images.copy(), np.zeros(images.shape[:3], bool)
    others = np.roll(images[:, ::-1, ::-1], 1, axis=0)
    for number, image in enumerate(made):
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        place = slice(top, top + size), slice(left, left + size)
        patch = others[number][place]
        if kind == "noise":
            patch = rng.choice(images.ravel(), patch.shape)
        image[place] = patch
        mask[number][place] = True
    return made, mask


def main() -> None:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from tfp_vaeflow import data
    from tfp_vaeflow.common import classes
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.model import checkpoints

    flag = command.FLAGS
    config = experiment.load_saved(flag.model_dir)
    order = classes.order_of(flag.model_dir)
    images = data.load(config.data, config.model, order).test.first(flag.num_images)
    model = checkpoints.load(flag.model_dir)

    def area(scores, mask):
        pairs = zip(mask.reshape(len(mask), -1), scores.reshape(len(mask), -1))
        return np.mean([roc_auc_score(*pair) for pair in pairs])

    print("| patch | likelihood map | square of v |\n|---|---|---|")
    for kind in ("noise", "another"):
        for size in flag.size:
            made, mask = pasted(images, kind, size, flag.seed)
            maps = model.likelihood_map(made, flag.num_samples, flag.seed).numpy()
            squares = np.sum(model.encode(made)[1].numpy() ** 2, -1)
            what = "noise" if kind == "noise" else "another picture"
            found = area(-maps, mask), area(squares, mask)
            print(f"| {what}, {size}x{size} | {found[0]:.3f} | {found[1]:.3f} |")


if __name__ == "__main__":
    command.run_main(main, __doc__)
