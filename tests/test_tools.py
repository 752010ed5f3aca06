"""The scripts: what they say when the machine is not as they need it."""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
from absl.flags import FLAGS
from PIL import Image

from tfp_vaeflow import config as cfg
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import folder as data
from tfp_vaeflow.data import load

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
    empty = tmp_path / "empty"
    empty.mkdir()
    for command, *arguments in (
        ["train", "--gin_file=gin/digits.gin", "--num_steps=2"],
        ["evaluate", "--num_samples=1"],
        ["synthesize", "--mode=sample", "--num_images=4"],
    ):
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                f"tfp_vaeflow.{command}",
                "--model_dir=run",
                *arguments,
            ],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert (empty / "run" / "evaluation.json").exists()
    assert (empty / "run" / "synthesis" / "samples_t0.7.png").exists()


def png(color: int, size=(12, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (color, 0, 255 - color)).save(file, "PNG")
    return file.getvalue()


def webp(color: int) -> bytes:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png(color)))
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def prepare(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "prepare_images.py"), *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_lsun_is_prepared_from_its_database(tmp_path):
    """A stand-in for LSUN's archives: a LMDB of WebP files, here with a damaged one."""
    source, output = tmp_path / "bedroom_train_lmdb", tmp_path / "bedroom"
    with (
        lmdb.open(str(source), map_size=2**20) as database,
        database.begin(write=True) as transaction,
    ):
        for number in range(5):
            transaction.put(f"key{number}".encode(), webp(50 * number))
        transaction.put(b"key5", b"no image")
    arguments = [f"--source={source}", f"--output={output}", "--size=4"]
    done = prepare(*arguments, "--part=test")
    assert done.returncode == 0, done.stderr
    assert "cannot be read: key5: is no JPEG" in done.stdout
    assert f"{output}/test: 5 images made, 0 were there, 1 cannot" in done.stdout
    assert sorted(path.name for path in (output / "test").iterdir()) == [
        f"key{number}.png" for number in range(5)
    ]
    with Image.open(output / "test" / "key3.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 4, 3)
    assert (pixels == [150, 0, 105]).all()


@pytest.fixture(scope="module")
def targets():
    """Where tools/prepare_images.py writes the images of a source."""
    tool = runpy.run_path(str(ROOT / "tools" / "prepare_images.py"), run_name="tool")
    for name in ("source", "output", "size", "part"):
        delattr(FLAGS, name)

    def run(*names, part=None):
        return {name: str(path) for name, path in tool["_targets"](names, part).items()}

    return run


def test_prepared_images_keep_their_folders_and_names(targets):
    """Classes stay, and no image is written over another."""
    assert targets("a/0.jpg", "a/1.PNG", part="test") == {
        "a/0.jpg": "test/0.png",
        "a/1.PNG": "test/1.png",
    }
    names = ["x/cat/a.jpg", "x/cat/a.png", "x/cat/A.webp", "x/cat/a.jpg.png"]
    names += ["x/dog/a.jpg", "x/dog/deep/v1.2", "x/dog/../../../b.gif"]
    found = targets(*names)
    assert len({path.casefold() for path in found.values()}) == len(names)
    assert found["x/cat/a.jpg"] == "train/cat/a.jpg.png"
    assert found["x/dog/a.jpg"] == "train/dog/a.png"
    assert found["x/dog/deep/v1.2"] == "train/dog/deep/v1.2.png"
    assert found["x/dog/../../../b.gif"] == "train/dog/b.png"


def test_prepared_images_keep_their_parts(targets):
    assert targets("Train/cat/0.jpg", "val/0.jpg", "notes/0.jpg", "0.jpg") == {
        "Train/cat/0.jpg": "train/cat/0.png",
        "val/0.jpg": "validation/0.png",
    }
    with pytest.raises(UserError, match="leave out --part"):
        targets("train/0.jpg", "test/0.jpg", part="test")
    assert set(targets("val/0.jpg", "test/1.jpg").values()) == {
        "train/val/0.png",
        "train/test/1.png",
    }


@pytest.mark.slow
def test_images_are_prepared_from_folders_and_archives(tmp_path):
    """A stand-in for CelebAMask-HQ, as a folder and packed."""
    names = ["CelebA-HQ-img/0.png", "CelebA-HQ-img/1.png", "more/1.png"]
    names += ["more/1.jpg", "__MACOSX/more/._1.png", "more/.1.png"]
    for color, name in enumerate(names):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(color))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "folder" / name, name)
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder", "images")
    for source in ("folder", "images.zip", "images.tar.gz"):
        output = tmp_path / f"from {source}"
        arguments = [f"--source={tmp_path / source}", f"--output={output}", "--size=8"]
        assert "4 images made, 0 were there, 0 cannot" in prepare(*arguments).stdout
        written = sorted(path for path in output.rglob("*") if path.is_file())
        assert [str(path.relative_to(output)) for path in written] == [
            "train/CelebA-HQ-img/0.png",
            "train/CelebA-HQ-img/1.png",
            "train/more/1.jpg.png",
            "train/more/1.png.png",
        ]
        written[0].unlink()
        assert "1 images made, 3 were there, 0 cannot" in prepare(*arguments).stdout
        splits = data.load_folder(
            cfg.DataConfig("folder", data_dir=str(output)), (8, 8, 3)
        )
        assert sum(split.num_images for split in splits) == 4
        assert set(splits.train.class_names) == {"CelebA-HQ-img", "more"}
    for name in ("images.zip", "images.tar.gz"):
        path = tmp_path / f"cut-{name}"
        path.write_bytes((tmp_path / name).read_bytes()[:-200])
        done = prepare(f"--source={path}", f"--output={tmp_path / 'y'}", "--size=8")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    (tmp_path / "nothing").mkdir()
    done = prepare(
        f"--source={tmp_path / 'nothing'}", f"--output={tmp_path / 'x'}", "--size=8"
    )
    assert done.returncode == 2 and "holds no image that can be read" in done.stderr


