r"""Makes a run a pretrained model of the package.

    python tools/write_pretrained.py --run=runs/digits \
        --output=tfp_vaeflow/pretrained/digits

Writes the weights without the optimizer, what the run says of them, and test images of
all classes.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf

from tfp_vaeflow import data
from tfp_vaeflow.common import classes, files, typical_scores
from tfp_vaeflow.config import experiment
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.pretrained import PICTURES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=files.user_path)
    parser.add_argument("--output", required=True, type=files.user_path)
    parser.add_argument("--num_pictures", type=int, default=200)
    given = parser.parse_args()

    model, step = checkpoints.load_with_step(given.run)
    config = experiment.load_saved(given.run)
    test = data.load(config.data, config.model, classes.order_of(given.run)).test
    chosen = test.in_turn()[: given.num_pictures]

    (given.output / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in (checkpoints.DESCRIPTION, classes.FILE, typical_scores.FILE):
        if (source := given.run / name).exists():
            shutil.copyfile(source, given.output / name)
    weights = tf.train.Checkpoint(model=model)
    weights.write(str(given.output / "checkpoints" / f"step-{step}"))
    np.savez_compressed(
        given.output / PICTURES,
        images=test.read(tf.constant(chosen)).numpy(),
        labels=test.labels[chosen],
    )
    print(f"wrote step {step} and {len(chosen)} images to {given.output}")


if __name__ == "__main__":
    main()
