"""Memory: what commands do beside a step takes no more than the step."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from testing import random_images
from tfp_vaeflow.evaluation.probes import Reduction


def test_probes_make_one_copy_of_wide_rows():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (800, 8000), np.uint8)
    tracemalloc.start()
    reduce = Reduction(rows, np.arange(600))
    reduced = reduce(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reduced.shape == (800, 128) and peak < 2 * 4 * 600 * 8000


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_training_with_pictures_takes_what_it_takes_without(tmp_path):
    """At a small batch, where whole grids and sets of images would be seen."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(random_images(300, (64, 64, 3))):
        Image.fromarray(image).save(pictures / f"{number}.png")

    def peak(name, *bindings):
        words = [sys.executable, "-m", "tfp_vaeflow.train", "--num_steps=3"]
        words += ["--gin_file=gin/folder.gin", f"--data_dir={pictures}"]
        words += [f"--model_dir={tmp_path / name}"]
        bindings = ["batch_size=4", *bindings]
        words += [f"--gin_bindings=TrainingConfig.{binding}" for binding in bindings]
        said = subprocess.run(
            [sys.executable, "-c", _PEAK, *words], capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
        return float(said.stdout.split()[-1])

    few = ["initialization_images=8", "evaluation_batch_size=4", "images_every=0"]
    least = peak("least", *few)
    assert peak("most", "images_every=1") < least + 100
