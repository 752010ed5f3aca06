"""What an experiment costs: throughput, time to the first step, memory, utilisation.

    python tools/benchmark.py --gin_file=gin/cifar10.gin --batch_size=32 --output=A.json
    python tools/benchmark.py --compare A.json B.json

Runs the real trainer on one batch of random images that stays in memory (or on the
experiment's data, --input=data), then density, encoding and sampling. All rates are
medians over --steps repeats after the first, which traces.

With --turns, the program prints "ready" when everything is traced and compiled, then
waits for a line on its standard input. Several processes can thus warm up side by side
and be timed one after another.

Utilisation is the FLOP/s of training divided by those of the fastest of 20 float32
matrix products [8192, 512] x [512, 512], measured before and after. FLOPs are those of
the float32 model: three times the convolutions and matrix products of a forward pass.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfp_vaeflow import command

# Before any other import of TensorFlow, to load less of it and of Keras. First steps
# are measured, so the cache of compiled functions stays off.
command.start_tensorflow(cached=False)

import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute, data
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import ExperimentConfig, experiment
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.model import quantization
from tfp_vaeflow.training.cost import costs
from tfp_vaeflow.training.devices import make_strategy
from tfp_vaeflow.training.step import Trainer

_PRODUCTS = 20
# The figures that --compare shows, and whether more is better.
_FIGURES = {
    "train_images_per_s": True,
    "density_images_per_s": True,
    "encode_images_per_s": True,
    "sample_images_per_s": True,
    "seconds_to_first_step": False,
    "seconds_to_initialize": False,
    "peak_memory_mb": False,
    "exact": True,
    "flops_per_image": False,
    "utilisation": True,
}


def process_age() -> float:
    """Seconds since this process began (on Linux), with the start of Python."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def product_flops_per_s() -> float:
    """The best of 20 float32 products [8192, 512] x [512, 512]."""
    a, b = tf.random.normal([8192, 512]), tf.random.normal([512, 512])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)), autograph=False)
    product().numpy()
    return 2 * 8192 * 512 * 512 / min(_seconds(product, _PRODUCTS))


