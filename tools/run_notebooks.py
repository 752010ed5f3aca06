"""Runs the notebooks of `examples/` from start to end, and saves their outputs.

    python tools/run_notebooks.py [--check] [NOTEBOOK...]

Each notebook runs in a kernel of its own, in an empty temporary directory, with the
package of this checkout. What tells of the machine (times, identifiers, paths) is left
out of the file. With --check nothing is written. If a cell raises, the program ends
with its traceback. It needs the packages of examples/requirements.txt.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tfp_vaeflow.common import files

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
_LONGEST_CELL = 1200  # seconds
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def _put_first(variable: str, path: Path) -> None:
    """Puts a directory first in a search path of the environment."""
    rest = os.environ.get(variable)
    os.environ[variable] = f"{path}{os.pathsep}{rest}" if rest else str(path)


def run(notebook: nbformat.NotebookNode, place: Path) -> None:
    """Executes all cells; their outputs take the place of the old ones.

    Args:
      notebook: changed by this function.
      place: where the kernel starts, and makes its temporary directories.

    Raises:
      CellExecutionError: if a cell raises.
    """
    client = NotebookClient(
        notebook,
        timeout=_LONGEST_CELL,
        kernel_name="python3",
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(place)}},
    )
    client.execute(env={**os.environ, "TMPDIR": str(place)})


def strip(notebook: nbformat.NotebookNode, place: Path) -> None:
    """Leaves out what another machine would write in another way.

    Paths in a temporary directory become relative to it.

    Args:
      notebook: changed by this function.
      place: where it ran.
    """
    inside = re.compile(rf"{re.escape(str(place))}/tmp\w+/")
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = inside.sub("", output.text)
            # Pillow's pictures show themselves as PNG and again as JPEG.
            output.get("data", {}).pop("image/jpeg", None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=files.user_path, metavar="NOTEBOOK"
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    flag = parser.parse_args()
    # Commands that a notebook runs find this interpreter and this package, too.
    _put_first("PATH", Path(sys.executable).parent)
    _put_first("PYTHONPATH", ROOT)
    for path in flag.notebooks or sorted(EXAMPLES.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            place = Path(name).resolve()
            try:
                run(notebook, place)
            except CellExecutionError as error:
                text = _COLOURS.sub("", str(error))
                parser.exit(1, f"error: {path.name}: {text}\n")
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)
        if not flag.check:
            strip(notebook, place)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
