"""TensorBoard itself on a run, in a real browser: every tab shows what it should."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from browser import needs_browser, start_browser
from testing import load_digits, tiny_experiment
from tfp_vaeflow import training
from tfp_vaeflow.training import summaries
from tfp_vaeflow.training.devices import mirrored

pytestmark = [pytest.mark.slow, needs_browser]
# Text, pictures and drawings on the page, in shadow roots and frames too.
_LOOK = """
const seen = {text: "", images: 0, canvases: 0, nodes: 0};
function look(node) {
  if (node.shadowRoot) look(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType == Node.TEXT_NODE) { seen.text += child.textContent + " "; }
    else if (!["STYLE", "SCRIPT", "NOSCRIPT"].includes(child.tagName)) {
      if (child.tagName == "IMG" && child.naturalWidth > 1) seen.images += 1;
      if (child.tagName == "CANVAS" && child.width > 1) seen.canvases += 1;
      if (child.classList && child.classList.contains("node")) seen.nodes += 1;
      const inner = child.contentDocument;
      if (inner && inner.body) look(inner.body);
      look(child);
    }
  }
}
look(document.body);
seen.text = seen.text.replace(/\\s+/g, " ");
return seen;
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """TensorBoard at work on a run of 40 steps."""
    model_dir = tmp_path_factory.mktemp("run")
    config = tiny_experiment()
    strategy = mirrored(["CPU:0"])
    training.train(config, load_digits(config), strategy, model_dir, "Part.field = 1")
    summaries.write_text(model_dir, "evaluation", "bits/dim 3.14", 40)
    process = subprocess.Popen(
        [Path(sys.executable).parent / "tensorboard", "--logdir", model_dir]
        + ["--host=127.0.0.1", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "http://" in line:
            yield "http://" + line.split("http://")[1].split()[0]
            break
    process.kill()


@pytest.fixture(scope="module")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.mark.parametrize(
    "tab, texts, drawn",
    [
        ("timeseries", ["bits_per_dim", "gradient_norm"], {}),
        ("scalars", ["tag: bits_per_dim/total"], {}),
        (
            "custom_scalars",
            ["bits/dim, training and validation", "peak memory, MiB"],
            {},
        ),
        (
            "images",
            ["tag: pictures/interpolation", "tag: pictures/switch_matrix"],
            {"images": 8},
        ),
        ("histograms", ["tag: log_det/level1", "tag: log_scale/level1/actnorm"], {}),
        ("distributions", ["tag: log_det/level1"], {}),
        ("graphs", ["Main Graph"], {"nodes": 3}),
        ("text", ["Part.field = 1", "bits/dim 3.14"], {}),
        ("projector", ["Points: 144", "Dimension: 4"], {"canvases": 1}),
        (
            "hparams",
            ["optimizer.learning_rate", "validation bits/dim", " elu "],
            {},
        ),
    ],
)
def test_tab(address, browser, tab, texts, drawn):
    browser.get("about:blank")  # or the page keeps the tabs it has shown
    browser.get(f"{address}#{tab}")
    until = time.monotonic() + 60
    while True:
        seen = browser.execute_script(_LOOK)
        missing = [text for text in texts if text not in seen["text"]]
        missing += [f"{n} {what}" for what, n in drawn.items() if seen[what] < n]
        if not missing:
            return
        assert time.monotonic() < until, f"{missing} is not in {seen}"
        time.sleep(0.5)
