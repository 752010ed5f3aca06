"""The page of `explore`, as a person uses it: in a browser, by keyboard, on a phone."""

import base64
import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import ExifTags, Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sklearn.datasets import load_digits

from browser import needs_browser, start_browser
from exports import build, grey_digits
from tfp_vaeflow import client, command, explore
from tfp_vaeflow import config as cfg
from tfp_vaeflow.client import markup
from tfp_vaeflow.client import page as parts
from tfp_vaeflow.client.answers import Answers
from tfp_vaeflow.client.transports import ModelTransport
from tfp_vaeflow.common import colours
from tfp_vaeflow.common.errors import UserError

ROOT = Path(__file__).parents[1]
AXE = "axe-core@4.14.1"
COMMAND = [sys.executable, "-m", "tfp_vaeflow.explore"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
NUM_PICTURES = 5
BODY = (By.TAG_NAME, "body")
# Violations inside Gradio's own markup: (rule, part of the selector).
GRADIO = [
    ("label-content-name-mismatch", ".upload-container"),
    ("nested-interactive", ".toast-header"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with a picture per class, and these pictures."""
    root = tmp_path_factory.mktemp("explore")
    images = np.ceil(256 * load_digits().images[:NUM_PICTURES] / 17).astype(np.uint8)
    for digit, image in enumerate(images):
        (root / f"digit {digit}").mkdir()
        Image.fromarray(image).save(root / f"digit {digit}" / "a.png")
    return root, images[..., np.newaxis]


@pytest.fixture(scope="module")
def model():
    """The pretrained model."""
    with given():
        return explore._connect()[0]


@contextlib.contextmanager
def given(*flags):
    """Flags of `explore` in this block."""
    with flagsaver.flagsaver():
        command.FLAGS(["explore", *flags])
        yield


# What the page shows, without one.


def test_codes_between(model, digits):
    pair = digits[1][:2]
    codes = markup.Codes(*model.encode(pair))
    for position in (0, 1):
        chosen = markup.between(codes, position, position)
        np.testing.assert_array_equal(model.decode(*chosen)[0], pair[position])
    half = markup.between(codes, 0.5, 0.0)
    np.testing.assert_allclose(half.z[0], codes.z.mean(0))
    np.testing.assert_array_equal(half.v[0], codes.v[0])
    assert markup.between(codes._replace(z=None), 0.5, 0.5).z is None
    added = markup.moved(half, np.array([1]), [2.0])
    np.testing.assert_allclose((added.z - half.z)[0], 2 * np.eye(32)[1], atol=1e-6)


def test_sliders_by_their_effect(model, digits):
    codes = markup.Codes(*model.encode(digits[1][:2]))

    def effect(dim):
        less, more = (
            model.decode(codes.z + sign * np.eye(model.latent_dim)[dim], codes.v)
            for sign in (-1, 1)
        )
        return np.abs(more.astype(float) - less).mean()

    expected = sorted(range(model.latent_dim), key=effect, reverse=True)
    np.testing.assert_array_equal(markup.slider_dims(model, codes), expected)


def test_all_pairs(model, digits):
    images = digits[1][:3]
    pairs = markup.all_pairs(model, images)
    for i in range(3):
        np.testing.assert_array_equal(pairs[i, i], images[i])
    first, second = model.switch(images[:1], images[1:2])
    np.testing.assert_array_equal(pairs[0, 1], first[0])
    np.testing.assert_array_equal(pairs[1, 0], second[0])


@pytest.mark.parametrize("latent_dim", [4, 0])
def test_pages_of_other_models(latent_dim):
    """Class-conditional ones, and those without z: there is nothing to switch."""
    prior = cfg.PriorConfig("categorical", num_classes=3) if latent_dim else None
    changes = {"latent_dim": latent_dim, "prior": prior, "encoder": None}
    built = build(**{**grey_digits(), **changes})
    model = client.Client(ModelTransport(built, 1, "a model"))
    pictures = markup.Pictures(model.sample(2))
    built = parts.build(model, pictures, "tiny", explore._decoded)
    labels = [getattr(b, "label", None) for b in built.blocks.values() if b.visible]
    for label in ("Class of A", "Alpha: z from A to B"):
        assert (label in labels) == bool(latent_dim)
    assert "Beta: v from A to B" in labels
    assert "How many images, from the first" not in labels
    assert "Strength: 1 is the distance between the means" not in labels
    run = {function.name: function.fn for function in built.fns.values()}
    pool = markup.Pool(pictures.images, ["1", "2"])
    codes, *shown = run["choose"](pool, 1, 2, 0, 2, 1.0, 1.0)
    assert all("<" in text for text in shown[:2])
    assert all("<" in text for text in run["likelihoods"](pool, 1, 2, 0, 2))
    image, mixed, *_ = run["mix"](codes, 0.0, 0.0, None, 0, *[0] * latent_dim)
    np.testing.assert_array_equal(image, pictures.images[0])
    assert markup.picture(image, "the mix of A and B") in mixed
    assert "<img" in run["map_of_mix"](image, 0.0, 0, 2)


def test_a_folder_of_pictures_is_read_as_for_training(model, digits, tmp_path, capsys):
    """In any format, turned, by class; the other files are left out and said."""
    for source, name in (("0", "b/0.png"), ("1", "c/.1.png"), ("4", "c/4.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(digits[0] / f"digit {source}" / "a.png", tmp_path / name)
    grey = Image.fromarray(digits[1][2, ..., 0])
    grey.save(tmp_path / "b" / "a.webp", lossless=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    grey.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "c/b.png", exif=exif)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with given(f"--pictures={tmp_path}", "--num_pictures=4"):
        pictures = explore._pictures(model)
    assert [pictures.names[label] for label in pictures.labels] == ["b", "c", "b", "c"]
    for label, expected in ((0, {0, 2}), (1, {2, 4})):
        ours = pictures.images[pictures.labels == label]
        kinds = {int(np.flatnonzero((digits[1] == i).all((1, 2, 3)))[0]) for i in ours}
        assert kinds == expected
        for found, own in zip(pictures.examples(label), (label, 1 - label)):
            images = pictures.images[pictures.labels == own]
            assert sorted(i.tobytes() for i in found) == sorted(
                i.tobytes() for i in images
            )
    said = capsys.readouterr().out
    assert "1 hidden" in said and f"{tmp_path}/bad.png" in said
    answers = Answers(model, pictures, explore._decoded)
    assert [answers.label(number) for number in (1, answers.second())] == [0, 1]
    for name in ("b/0.png", "c/b.png"):  # the other two are enough
        (tmp_path / name).unlink()
    with given(f"--pictures={tmp_path}"):
        assert len(explore._pictures(model).images) == 2
        (tmp_path / "c" / "4.png").unlink()
        with pytest.raises(UserError, match="holds one picture; expected two or more"):
            explore._pictures(model)


def test_the_pictures_of_the_pretrained_model(model):
    with given():
        pictures = explore._pictures(model)
    assert sorted(pictures.labels) == sorted([*range(10)] * 2)
    answers = Answers(model, pictures, explore._decoded)
    assert answers.second() == 2
    own, others = pictures.examples(1)
    assert len(own) == 20 and len(others) == 180
    np.testing.assert_allclose(answers.direction(1), model.direction(own, others))


# The command.


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model_dir=a", "--server=b"], "expected one of --model_dir, --saved_model"),
        (["--saved_model=/nothing"], "/nothing holds no SavedModel"),
        (["--server=http://127.0.0.1:9/v1/models/m"], "Connection refused"),
    ],
)
def test_mistakes(arguments, message):
    done = subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


# In a browser.


@pytest.fixture(scope="module")
def page(digits):
    """The page in a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [f"--pictures={digits[0]}", f"--port={port}"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    browser = start_browser()
    try:
        wait(lambda: listens(port), 120, process)
        browser.get(f"http://127.0.0.1:{port}")
        wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#mix img"), 60)
        yield browser
    finally:
        browser.quit()
        process.terminate()
        process.communicate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait(condition, seconds=20, process=None):
    """Waits until a condition holds; returns what it gives."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if process is not None and process.poll() is not None:
            pytest.fail(process.stderr.read())
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
    return found


def pictures(page, selector: str) -> np.ndarray:
    """The pixels of the images that an element shows."""
    sources = page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.src)",
        f"{selector} img",
    )
    data = [base64.b64decode(source.partition(",")[2]) for source in sources]
    return np.array([Image.open(io.BytesIO(item)) for item in data])[..., np.newaxis]


def shows(page, selector: str, expected: np.ndarray):
    """Waits until an element shows these images."""
    wait(lambda: np.array_equal(pictures(page, selector), expected))


def slider(page, label: str):
    """The slider whose label begins like this; of several, the one that ends so."""
    selector = "input[type=range][aria-label*='for {0}']"
    found = page.find_elements(By.CSS_SELECTOR, selector.format(label))
    return min(found, key=lambda each: len(each.get_attribute("aria-label")))


def move(page, label: str, value: float) -> None:
    page.execute_script(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        slider(page, label),
        str(value),
    )


def press(page, text: str) -> None:
    page.find_element(By.XPATH, f"//button[normalize-space()='{text}']").send_keys(
        Keys.ENTER
    )


def mixed(model, images, alpha, beta, offsets=None) -> np.ndarray:
    codes = markup.Codes(*model.encode(images))
    chosen = markup.between(codes, alpha, beta)
    if offsets is not None:
        chosen = markup.moved(chosen, np.array([*offsets]), [*offsets.values()])
    return model.decode(*chosen)


def choose(page, label: str, entry: int | str) -> None:
    """Types an entry of a list."""
    field = page.find_element(By.CSS_SELECTOR, f"input[aria-label^='{label}']")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(entry), Keys.ENTER)


@needs_browser
def test_pick_and_move(page, model, digits):
    images = digits[1]
    shows(page, "#images", images)
    shows(page, "#a", images[:1])
    shows(page, "#b", images[1:2])
    choose(page, "Image A", 3)
    shows(page, "#a", images[2:3])
    choose(page, "Image B", 5)
    shows(page, "#b", images[4:5])
    pair = images[[2, 4]]
    shows(page, "#mix", mixed(model, pair, 0.5, 0.5))
    move(page, "Alpha", 0)
    move(page, "Beta", 0)
    shows(page, "#mix", pair[:1])
    slider(page, "Alpha").send_keys(Keys.END)
    shows(page, "#mix", mixed(model, pair, 1, 0))
    slider(page, "Beta").send_keys(Keys.END)
    shows(page, "#mix", pair[1:])
    slider(page, "Beta").send_keys(Keys.ARROW_LEFT)
    shows(page, "#mix", mixed(model, pair, 1, 0.99))
    first = int(markup.slider_dims(model, markup.Codes(*model.encode(images[:2])))[0])
    move(page, f"z {first + 1}", -3)
    moved = mixed(model, pair, 1, 0.99, {first: -3})
    assert not np.array_equal(moved, mixed(model, pair, 1, 0.99))
    shows(page, "#mix", moved)
    chart = page.find_element(By.CSS_SELECTOR, "svg.vf-chart")
    assert "32 entries" in chart.get_attribute("aria-label")
    press(page, "Set all to 0")
    shows(page, "#mix", mixed(model, pair, 1, 0.99))


@needs_browser
def test_a_class_to_move_towards(page, model, digits):
    choose(page, "Image A", 1)
    choose(page, "Image B", 2)
    move(page, "Alpha", 0)
    move(page, "Beta", 0)
    press(page, "Set all to 0")
    shows(page, "#mix", digits[1][:1])
    choose(page, "A class to move z towards", "digit 3")
    move(page, "Strength", 1.5)
    direction = model.direction(digits[1][[3]], digits[1][[0, 1, 2, 4]])
    moved = model.move(digits[1][:1], direction, [1.5])[0]
    assert not np.array_equal(moved, digits[1][:1])
    shows(page, "#mix", moved)
    press(page, "Set all to 0")
    shows(page, "#mix", digits[1][:1])


@needs_browser
def test_bits_per_dim(page, model, digits):
    choose(page, "Image A", 1)
    choose(page, "Image B", 2)
    totals = model.score(digits[1][:2])["total"]
    text = " ".join(f"{total:.3f}" for total in totals)
    wait(lambda: text in page.find_element(By.ID, "scores").text)
    found = colours.heat(model.likelihood_map(digits[1][:2]))[..., np.newaxis]
    shows(page, "#map-a", found[:1])
    shows(page, "#map-b", found[1:])
    mix = model.likelihood_map(pictures(page, "#mix"))
    shows(page, "#map-mix", colours.heat(mix)[..., np.newaxis])


@needs_browser
def test_switch(page, model, digits):
    press(page, "Make the table")
    images = digits[1][:4]
    pairs = markup.all_pairs(model, images)
    rows = [np.concatenate([images[i : i + 1], pairs[i]]) for i in range(4)]
    shows(page, "#switches", np.concatenate([images, *rows]))


@needs_browser
def test_sample_and_pick_from_the_samples(page, model, digits):
    move(page, "Temperature", 0.5)
    move(page, "How many", 3)
    page.execute_script("document.querySelector('#samples img')?.remove()")
    press(page, "Sample")
    wait(lambda: len(pictures(page, "#samples")) > 0)
    samples = pictures(page, "#samples")
    np.testing.assert_array_equal(samples, model.sample(len(samples), 0.5, 1))
    press(page, "Add them to the images above")
    shows(page, "#images", np.concatenate([digits[1], samples]))
    choose(page, "Image A", NUM_PICTURES + 1)
    shows(page, "#a", samples[:1])


@needs_browser
def test_upload(page, model, digits, tmp_path):
    before = pictures(page, "#images")
    bad, good = tmp_path / "bad.png", tmp_path / "good.webp"
    Image.fromarray(digits[1][0, ..., 0]).save(good, lossless=True)
    bad.write_bytes(b"no picture")
    page.find_element(By.XPATH, "//button[contains(., 'More images')]").click()

    files = "#files input[type=file]"
    for path in (bad, good):
        (field,) = wait(lambda: page.find_elements(By.CSS_SELECTOR, files))
        field.send_keys(str(path))
        if path == bad:
            wait(lambda: "bad.png cannot be read" in page.find_element(*BODY).text)
            np.testing.assert_array_equal(pictures(page, "#images"), before)
    shows(page, "#images", np.concatenate([before, digits[1][:1]]))


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The text of axe-core, from npm."""
    if not shutil.which("npm"):
        pytest.skip("needs npm, for axe-core")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm gives no {AXE}: {done.stderr.splitlines()[-1:]}")
    (archive,) = folder.glob("*.tgz")
    shutil.unpack_archive(archive, folder)
    return (folder / "package" / "axe.min.js").read_text()


def set_width(page, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_accessibility(page, axe, width):
    set_width(page, width)
    wait(lambda: page.execute_script("return innerWidth") == width)
    images = page.execute_script(
        "return [...document.images].map(e => [e.naturalWidth > 0, e.alt])"
    )
    assert len(images) > 8 and all(loaded and alt for loaded, alt in images)
    page.execute_script(axe)
    found = page.execute_async_script("axe.run().then(arguments[0])")["violations"]
    ours = [
        (violation["id"], node["target"])
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(
            violation["id"] == rule and part in str(node["target"])
            for rule, part in GRADIO
        )
    ]
    assert not ours
    scrolled = "return document.documentElement.scrollWidth <= innerWidth"
    assert page.execute_script(scrolled)


@needs_browser
def test_no_request_leaves_the_machine(page):
    asked = set()
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(urlsplit(message["params"]["request"]["url"]))
    web = {url.hostname for url in asked if url.scheme not in ("data", "blob")}
    assert web == {"127.0.0.1"}
