"""What TensorBoard's events cost a run: python tools/benchmark_summaries.py

Trains the model of an experiment for some steps, then writes everything that a run
writes, three times. Prints the time of this (of the first time separately), also as a
share of the time of training at the default cadence (TrainingConfig.log_every,
images_every).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tfp_vaeflow import data
from tfp_vaeflow.common import files
from tfp_vaeflow.config import TrainingConfig, experiment
from tfp_vaeflow.training.devices import make_strategy
from tfp_vaeflow.training.step import Trainer
from tfp_vaeflow.training.summaries import RunWriter

_IMAGES, _PROJECTED = 32, 500  # as in trainer.loop


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gin_file", type=files.expand, default="gin/digits.gin")
    parser.add_argument("--data_dir", type=files.expand)
    parser.add_argument("--steps", type=int, default=100)
    flag = parser.parse_args()
    bindings = [f"DataConfig.data_dir = {flag.data_dir!r}"] if flag.data_dir else []
    config = experiment.load([flag.gin_file], bindings)
    splits = data.load(config.data, config.model)
    trainer = Trainer(config, make_strategy())
    trainer.initialize(splits.train)
    size, seed = config.training.batch_size, config.training.seed
    batches = iter(data.training_batches(splits.train, config.data, size, seed, 0))
    trainer.train_step(next(batches))
    start = time.monotonic()
    for _ in range(flag.steps):
        result = trainer.train_step(next(batches))
        float(result.gradient_norm)
    step = (time.monotonic() - start) / flag.steps
    shown = splits.test
    images = shown.first(_IMAGES)
    projected = shown.subset(np.arange(min(_PROJECTED, shown.num_images)))
    scalars = {f"value {number}": 1.0 for number in range(12)}
    with tempfile.TemporaryDirectory() as directory:
        writer = RunWriter(directory, 0)
        times = []
        for number in range(3):
            start = time.monotonic()
            writer.model(
                trainer.model, number, images, None, projected, trainer.images_at_a_time
            )
            writer.flush()
            times.append(time.monotonic() - start)
        start = time.monotonic()
        for number in range(100):
            writer.scalars("train", number, scalars)
        line = (time.monotonic() - start) / 100
        writer.close()
    default = TrainingConfig()
    again = float(np.mean(times[1:]))
    share = again / default.images_every + line / default.log_every
    print(f"a step {step:.4f} s; pictures, histograms, projector {again:.2f} s, the")
    print(f"first time {times[0]:.2f} s; a line of scalars {1000 * line:.2f} ms")
    print(
        f"every {default.images_every} and {default.log_every} steps: "
        f"{share / step:.2%} of the time of training"
    )


if __name__ == "__main__":
    main()
