"""`score`: pictures by files, folders and patterns, into a table that goes on."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from exports import build, grey_digits
from testing import random_images
from tfp_vaeflow import client
from tfp_vaeflow.client import scoring
from tfp_vaeflow.client.growing_array import GrowingArray
from tfp_vaeflow.common import typical_scores
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.serving import bundle

COUNT = 40


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model directory with typical scores, as training leaves it."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    model = build(**grey_digits())
    checkpoints.write_description(directory, model.config)
    checkpoints.CheckpointKeeper(directory, 1, {"model": model}).save(1)
    bits = np.linspace(3.0, 5.0, 101)
    typical_scores.write(directory, {"latest": typical_scores.of_bits(bits, 1)})
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures in two folders, and files that are none."""
    root = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(random_images(COUNT, (8, 8, 1))):
        figures.write_png(root / f"{number % 2}" / f"{number:02}.png", image)
    (root / "0" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (root / "0" / "notes.txt").write_text("no picture")
    (root / "0" / ".hidden.png").write_text("hidden")
    return root


def rows_of(path):
    with open(path, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_a_folder(run, model_dir, pictures, tmp_path):
    result = run(
        "score",
        f"--model_dir={model_dir}",
        f"--images={pictures}",
        "--num_samples=3",
        "--quantile=0.9",
        "--sheet=5",
        f"--codes={tmp_path / 'codes'}",
        f"--maps={tmp_path / 'maps'}",
        "--with_v",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout
    assert "1 hidden, 1 of other formats (1 .txt)" in said
    assert "1 of 41 files cannot be read" in said and "damaged.png: " in said
    rows = rows_of(tmp_path / "scores.csv")
    assert len(rows) == COUNT
    for row in rows.values():
        total = float(row["total"])
        terms = [float(row[name]) for name in ("generation", "kl", "dequantization")]
        assert sum(terms) == pytest.approx(total, abs=1e-5)
        assert float(row["typicality"]) == pytest.approx(abs(total - 4), abs=1e-5)
        assert int(row["flagged"]) == (total > 4.8)
        assert 0 < float(row["standard_error"]) < 1
        # With few samples the two bounds are close.
        bits = -float(row["log_prob"]) / (64 * np.log(2))
        assert total - 1 < bits <= total + 1e-4
    flagged = sum(int(row["flagged"]) for row in rows.values())
    assert f"scored {COUNT} pictures, {flagged} of them flagged" in said
    model = checkpoints.load(model_dir)
    paths = (tmp_path / "codes" / "paths.txt").read_text().splitlines()
    assert paths == list(rows) == sorted(paths)
    images = np.stack([figures.Image.open(path) for path in paths])[..., np.newaxis]
    z, v = model.encode(images)
    np.testing.assert_allclose(np.load(tmp_path / "codes/z.npy"), z, atol=1e-4)
    np.testing.assert_allclose(np.load(tmp_path / "codes/v.npy"), v, atol=1e-4)
    maps = np.load(tmp_path / "maps" / "likelihood_map.npy", mmap_mode="r")
    generation = np.array([float(row["generation"]) for row in rows.values()])
    constant = np.log2(17 / 2)  # of bits/dim
    bits = -maps.sum((1, 2)) / (64 * np.log(2)) + constant
    np.testing.assert_allclose(bits, generation, rtol=1e-4)
    assert figures.Image.open(tmp_path / "scores.png").mode == "RGB"


def test_a_score_depends_on_the_picture_alone(run, model_dir, pictures, tmp_path):
    given = f"--model_dir={model_dir}", "--threshold=4", f"--output={tmp_path}/a.csv"
    result = run("score", *given, f"--images={pictures}/*/*.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    one = next(pictures.glob("1/*.png"))
    shutil.copy(one, tmp_path / "copy.png")
    given = *given[:2], f"--output={tmp_path}/b.csv"
    result = run("score", *given, "--images=copy.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (row,) = rows_of(tmp_path / "b.csv").values()
    expected = rows_of(tmp_path / "a.csv")[str(one)]
    assert float(row["total"]) == pytest.approx(float(expected["total"]), abs=1e-5)
    assert row["flagged"] == expected["flagged"] and row["standard_error"] == ""


def test_goes_on_where_it_was_stopped(run, model_dir, pictures, tmp_path):
    words = (
        f"--model_dir={model_dir}",
        f"--images={pictures}",
        f"--codes={tmp_path / 'codes'}",
    )
    assert run("score", *words, cwd=tmp_path).returncode == 0
    table, z = tmp_path / "scores.csv", np.load(tmp_path / "codes" / "z.npy")
    whole = table.read_text().splitlines(keepends=True)
    # As a kill may leave it: the codes of more pictures than the table has, whose last
    # line is cut.
    table.write_text("".join(whole[:20]) + whole[20][:30])
    result = run("score", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "19 pictures are scored already" in result.stdout
    assert "scored 21 pictures" in result.stdout
    found = table.read_text().splitlines()
    assert [line.split(",")[0] for line in found] == [
        line.split(",")[0] for line in whole
    ]
    np.testing.assert_allclose(np.load(tmp_path / "codes" / "z.npy"), z, atol=1e-5)
    paths = (tmp_path / "codes" / "paths.txt").read_text().splitlines()
    assert paths == [line.split(",")[0] for line in found[1:]]
    result = run("score", *words[:2], "--maps=codes", "--output=b.csv", cwd=tmp_path)
    assert "codes holds the arrays of another table" in result.stderr
    result = run("score", *words, "--seed=1", cwd=tmp_path)
    assert result.returncode == 2
    assert "holds scores with seed = 0, and this run has 1" in result.stderr


def test_an_export_and_normal_pictures(run, model_dir, pictures, tmp_path):
    """A folder says what is normal; the scores are those of the client."""
    bundle.export(checkpoints.load(model_dir), tmp_path / "served", num_samples=1)
    result = run(
        "score",
        f"--saved_model={tmp_path / 'served'}",
        f"--images={pictures / '0'}",
        f"--normal={pictures / '1'}",
        "--quantile=0.5",
        "--by=typicality",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "scores.csv")
    assert len(rows) == COUNT // 2
    flagged = [int(row["flagged"]) for row in rows.values()]
    assert 0 < sum(flagged) < len(flagged)
    images = np.stack([figures.Image.open(path) for path in rows])[..., np.newaxis]
    remote = client.connect(tmp_path / "served")
    expected = remote.run("score", scoring.Draws().rows(images))["total"]
    found = [float(row["total"]) for row in rows.values()]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_arrays_belong_to_one_table(tmp_path):
    table, codes = tmp_path / "a.csv", tmp_path / "codes"
    scoring.check_new(table, [codes, tmp_path / "maps"])
    with pytest.raises(UserError, match="is to take the codes and the maps"):
        scoring.check_new(table, [codes, tmp_path / "x" / ".." / "codes"])
    begun = scoring.Table(str(table), {"codes": str(codes)})
    scoring.Arrays(str(codes), "encode", {"z": (3,)}, begun.done)
    scoring.check_new(table, [codes])
    with pytest.raises(UserError, match="codes holds the arrays of another table"):
        scoring.check_new(tmp_path / "b.csv", [codes])
    with pytest.raises(UserError, match="holds scores with codes = "):
        scoring.Table(str(table), {"codes": str(tmp_path / "other")})


def test_a_picture_that_was_changed_is_named(tmp_path):
    table = scoring.Table(str(tmp_path / "a.csv"), {})
    paths = [str(tmp_path / name) for name in ("one.png", "two.png", "new.png")]
    for path in paths:
        Path(path).write_bytes(b"")
    scores = {name: np.zeros(2) for name in (*scoring.TERMS, "log_prob")}
    table.add(
        scoring.Scored(paths[:2], None, scores), scoring.Limit("bits", None, None)
    )
    later = time.time() + 60
    again = scoring.Table(str(tmp_path / "a.csv"), {})
    assert again.done == paths[:2] and again.changed(paths) == 0
    for path in paths[1:]:
        os.utime(path, (later, later))
    assert again.changed(paths) == 1


def test_the_sheet_is_no_picture_to_score(pictures, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(pictures, folder)
    figures.write_png(folder / "scores.png", np.zeros((8, 8, 3), np.uint8))
    found = scoring.find([str(folder)], but=str(folder / "scores.png"))
    assert set(found) == set(scoring.find([str(folder)])) - {f"{folder}/scores.png"}


def test_typical_scores_of_another_step(model_dir, capsys):
    assert typical_scores.of_weights(model_dir, "latest", 1).step == 1
    assert typical_scores.of_weights(model_dir, "best", 1) is None
    assert not capsys.readouterr().out
    assert typical_scores.of_weights(model_dir, "latest", 3).step == 1
    said = capsys.readouterr().out
    assert "are those of step 1, and the weights those of step 3" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["--images=nowhere"], "there is no file nowhere"),
        (["--images=empty"], "empty: no files there"),
        (["--images=.", "--quantile=0.5", "--threshold=1"], "expected one of them"),
        (["--images=.", "--label=3"], "this model is not class-conditional"),
        (["--images=.", "--server=http://h"], "expected one of --model_dir"),
        (["--images=.", "--output=gs://a/b.csv"], "expected a path on this machine"),
        (["--images=.", "--output=old.csv"], "is no table of scores"),
    ],
)
def test_mistakes(run, model_dir, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.csv").write_text("a table of someone\n")
    result = run("score", f"--model_dir={model_dir}", *words, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_growing_array(tmp_path):
    path = tmp_path / "a.npy"
    array = GrowingArray(path, (2, 3), 0)
    values = np.random.default_rng(0).standard_normal((7, 2, 3)).astype(np.float32)
    for begin, end in ((0, 3), (3, 3), (3, 7)):
        array.append(values[begin:end])
        np.testing.assert_array_equal(np.load(path, mmap_mode="r"), values[:end])
    with open(path, "ab") as file:
        file.write(b"half of a row")
    GrowingArray(path, (2, 3), 5).append(values[:1])
    kept = np.concatenate([values[:5], values[:1]])
    np.testing.assert_array_equal(np.load(path), kept)
    for shape, rows in (((2, 3), 7), ((3, 2), 2)):
        with pytest.raises(UserError, match="does not have the rows of the table"):
            GrowingArray(path, shape, rows)


@pytest.mark.slow
def test_many_files_killed_twice(model_dir, tmp_path):
    """Each file once in the end, and memory that does not grow with their number."""
    root = tmp_path / "many"
    for number, image in enumerate(random_images(20_000, (8, 8, 1))):
        figures.write_png(root / f"{number % 100}" / f"{number}.png", image)
    words = [sys.executable, "-m", "tfp_vaeflow.score", f"--model_dir={model_dir}"]
    words += [f"--images={root}", f"--output={tmp_path / 's.csv'}"]
    table, peaks = tmp_path / "s.csv", []
    for least in (3_000, 9_000):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while not table.exists() or table.read_bytes().count(b"\n") < least:
            assert process.poll() is None
            time.sleep(0.1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks.append(int(status.split("VmHWM:")[1].split()[0]))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(words, check=False).returncode == 0
    paths = [row.split(",")[0] for row in table.read_text().splitlines()[1:]]
    assert len(paths) == len(set(paths)) == 20_000
    assert peaks[1] < peaks[0] + 100_000  # KiB
