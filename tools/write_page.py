"""Writes a page about a run: python tools/write_page.py RUN --output=docs/NAME.md

Reads the numbers and figures that `evaluate` left in RUN, and the samples that
`synthesize` left. Copies figures and samples to docs/NAME/ beside the page. The page
begins with the text of --commands: the commands that made the run.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfp_vaeflow.common import files
from tfp_vaeflow.evaluation import page


def _write(flag: argparse.Namespace, result: dict, sources: dict[Path, str]) -> None:
    """Copies the figures, which come with captions, and writes the page."""
    folder = flag.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for source, caption in sources.items():
        shutil.copyfile(source, folder / source.name)
        figures[f"{folder.name}/{source.name}"] = caption
    commands = flag.commands.read_text(encoding="utf-8").strip()
    introduction = f"Made by these commands:\n\n```bash\n{commands}\n```"
    text = page.markdown(result, flag.title, figures, introduction)
    files.write_text(flag.output, text)
    print(f"written to {flag.output} and {folder}/")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=files.user_path, metavar="RUN")
    parser.add_argument("--output", type=files.user_path, required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument(
        "--commands", type=files.user_path, help="a text file", required=True
    )
    parser.add_argument(
        "--leave_out",
        nargs="*",
        default=[],
        metavar="FIGURE",
        help="figures that the page must not show, such as switch_matrix.png",
    )
    flag = parser.parse_args()
    path = flag.run / "evaluation.json"
    if not path.is_file():
        parser.exit(2, f"error: there is no {path}; run tfp_vaeflow.evaluate first\n")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        kept = flag.run / page.folder(result["split"], result["step"])
    except (ValueError, TypeError, KeyError) as error:
        parser.exit(2, f"error: {path} is not what evaluate writes: {error!r}\n")
    if not kept.is_dir():  # older evaluations have no folder of their own
        kept = flag.run / "evaluation"
    sources = {
        kept / name: caption
        for name, caption in result["figures"].items()
        if name not in flag.leave_out
    }
    for path in sorted(flag.run.glob("synthesis/samples_t*.png")):
        sources[path] = f"Samples at temperature {path.stem.removeprefix('samples_t')}"
    try:
        _write(flag, result, sources)
    except OSError as error:
        parser.exit(2, f"error: {files.describe(error)}\n")


if __name__ == "__main__":
    main()
