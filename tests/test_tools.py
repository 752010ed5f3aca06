"""The scripts: what they say when the machine is not as they need it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """Only what setup.sh needs, with a lock of one package that does not exist."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    (tmp_path / "requirements.txt").write_text("no-such-package-anywhere==1.0\n")
    return tmp_path


def setup(checkout, **environment):
    return subprocess.run(
        ["bash", str(checkout / "tools" / "setup.sh")],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_python_that_fits(checkout):
    result = setup(checkout, PYTHON="/bin/false")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: no Python from 3.11 to 3.13 found")


def test_index_out_of_reach(checkout):
    result = setup(
        checkout,
        PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_NO_INDEX="",
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the packages could not be installed")
    assert "is the package index reachable?" in line
    assert not (checkout / ".venv" / ".requirements").exists()


def test_nothing_to_do_the_second_time(checkout):
    (checkout / "requirements.txt").write_text("# nothing\n")
    first = setup(checkout, PYTHON=sys.executable)
    assert first.returncode == 0 and "making .venv" in first.stdout
    assert setup(checkout).stdout == ""
    (checkout / "requirements.txt").write_text("# another lock\n")
    assert "making .venv" in setup(checkout, PYTHON=sys.executable).stdout


@pytest.mark.slow
def test_installed_from_a_wheel(tmp_path):
    """The package works where there is no checkout, gin files included."""
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", wheels, ROOT],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = wheels.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "-t", site, wheel],
        check=True,
        cwd=tmp_path,
    )
    assert (site / "tfp_vaeflow" / "gin" / "digits.gin").exists()
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "tfp_vaeflow.train",
            "--gin_file=gin/digits.gin",
            "--model_dir=run",
            "--num_steps=2",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()
