"""How the memory of training grows with depth, batch and resolution.

    python tools/benchmark_memory.py --output=docs/performance

Multiplies one quantity at a time (the steps of each level, the images per batch or the
pixels per image), with and without TrainingConfig.recompute. tools/benchmark.py
measures each case in a process of its own. Prints a table, and writes memory.md,
memory.json and memory.png to the directory. The default experiment is
gin/cifar10_small.gin at batch 16.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ExperimentConfig, experiment
from tfp_vaeflow.evaluation import plots

_BENCHMARK = Path(__file__).resolve().with_name("benchmark.py")
GROWING = ("depth", "batch", "resolution")


def _deeper(steps, times: int):
    """Step counts, nested as in `FlowConfig.num_steps`."""
    if isinstance(steps, Sequence):
        return [_deeper(count, times) for count in steps]
    return steps * times


def grown(config: ExperimentConfig, what: str, times: int) -> list[str]:
    """Bindings that make an experiment `times` as large in one respect."""
    if what == "depth":
        return [f"FlowConfig.num_steps = {_deeper(config.model.flow.num_steps, times)}"]
    if what == "batch":
        return [f"TrainingConfig.batch_size = {config.training.batch_size * times}"]
    height, width, channels = config.model.image_shape
    side = math.isqrt(times)
    shape = (height * side, width * side, channels)
    return [f"ModelConfig.image_shape = {shape}"]


def peak(gin_file: str, bindings: Sequence[str]) -> float:
    """Peak memory of an experiment in training, MB.

    Raises:
      UserError: if the measurement fails, with the last line of its errors.
    """
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "figures.json"
        command = [sys.executable, _BENCHMARK, "--steps=1"]
        command += [f"--gin_file={gin_file}", f"--output={output}"]
        command += [f"--gin_bindings={binding}" for binding in bindings]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError((done.stderr.strip() or "no reason given").splitlines()[-1])
        return json.loads(output.read_text(encoding="utf-8"))["peak_memory_mb"]


def measure(
    gin_file: str, bindings: list[str], times: Sequence[int]
) -> Iterator[tuple[str, int, bool, float]]:
    """Yields (what grows, how much, whether recomputed, MB), each once it is known."""
    config = experiment.load([gin_file], bindings)
    base = {}
    for recompute in (False, True):
        ways = [*bindings, f"TrainingConfig.recompute = {recompute}"]
        base[recompute] = peak(gin_file, ways)
        for what in GROWING:
            yield what, 1, recompute, base[recompute]
            for number in times:
                more = [*ways, *grown(config, what, number)]
                yield what, number, recompute, peak(gin_file, more)


def table(found: dict[tuple[str, int, bool], float]) -> str:
    """A Markdown table with one line per size."""
    lines = ["| | times | peak memory, MB | with recompute, MB |", "|---|---|---|---|"]
    for what, number, recompute in found:
        if not recompute:
            kept, computed = (found[what, number, way] for way in (False, True))
            lines.append(f"| {what} | {number} | {kept:,.0f} | {computed:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gin_file", type=files.expand, default="gin/cifar10_small.gin"
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=["TrainingConfig.batch_size = 16"]
        + ["TrainingConfig.initialization_images = 16"],
    )
    parser.add_argument(
        "--times", type=int, nargs="+", default=[4, 16], help="squares, for resolution"
    )
    parser.add_argument(
        "--output", type=files.user_path, required=True, help="a directory"
    )
    flag = parser.parse_args()
    if any(number < 1 or math.isqrt(number) ** 2 != number for number in flag.times):
        parser.error(f"--times is {flag.times}; expected squares, such as 4 16")
    found = {}
    try:
        for what, number, recompute, size in measure(
            flag.gin_file, flag.gin_bindings, flag.times
        ):
            found[what, number, recompute] = size
            way = ", recompute" if recompute else ""
            print(f"{what} x {number}{way}: {size:,.0f} MB", flush=True)
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    sizes = [1, *flag.times]
    plots.curves(
        flag.output / "memory.png",
        {
            f"by {what}" + (", recompute" if way else ""): (
                sizes,
                [found[what, number, way] for number in sizes],
            )
            for way in (False, True)
            for what in GROWING
        },
        "times the steps, images or pixels",
        "peak memory, MB",
    )
    files.write_text(flag.output / "memory.md", table(found))
    records = [
        {"what": what, "times": number, "recompute": way, "peak_memory_mb": size}
        for (what, number, way), size in found.items()
    ]
    files.write_text(flag.output / "memory.json", json.dumps(records, indent=2) + "\n")
    print(f"written to {flag.output}")


if __name__ == "__main__":
    main()