def tool(name, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_compare_runs(tmp_path):
    """From the two files alone; what a run lacks is a dash."""
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        lines = [
            {
                "step": step,
                "split": split,
                "bits_per_dim/total": 3.0 - step / 100 - number,
                "images_per_second": 100.0 + step,
                "peak_memory_mib": 1000.0 + step,
            }
            for step in (10, 20, 30)
            for split in ("train", "eval")
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4'
        (tmp_path / name / "metrics.jsonl").write_text(text)
    result = {
        "step": 30,
        "split": "test",
        "bits_per_dim": 2.5,
        "iw_bits_per_dim": 2.25,
        "kl_nats": 13.125,
        "parameters": 1234,
        "probe": {"z": 0.75, "v": 0.5},
        "decoupling": {"classifier": {"score": 0.5}},
    }
    (tmp_path / "two" / "evaluation.json").write_text(json.dumps(result))
    found = tool("compare_runs", "one", "two", "--output=out", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    _, one, two, _ = found.stdout.splitlines()
    assert one.split() == ["one", "30", *"-" * 7, "120", "-", "1030"]
    expected = "two 30 test 2.5000 2.2500 13.12 75.0% 50.0% +0.500 120 1,234 1030"
    assert two.split() == expected.split()
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.width > 300
    assert "| 2.5000 | 2.2500 |" in (tmp_path / "out" / "comparison.md").read_text()
    (tmp_path / "none").mkdir()
    found = tool("compare_runs", "none", cwd=tmp_path)
    assert found.returncode == 1 and "expected a model directory" in found.stderr


def test_write_folder(tmp_path):
    """What is written is what the folder loader reads again."""
    found = tool("write_folder", "--data=digits", f"--output={tmp_path}", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    flow = cfg.FlowConfig([0, 1], [4, 4])
    model = cfg.ModelConfig((8, 8, 1), n_bins=17, flow=flow, latent_dim=0)
    splits = [
        load(settings, model)
        for settings in (
            cfg.DataConfig("digits", validation_fraction=0.0),
            cfg.DataConfig("folder", str(tmp_path), validation_fraction=0.0),
        )
    ]
    for part in ("train", "test"):
        one, other = (getattr(split, part) for split in splits)
        assert one.num_images == other.num_images
        bags = [
            sorted(
                (label, image.tobytes())
                for image, label in zip(s.first(2000), s.labels)
            )
            for s in (one, other)
        ]
        assert bags[0] == bags[1]
    wrong = tool("write_folder", "--data=nothing", "--output=x", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "error: DataConfig.name is 'nothing'" in wrong.stderr


def run_tool(name: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / name, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


TINY = [
    "FlowConfig.num_steps=[0,[1],1]",
    "FlowConfig.hidden=[8,8,8]",
    "EncoderConfig.planes=[4]",
    "TrainingConfig.initialization_images=32",
]


@pytest.mark.slow
def test_benchmark(tmp_path):
    """Of a tiny model: the figures and what they are compared with."""
    done = run_tool(
        "benchmark.py",
        "--gin_file=gin/digits.gin",
        "--batch_size=16",
        "--steps=2",
        f"--output={tmp_path / 'a.json'}",
        *(f"--gin_bindings={binding}" for binding in TINY),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["settings"]["batch_size"] == 16
    for name in ("train", "density", "encode", "sample"):
        assert found[f"{name}_images_per_s"] > 0
    assert 0 < found["utilisation"] < 1
    rate, flops = found["train_images_per_s"], found["flops_per_image"]
    product = max(found["product_flops_per_s"])
    assert found["utilisation"] == pytest.approx(rate * flops / product)
    assert found["seconds_to_first_step"] > found["seconds_to_initialize"] > 0
    found["utilisation"] *= 2
    found["peak_memory_mb"] *= 2
    (tmp_path / "b.json").write_text(json.dumps(found))
    both = tmp_path / "a.json", tmp_path / "b.json"
    done = run_tool("benchmark.py", "--compare", *both)
    lines = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}
    assert lines["utilisation"] == "2.00" and lines["peak_memory_mb"] == "0.50"
    assert lines["encode_images_per_s"] == "1.00"


TAKES_TURNS = """
import json, pathlib, sys, time
print("ready")
sys.stdin.readline()
begun = time.monotonic()
time.sleep(0.3)
figures = json.dumps({"begun": begun, "over": time.monotonic()})
pathlib.Path(sys.argv[1].removeprefix("--output=")).write_text(figures)
"""


def test_rows_take_turns(tmp_path):
    """One at a time; one that is never warm is waited for by nobody, and ended."""
    tool = runpy.run_path(str(ROOT / "tools" / "timed_rows.py"))
    scripts = [TAKES_TURNS] * 3 + ["import time; time.sleep(60)", "1 / 0"]
    rows = [
        tool["Memory"](str(number), ["-c", script], tmp_path / str(number))
        for number, script in enumerate(scripts)
    ]
    tool["take_turns"](rows, time.monotonic() + 8)
    *warm, slow, wrong = rows
    spans = sorted((row.found["begun"], row.found["over"]) for row in warm)
    for (_, over), (begun, _) in zip(spans, spans[1:]):
        assert begun >= over
    assert not any(row.error for row in warm)
    assert slow.error.startswith("not done after") and slow.ended
    assert wrong.error == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_benchmark_gpu(tmp_path):
    """All of its rows, here on a CPU."""
    done = run_tool(
        "benchmark_gpu.py",
        "--gin_file=gin/digits.gin",
        *("--batch_size", 16, 32),
        *("--large_gin_file=gin/digits.gin", "--large_batch_size=4"),
        *("--log_every=5", "--steps=2", "--limit=1000"),
        "--xla_flags=--xla_cpu_enable_fast_math=false",
        f"--output={tmp_path / 'found.json'}",
        *(f"--gin_bindings={binding}" for binding in TINY),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())
    assert not [row for row in rows if row["error"]]
    assert sum("xla_cpu_enable_fast_math" in row["row"] for row in rows) == 1
    for row in rows:
        kind = row["row"].split(",")[0]
        if kind in ("train", "memory"):
            assert row["train_images_per_s"] > 0
        if kind == "memory" and "float32" in row["row"]:
            assert row["exact"] == 1
    operations = next(row for row in rows if row["row"].startswith("count"))
    assert 100 < operations["compiled"] < operations["graph"]
    cold, warm = (row["seconds"] for row in rows if row["row"].startswith("start"))
    assert 0 < warm < cold


def test_benchmark_memory_wants_sizes_that_an_image_can_grow_by(tmp_path):
    done = run_tool("benchmark_memory.py", "--times", 4, 8, f"--output={tmp_path}")
    assert done.returncode == 2 and not any(tmp_path.iterdir())
    assert "[4, 8]; expected squares" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_benchmark_memory(tmp_path):
    """A tiny model at 4 times the depth, images and pixels; images take more."""
    done = run_tool(
        "benchmark_memory.py",
        "--gin_file=gin/digits.gin",
        *(f"--gin_bindings={binding}" for binding in TINY),
        "--gin_bindings=TrainingConfig.batch_size=2000",
        "--times=4",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "memory.json").read_text())
    sizes = {
        (record["what"], record["times"], record["recompute"]): record["peak_memory_mb"]
        for record in records
    }
    assert len(sizes) == 12
    for recompute in (False, True):
        assert sizes["batch", 4, recompute] > sizes["batch", 1, recompute] + 30 > 100
    table = (tmp_path / "memory.md").read_text().splitlines()
    kept, computed = sizes["batch", 4, False], sizes["batch", 4, True]
    assert f"| batch | 4 | {kept:,.0f} | {computed:,.0f} |" in table
    assert Image.open(tmp_path / "memory.png").width > 300


def test_benchmark_peers_wants_sizes_that_all_can_have():
    """Before anything is measured."""
    for flag, complaint in (
        ("--steps_per_level=6", "expected a multiple of 4"),
        ("--image_size=12", "expected a multiple of 8"),
        ("--batch_size=1", "expected at least 2"),
        ("--levels=0", "expected at least 1"),
        ("--python=no/python", "an environment that has normflows"),
    ):
        done = run_tool("benchmark_peers.py", flag)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {flag.partition('=')[0]} is ")
        assert complaint in line
    done = run_tool("benchmark_peers.py", "--help")
    assert done.returncode == 0 and "--steps_per_level" in done.stdout


@pytest.mark.slow
def test_benchmark_peers(tmp_path):
    """Ours and TFP's, of a tiny size; normflows is left out where it is not there."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    done = run_tool(
        "benchmark_peers.py",
        "--image_size=8",
        "--levels=2",
        "--steps_per_level=4",
        "--hidden=16",
        "--batch_size=4",
        "--repeats=2",
        f"--python={python}",
        f"--output={tmp_path / 'peers.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert f"left out: {python} has no module 'normflows'" in done.stdout
    found = json.loads((tmp_path / "peers.json").read_text())
    assert found["settings"]["hidden"] == 16
    ours, theirs = found["libraries"]["tfp_vaeflow"], found["libraries"]["tfb.Glow"]
    assert len(found["libraries"]) == 2 and ours.keys() == theirs.keys()
    for figures in (ours, theirs):
        assert figures.pop("versions")["tensorflow"]
        assert all(0 < value < np.inf for value in figures.values())
        flops = figures["train_images_per_s"] * figures["flops_per_image"]
        assert figures["train_gflops_per_s"] == pytest.approx(flops / 1e9)
    for name in ("parameters", "flops_per_image"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.2)
