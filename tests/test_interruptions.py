"""Training that is killed, again and again, and still ends with the same bits."""

import os
import random
import signal
from pathlib import Path

import pytest
import tensorflow as tf

from testing import digest, start_server

ROOT = Path(__file__).parents[1]
LAST = "step-60"
# Where in a save a process is killed, `nursery.py` says which moments there are: parts
# written, but not joined; joined, but not yet the latest; the latest, older ones there.
MOMENTS = ("saving parts", "saving data", "saving state")


class Nursery:
    """Starts runs and kills them."""

    def __init__(self):
        self._process = start_server("nursery.py")

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def train(self, model_dir, kill_at=None, after=0):
        """Trains; kills at the line that begins with `kill_at` after some steps.

        Returns:
          Whether it was killed, and what it printed.
        """
        self._process.stdin.write(f"{model_dir}\n")
        self._process.stdin.flush()
        lines, steps, child = [], 0, None
        for line in self._process.stdout:
            lines.append(line)
            words = line.split()
            if words[0] == "process":
                child = int(words[1])
            elif words[0] == "ended":
                status = int(words[1])
                break
            elif line.startswith("step ") and "/" in words[1]:
                steps += 1
            if kill_at and steps >= after and line.startswith(kill_at):
                os.kill(child, signal.SIGKILL)
                kill_at = None
        assert status in (0, signal.SIGKILL), lines
        return status == signal.SIGKILL, "".join(lines)


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("undisturbed")
    nursery.train(model_dir)
    return digest(model_dir / "checkpoints" / LAST)


def assert_all_readable(directory):
    for index in directory.rglob("step-*.index"):
        reader = tf.train.load_checkpoint(str(index.with_suffix("")))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)


def disturb(nursery, model_dir, plan):
    """Kills a run at each point of the plan, then lets it end; its digest."""
    for moment, after in plan:
        killed, said = nursery.train(model_dir, moment, after)
        assert killed, said
        assert_all_readable(model_dir / "checkpoints")
    killed, said = nursery.train(model_dir)
    assert not killed and "resumed from step " in said
    return digest(model_dir / "checkpoints" / LAST)


@pytest.mark.slow
def test_killed_inside_saves(nursery, undisturbed, tmp_path):
    # The first save of a run is of step 5.
    plan = [(moment, 5) for moment in MOMENTS]
    assert disturb(nursery, tmp_path, plan) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_ten_times(nursery, undisturbed, tmp_path, seed):
    """Five times inside a save, five times wherever it may be."""
    rng = random.Random(seed)
    moments = [*MOMENTS, *rng.choices(MOMENTS, k=2), *["step "] * 5]
    rng.shuffle(moments)
    plan = [(moment, rng.randint(1, 5)) for moment in moments]
    assert disturb(nursery, tmp_path, plan) == undisturbed
