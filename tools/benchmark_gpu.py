"""Measures training and use of a model on one GPU: one table, within minutes.

    python tools/benchmark_gpu.py --data_dir=PATH/cifar10 --output=gpu.json

Each row of the table is a command. Commands start side by side, since most of their
time goes into tracing and compiling on a few cores. A row that is warm waits for its
turn to be timed. Turns begin when all rows are warm, because rows that still compile
use the GPU, too; after some time, turns begin without these. Rows in mixed precision
come first. The others start when the first ones have ended and freed their memory.
After --limit seconds the unfinished rows are killed and named.

    train     `train` itself, from its data: images/s by its metrics, over two windows
              of --log_every steps; while it waits, it is stopped by SIGSTOP
    memory    tools/benchmark.py: training on one batch in memory, density, encoding,
              sampling, the part of a batch that decode(encode(x)) gives back exactly
    start     time from the start of `train` to the end of its first step, with an
              empty cache of compiled functions; then again, alone, with a full one
    count     tools/operations.py: operations that a step starts

It runs without a GPU, too; --gin_bindings can make the model small.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timed_rows import Count, Memory, Row, Start, Training, take_turns

from tfp_vaeflow.common import files

WAYS = {
    "mixed": ["TrainingConfig.mixed_precision=True", "TrainingConfig.allow_tf32=True"],
    "float32": [],
    "TF32": ["TrainingConfig.allow_tf32=True"],
}
_FIRST = 0.65  # the share of all time for the rows in mixed precision
# What the table shows: name, digits, unit.
_SHOWN = {
    "train_images_per_s": ("training", 0, " images/s"),
    "density_images_per_s": ("density", 0, " images/s"),
    "encode_images_per_s": ("encoding", 0, " images/s"),
    "sample_images_per_s": ("sampling", 0, " images/s"),
    "exact": ("exact", 3, " of a batch"),
    "seconds_to_first_step": ("first step after", 0, " s"),
    "seconds": ("first step after", 0, " s"),
    "peak_memory_mb": ("peak", 0, " MB"),
    "graph": ("as a graph", 0, " operations"),
    "compiled": ("compiled", 0, " operations"),
}


def _bindings(*bindings: str) -> list[str]:
    return [f"--gin_bindings={binding}" for binding in bindings]


class Rows:
    """Starts rows, each with a folder of its own.

    Attributes:
      started: all of them so far.

    Args:
      flag: the flags of this program.
      folder: the directory for all their files.
    """

    def __init__(self, flag: argparse.Namespace, folder: Path):
        self._flag = flag
        self._folder = folder
        self._store = folder / "compiled"
        self._common = [
            f"--gin_file={flag.gin_file}",
            *_bindings(*flag.gin_bindings),
        ]
        self.started = []

    def _start(self, kind: Callable[..., Row], name: str, command, *others) -> Row:
        """`kind(name, command, folder, *others)`."""
        folder = self._folder / str(len(self.started))
        self.started.append(kind(name, command, folder, *others))
        return self.started[-1]

    def _train(self, way: str, size: int, log_every: int, **others: int) -> list[str]:
        """`train` without pictures; `others` are fields of `TrainingConfig`."""
        fields = {"batch_size": size, "log_every": log_every, "images_every": 0}
        settings = [f"TrainingConfig.{k}={v}" for k, v in {**fields, **others}.items()]
        command = ["-m", "tfp_vaeflow.train", *self._common]
        command += _bindings(*settings, *WAYS[way])
        if self._flag.data_dir:
            command.append(f"--data_dir={self._flag.data_dir}")
        return command

    def training(self, way: str, size: int, xla_flags: str = "") -> Row:
        """A row that trains without end, and writes nothing but metrics."""
        never = 10**9
        command = self._train(
            way,
            size,
            self._flag.log_every,
            num_steps=never,
            evaluate_every=never,
            checkpoint_every=never,
        )
        name, environment = f"train, {way}, batch {size}", {}
        if xla_flags:
            name += f", {xla_flags}"
            flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}"
            environment["XLA_FLAGS"] = flags.strip()
        every = self._flag.log_every
        return self._start(Training, name, command, every, environment)

    def memory(self, way: str, size: int, gin_file: str | None = None) -> Row:
        """A row of tools/benchmark.py, on the experiment or on another one."""
        common = self._common if gin_file is None else [f"--gin_file={gin_file}"]
        few = f"TrainingConfig.initialization_images={max(2, min(size, 64))}"
        command = [
            *("tools/benchmark.py", *common, "--turns"),
            *(f"--batch_size={size}", f"--steps={self._flag.steps}"),
            *_bindings(few, *WAYS[way]),
        ]
        stem = f"{Path(gin_file).stem}, " if gin_file else ""
        name = f"memory, {stem}{way}, batch {size}"
        return self._start(Memory, name, command)

    def start(self, way: str, size: int, name: str) -> Row:
        command = self._train(way, size, log_every=1, num_steps=1)
        return self._start(Start, f"start, {name}", command, self._store)

    def count(self, size: int) -> Row:
        command = ["tools/operations.py", *self._common, f"--batch_size={size}"]
        return self._start(Count, f"count, batch {size}", command)


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        shown = [
            f"{name} {row.found[key]:,.{digits}f}{unit}"
            for key, (name, digits, unit) in _SHOWN.items()
            if row.found.get(key) is not None
        ]
        lines.append(f"{row.name}: {row.error or ', '.join(shown)}")
    return "\n".join(lines)


def measure(flag: argparse.Namespace) -> list[Row]:
    """Runs all rows, and returns them when they have ended."""
    begin = time.monotonic()
    sizes = sorted(flag.batch_size)
    smallest, largest = sizes[0], sizes[-1]
    with tempfile.TemporaryDirectory(prefix="benchmark_gpu-") as folder:
        rows = Rows(flag, Path(folder))

        def run(share: float, *group: Row) -> None:
            """Runs a group, at most until this share of all time is over."""
            take_turns(group, begin + share * flag.limit)

        try:
            # The rows that take longest to compile start first.
            large = flag.large_gin_file
            group = (
                [rows.memory("mixed", flag.large_batch_size, large)] if large else []
            )
            group += [rows.training("mixed", size) for size in reversed(sizes)]
            group += [rows.training("mixed", largest, more) for more in flag.xla_flags]
            group += [rows.memory("mixed", size) for size in reversed(sizes)]
            group.append(rows.start("mixed", largest, "cold, beside the others"))
            run(_FIRST, *group, rows.count(largest))
            run(1.0, rows.start("mixed", largest, "with what was compiled, alone"))
            run(1.0, rows.memory("TF32", largest), rows.memory("float32", smallest))
        finally:
            for row in rows.started:
                row.kill()
    return rows.started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gin_file", type=files.expand, default="gin/cifar10.gin")
    parser.add_argument("--gin_bindings", action="append", default=[])
    parser.add_argument("--data_dir", type=files.expand, help="of the experiment")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64, 256])
    parser.add_argument(
        "--large_gin_file",
        type=files.expand,
        default="gin/celeba.gin",
        help="another experiment, whose speed and memory are measured; '' for none",
    )
    parser.add_argument("--large_batch_size", type=int, default=8)
    parser.add_argument("--log_every", type=int, default=50, help="steps of a window")
    parser.add_argument("--steps", type=int, default=10, help="repeats in memory")
    parser.add_argument(
        "--xla_flags",
        action="append",
        default=[],
        help="trains at the largest batch with these flags in XLA_FLAGS, too; may come "
        "several times",
    )
    parser.add_argument("--limit", type=int, default=300, help="seconds for all")
    parser.add_argument("--output", type=files.user_path, help="takes it as JSON")
    flag = parser.parse_args()
    rows = measure(flag)
    print(_table(rows))
    if flag.output is not None:
        found = [{"row": r.name, "error": r.error, **r.found} for r in rows]
        files.write_text(flag.output, json.dumps(found, indent=2) + "\n")
        print(f"written to {flag.output}")
    if all(row.error for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
