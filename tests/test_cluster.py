"""Real clusters of two workers on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from testing import digest

ROOT = Path(__file__).parents[1]
BINDINGS = [
    "FlowConfig.num_steps=[0,[1],1]",
    "FlowConfig.hidden=[4,4,4]",
    "EncoderConfig.planes=[4]",
    "EncoderConfig.out_planes=2",
    "ModelConfig.latent_dim=4",
    "PriorConfig.hidden=4",
    "OptimizerConfig.ema_decay=0.9",
    "TrainingConfig.batch_size=32",
    "TrainingConfig.initialization_images=64",
    "TrainingConfig.log_every=1",
    "TrainingConfig.evaluate_every=10",
    "TrainingConfig.checkpoint_every=10",
]


def arguments(model_dir, steps, images_every=0):
    return [
        "--gin_file=gin/digits.gin",
        f"--model_dir={model_dir}",
        f"--num_steps={steps}",
        *(f"--gin_bindings={binding}" for binding in BINDINGS),
        f"--gin_bindings=TrainingConfig.images_every={images_every}",
    ]


class Run:
    """A command whose lines are read as they come; killed with all it started.

    Args:
      words: the command, after the interpreter.
      scratch: its directory for temporary files.
    """

    def __init__(self, *words, scratch):
        scratch.mkdir(exist_ok=True)
        self.lines, self.workers = [], {}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, text):
        """Reads up to a line with this text."""
        for line in self.process.stdout:
            self.lines.append(line)
            words = line.split()
            if words[1:2] == ["process"]:
                self.workers[int(words[0][1:-1])] = int(words[2])
            if text in line:
                return
        pytest.fail(f"{text!r} did not come: {self.said()}")

    def said(self):
        return "".join(self.lines)

    def end(self):
        """The exit code."""
        self.lines += self.process.communicate(timeout=200)[0].splitlines(True)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        for number in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.communicate()


def cluster(model_dir, steps, *flags, images_every=0):
    words = arguments(model_dir, steps, images_every)
    launch = ["tools/launch_local.py", "--workers=2", *flags, "--", *words]
    return Run(*launch, scratch=model_dir.with_name(f"{model_dir.name}-tmp"))


def losses(model_dir, split):
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if r["split"] == split]
    return [[r["step"], *(v for k, v in r.items() if "/" in k)] for r in records]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """20 steps of two workers, undisturbed, with pictures."""
    model_dir = tmp_path_factory.mktemp("cluster") / "run"
    with cluster(model_dir, 20, images_every=20) as run:
        assert run.end() == 0, run.said()
    return model_dir, run


@pytest.mark.slow
def test_two_workers_are_as_one(whole_run, tmp_path):
    """Losses in training and validation; only the chief's files and words remain."""
    model_dir, run = whole_run
    alone = arguments(tmp_path / "alone", 20)
    words = "-m", "tfp_vaeflow.train", "--strategy=one_device", *alone
    with Run(*words, scratch=tmp_path / "tmp") as one:
        assert one.end() == 0, one.said()
    for split, count in (("train", 20), ("eval", 2)):
        found = losses(model_dir, split)
        assert len(found) == count
        expected = losses(tmp_path / "alone", split)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert {p.name for p in model_dir.glob("checkpoints/**/*.index")} == {
        "step-10.index",
        "step-20.index",
    }
    assert len(list((model_dir / "images").iterdir())) == 8
    assert not list(model_dir.with_name("run-tmp").glob("tfp_vaeflow-*"))
    # TensorFlow may say that the chief has ended first.
    others = [line for line in run.lines if line.startswith("[1]")]
    assert "waits for the others" in others[1]
    assert not [line for line in others if "bits/dim" in line or "trained" in line]


@pytest.mark.slow
def test_sigterm_to_one_worker_stops_all(tmp_path):
    with cluster(tmp_path / "run", 100_000, "--restarts=0") as run:
        run.until("step 3/")
        os.kill(run.workers[1], signal.SIGTERM)
        assert run.end() == 42, run.said()
    assert "workers ended with 0: 42, 1: 42" in run.said()
    assert "stopped and saved at step" in run.said()
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.index"))) == 1
    assert not list((tmp_path / "run-tmp").glob("tfp_vaeflow-*"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker(whole_run, tmp_path, victim):
    """All are started again, and end with the bits of an undisturbed run."""
    with cluster(tmp_path / "run", 20) as run:
        run.until("step 13/")
        os.kill(run.workers[victim], signal.SIGKILL)
        run.until(f"[{1 - victim}] a worker was lost: start all workers again")
        run.until("resumed from step 10")
        assert run.end() == 0, run.said()
    last = "checkpoints/step-20"
    assert digest(tmp_path / "run" / last) == digest(whole_run[0] / last)


@pytest.mark.slow
def test_a_cluster_of_slurm_variables(whole_run, tmp_path):
    """It trains as one of TF_CONFIG does."""
    model_dir = tmp_path / "run"
    environment = {
        **os.environ,
        "SLURM_JOB_ID": str(os.getpid()),  # its ports go by this
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tfp_vaeflow.train", *arguments(model_dir, 20)],
            cwd=ROOT,
            env={**environment, "SLURM_PROCID": str(index)},
            stdout=subprocess.DEVNULL,
        )
        for index in range(2)
    ]
    try:
        assert [process.wait(200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    last = "checkpoints/step-20"
    assert digest(model_dir / last) == digest(whole_run[0] / last)
