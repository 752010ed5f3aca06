"""The notebooks of `examples/`: as they are saved, and run from start to end."""

import json
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LARGEST = 300_000  # bytes
# Paths of one machine: from the root, a home, or a drive.
ABSOLUTE = re.compile(r"(?<![\w.}:/])(/(tmp|work|root|home|Users|var)/|[A-Z]:\\)")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_with_outputs(path):
    assert path.stat().st_size < LARGEST
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        texts = ["".join(cell["source"])]
        for output in cell.get("outputs", []):
            texts.append("".join(output.get("text", "")))
            texts.append("".join(output.get("data", {}).get("text/plain", "")))
        for text in texts:
            assert not ABSOLUTE.search(text), text


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with this one's packages, and those that run notebooks."""
    place = tmp_path_factory.mktemp("kernel")
    venv.create(place, with_pip=True)
    found = place / "bin" / "python"
    lock = ROOT / "examples" / "requirements.txt"
    pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--requirement", lock], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([found, "-c", ask], text=True).strip()
    # Packages of the test's own environment come after those of this one.
    ours = sysconfig.get_path("purelib")
    Path(packages, "project.pth").write_text(f"{ours}\n", encoding="utf-8")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_start_to_end(path, python):
    before = path.read_bytes()
    result = subprocess.run(
        [python, ROOT / "tools" / "run_notebooks.py", "--check", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert path.read_bytes() == before