def _seconds(run: Callable[[], tf.Tensor], repeats: int) -> list[float]:
    """The time of each of several runs, until all their results are computed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        tf.nest.map_structure(lambda t: None if t is None else t.numpy(), run())
        times.append(time.perf_counter() - start)
    return times


def _seconds_of_steps(step: Callable[[], tf.Tensor], repeats: int) -> list[float]:
    """The time of each of several steps, read one step late as `train` does."""
    times, last = [], step()
    for _ in range(repeats):
        start = time.perf_counter()
        last, before = step(), last
        before.numpy()
        times.append(time.perf_counter() - start)
    last.numpy()
    return times


def random_split(config: ExperimentConfig) -> data.Split:
    """Random images, enough for a step and for the initialisation."""
    training = config.training
    count = max(training.batch_size, training.initialization_images)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *config.model.image_shape)).astype(np.uint8)
    labels = None
    if config.model.is_class_conditional:
        labels = rng.integers(0, config.model.prior.num_classes, count)
    return in_memory(images, labels)


def _wait_for_turn() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _exact(model, images: tf.Tensor, **labels) -> float:
    """The fraction of the images of a batch that decode to exactly themselves."""
    size = len(images)
    codes = model.encode(images, batch_size=size, **labels)
    back = np.asarray(model.decode(*codes, batch_size=size))
    bins = model.config.n_bins
    pixels = quantization.to_pixels(quantization.to_levels(images, bins), bins)
    return float((back == pixels.numpy()).all((1, 2, 3)).mean())


def measure(
    config: ExperimentConfig, steps: int, from_data: bool, in_turn: bool
) -> dict:
    """Measures the training and the use of an experiment's model.

    Args:
      config: the experiment.
      steps: repeats of everything, without the first run.
      from_data: whether training reads and augments the experiment's own data.
      in_turn: whether to wait for a line on standard input once warm.

    Returns:
      Figures by name, as they are written to `--output`.
    """
    compute.tune_process(save_memory=config.training.recompute)
    compute.compile_use_at_once()
    training = config.training
    size = training.batch_size
    if from_data:
        split = data.load(config.data, config.model).train
    else:
        split = random_split(config)
    trainer = Trainer(config, make_strategy())
    model = trainer.model
    start = time.monotonic()
    trainer.initialize(split)
    initialize = time.monotonic() - start
    batches = iter(trainer.training_batches(split, 0))
    batch = next(batches)

    def step():
        result = trainer.train_step(next(batches) if from_data else batch)
        return result.gradient_norm

    _seconds(step, 1)
    first = process_age() - initialize
    labels = {}
    if config.model.is_class_conditional:
        labels["labels"] = batch.labels
    uses = {
        "density": lambda: model.losses(batch.images, batch_size=size, **labels),
        "encode": lambda: model.encode(batch.images, batch_size=size, **labels),
        "sample": lambda: model.sample(size, batch_size=size, **labels),
    }
    if in_turn:
        _seconds(step, 1)
        peak = compute.peak_memory_mib()
        for run in uses.values():
            _seconds(run, 1)
        _wait_for_turn()
    products = [product_flops_per_s()]
    seconds = statistics.median(_seconds_of_steps(step, steps))
    if not in_turn:
        peak = compute.peak_memory_mib()
    rates = {
        f"{name}_images_per_s": size / statistics.median(_seconds(run, steps + 1)[1:])
        for name, run in uses.items()
    }
    exact = _exact(model, batch.images, **labels)
    products.append(product_flops_per_s())
    flops = 3 * sum(part.flops for part in costs(model).values())
    return {
        "train_images_per_s": size / seconds,
        **rates,
        "seconds_to_first_step": first - seconds,
        "seconds_to_initialize": initialize,
        "peak_memory_mb": peak,
        "exact": exact,
        "flops_per_image": flops,
        "product_flops_per_s": products,
        "utilisation": size / seconds * flops / max(products),
    }


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


def compare(paths: list[Path]) -> str:
    """Two results side by side, with ratios: above 1 the second one is better."""
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    rows = [["", str(paths[0]), str(paths[1]), "times better"]]
    for name, more_is_better in _FIGURES.items():
        before, after = (found.get(name) for found in (a, b))
        ratio = "-"  # an older version of this program did not measure it
        if before and after:
            better = after / before if more_is_better else before / after
            ratio = f"{better:.2f}"
        shown = ["-" if x is None else _shown(x) for x in (before, after)]
        rows.append([name, *shown, ratio])
    return _table(rows)


def _experiment(flag: argparse.Namespace) -> ExperimentConfig:
    bindings = list(flag.gin_bindings)
    for field, value in (
        ("TrainingConfig.batch_size", flag.batch_size),
        ("DataConfig.data_dir", flag.data_dir),
    ):
        if value is not None:
            bindings.append(f"{field} = {value!r}")
    return experiment.load([flag.gin_file], bindings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gin_file", type=files.expand, help="the experiment")
    parser.add_argument("--gin_bindings", action="append", default=[])
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--steps", type=int, default=10, help="repeats of everything")
    parser.add_argument("--input", choices=["cached", "data"], default="cached")
    parser.add_argument(
        "--data_dir", type=files.expand, help="short for DataConfig.data_dir"
    )
    parser.add_argument(
        "--output", type=files.user_path, help="takes the figures as JSON"
    )
    parser.add_argument("--turns", action="store_true", help="wait when warm")
    parser.add_argument("--compare", nargs=2, type=files.user_path, metavar="JSON")
    flag = parser.parse_args()
    try:
        if flag.compare:
            print(compare(flag.compare))
            return
        if flag.gin_file is None or flag.steps < 1:
            raise UserError(
                "expected --gin_file or --compare, and --steps of 1 or more"
            )
        config = _experiment(flag)
        found = measure(config, flag.steps, flag.input == "data", flag.turns)
    except (UserError, OSError, ValueError, KeyError) as error:
        parser.exit(2, f"error: {error}\n")
    settings = {
        "gin_file": flag.gin_file,
        "gin_bindings": flag.gin_bindings,
        "batch_size": config.training.batch_size,
        "steps": flag.steps,
        "input": flag.input,
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "tensorflow": tf.__version__,
    }
    print(_table([[name, _shown(found[name])] for name in _FIGURES]))
    before, after = (f"{flops / 1e9:.1f}" for flops in found["product_flops_per_s"])
    print(f"float32 products, GFLOP/s: {before} before, {after} after")
    if flag.output is not None:
        text = json.dumps({**found, "settings": settings}, indent=2) + "\n"
        files.write_text(flag.output, text)
        print(f"written to {flag.output}")


if __name__ == "__main__":
    main()
