"""Random folders: whatever a folder holds, it trains or ends in one line."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testing import tiny_model_config
from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig

_FOLDERS = ["cat", "dog", "1", "10", "2", "train", "Train", "TEST", "val", "valid"]
_FOLDERS += ["validation", "testing", "$a$b^{", "_x", "-n", ".hidden", "__MACOSX"]
_NAMES = ["img", "é", "a b", "caf\udce9", "new\nline", "tab\t", "100%", "'q\"", "#"]
_NAMES += [".dot", "Thumbs", "x" * 180, "日本", "a.b", "{}", "\\", "img\u200d"]
_SUFFIXES = [".png", ".jpg", ".JPEG", ".gif", ".tif", ".bmp", ".webp", "", ".txt"]
_SUFFIXES += [".db", ".heic", ".nef", ".zip"]
_MODES = {
    "PNG": ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P", "RGB"],
    "TIFF": ["1", "L", "RGB", "RGBA", "CMYK", "LAB", "I", "F", "I;16"],
    "BMP": ["1", "L", "RGB", "P"],
    "WEBP": ["RGB", "RGBA"],
}


def random_picture(rng: np.random.Generator) -> bytes:
    kind = rng.choice(list(_MODES))
    mode = str(rng.choice(_MODES[kind]))
    width, height = (int(2 ** rng.uniform(0, 6)) for _ in range(2))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert("L" if mode in "IF" else "RGB")
        image = image.convert(mode)
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with something wrong, or nothing, as it comes."""
    size = len(content)
    at = int(rng.integers(size))
    return [
        content[:at],
        content[: -int(rng.integers(1, 4))],
        content[:at] + rng.bytes(8) + content[at + 8 :],
        content[:30] + rng.bytes(size - 30),
        content[:at] + content[at + 20 :],
        rng.bytes(size),
        b"",
    ][rng.integers(7)]


def make_tree(root: Path, rng: np.random.Generator) -> None:
    """A folder of some depth, with links, of up to some 60 files."""
    folders = [root]
    root.mkdir()
    for _ in range(rng.integers(7)):
        above = folders[rng.integers(len(folders))]
        folder = above / str(rng.choice(_FOLDERS + _NAMES))
        if not os.path.lexists(folder):
            folder.mkdir()
            folders.append(folder)
    is_odd = rng.random() * rng.integers(2)
    for folder in folders:
        for number in range(rng.integers(10)):
            content = random_picture(rng)
            name, suffix = f"img{number}", ".png"
            if rng.random() < is_odd:
                content = damaged(content, rng)
            if rng.random() < is_odd:
                name = f"{rng.choice(_NAMES)}{number}"
                suffix = str(rng.choice(_SUFFIXES))
            if not os.path.lexists(folder / f"{name}{suffix}"):
                (folder / f"{name}{suffix}").write_bytes(content)
        if rng.random() < is_odd / 4:
            target = ["nowhere", "..", ".", "img0.png"][rng.integers(4)]
            os.symlink(target, folder / f"link{rng.choice(['', '.png'])}")
        if rng.random() < is_odd / 8:
            os.mkfifo(folder / f"pipe{rng.choice(['', '.png'])}")


def random_root(directory: Path, rng: np.random.Generator) -> Path:
    root = directory / str(rng.choice(["pictures", *_NAMES]))
    make_tree(root, rng)
    return root


def all_is_told(root: Path) -> None:
    """Each file is a picture, or among what is left out, itself or a folder of it."""
    paths, left_out = data.find_pictures(root)
    told = {*paths, *left_out.hidden, *left_out.helpers}
    told |= {path for path, _ in (*left_out.other_formats, *left_out.unreadable)}
    "\n".join(left_out.lines()).encode("utf-8")
    for folder, _, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in files):
            above = [path]
            while above[-1] != str(root):
                above.append(os.path.dirname(above[-1]))
            assert told & set(above), path


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
@pytest.mark.parametrize(
    "seeds",
    [range(40), pytest.param(range(40, 540), marks=pytest.mark.slow)],
    ids=["some", "many"],
)
def test_random_folders(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        directory = tmp_path / str(seed)
        directory.mkdir()
        root = random_root(directory, rng)
        config = DataConfig("folder", str(root), rng.choice([0.0, 0.1, 0.4]))
        all_is_told(root)
        try:
            splits = data.load(config, tiny_model_config())
        except UserError as error:
            assert len(str(error).splitlines()) == 1, seed
            str(error).encode("utf-8")
            continue
        for split in splits:
            split.first(split.num_images)
            assert split.labels is None or len(split.labels) == split.num_images
        loaded += 1
    capsys.readouterr().out.encode("utf-8")
    assert loaded > len(seeds) / 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_folders_through_the_commands(run, tmp_path, seed):
    """Training, and what it is measured by, end as they should or in one line."""
    rng = np.random.default_rng(seed)
    root = random_root(tmp_path, rng)
    bindings = [
        "ModelConfig.image_shape=(8,8,3)",
        "ModelConfig.latent_dim=2",
        "FlowConfig.num_steps=[1]",
        "FlowConfig.hidden=[4]",
        "FlowConfig.factors=[]",
        "EncoderConfig.planes=[4]",
        "PriorConfig.hidden=4",
        "TrainingConfig.batch_size=4",
        "TrainingConfig.initialization_images=4",
    ]
    bindings = [f"--gin_bindings={binding}" for binding in bindings]
    model = f"--model_dir={tmp_path / 'model'}"
    train = ["--gin_file=gin/folder.gin", f"--data_dir={root}", "--num_steps=1"]
    small = {"classifier_steps": 1, "generated_images": 8, "probe_seeds": 1}
    evaluate = [f"--gin_bindings=EvaluationConfig.{k}={v}" for k, v in small.items()]
    result = run(
        "train",
        *train,
        *bindings,
        model,
        cwd=tmp_path,
        then=[["evaluate", model, "--num_samples=1", *evaluate]],
    )
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode in (0, 2), result.stderr
    if result.returncode == 2:
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ")
