"""What a Glow of one size costs in several libraries, on the same images, on the CPU.

    python -m venv peers && peers/bin/pip install torch normflows
    python tools/benchmark_peers.py --python=peers/bin/python --output=PEERS.json

Measures this package, TensorFlow Probability's tfb.Glow and normflows, each in a
process of its own with a thread a core. A library that is not there is left out.

All have --levels levels of --steps_per_level affine couplings by networks 3x3-1x1-3x3
of width --hidden with ReLU; between levels half of the channels leave. They are trained
with Adam, compiled by tf.function or, normflows, eagerly. Rates are medians over
--repeats after the first; data-dependent initialisation is not timed.

What differs:
- Here four couplings make a step, with one 1x1 convolution and two ActNorms; the others
  have one of each with every coupling. Channels that leave pass one more coupling here,
  a single convolution in tfb.Glow, nothing in normflows.
- What runs here is `benchmark.measure`: the trainer's step, which adds dequantization,
  the norm of the gradient and a check that all is finite, in a process set up as that
  of `train`; density and sampling take and give pixels.

FLOPs are those of training on an image: three times the convolutions and products on
its way to the code. tfb.Glow's log_prob computes its networks twice, for the value and
for the log-det; that is not counted.
"""

import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# What measures normflows has neither TensorFlow nor absl. And the program itself stays
# small while it measures: a new process begins with the peak memory of its parent.
from tfp_vaeflow import files
from tfp_vaeflow.errors import UserError

_FIGURES = [
    "train_images_per_s",
    "density_images_per_s",
    "sample_images_per_s",
    "seconds_to_first_step",
    "peak_memory_mb",
    "parameters",
    "flops_per_image",
    "train_gflops_per_s",
]
_CHANNELS = 3


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _images(flag: argparse.Namespace):
    """The images of `benchmark.measure` as a flow takes them, `[B, H, W, C]`."""
    import numpy as np

    shape = (flag.batch_size, flag.image_size, flag.image_size, _CHANNELS)
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return ((pixels + 0.5) / 128 - 1).astype(np.float32)


def _measure(
    flag: argparse.Namespace,
    initialize: Callable[[], object],
    train: Callable[[], object],
    density: Callable[[], object],
    sample: Callable[[], object],
) -> dict[str, float]:
    """Runs another library's model, as `benchmark.measure` runs one of ours.

    Args:
      flag: the sizes, and when this process was started.
      initialize: data-dependent initialisation.
      train, density, sample: each takes or makes a batch, and waits for it.
    """
    start = time.monotonic()
    initialize()
    apart = time.monotonic() - start
    train()
    first = time.monotonic() - flag.started - apart
    seconds = _median_seconds(train, flag.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {}
    for name, run in {"density": density, "sample": sample}.items():
        run()
        rate = flag.batch_size / _median_seconds(run, flag.repeats)
        rates[f"{name}_images_per_s"] = rate
    return {
        "train_images_per_s": flag.batch_size / seconds,
        **rates,
        "seconds_to_first_step": first - seconds,
        "peak_memory_mb": peak,
    }


def _ours(flag: argparse.Namespace) -> dict:
    from tfp_vaeflow import __version__, command, config

    command.start_tensorflow()
    import benchmark
    import tensorflow as tf

    from tfp_vaeflow.model import build_model

    steps = flag.steps_per_level // 4
    flow = config.FlowConfig(
        # The finest level of the others begins with a squeeze.
        num_steps=(0, *[(steps,)] * (flag.levels - 1), steps),
        hidden=(flag.hidden,) * (flag.levels + 1),
        factors=(2,) * (flag.levels - 1),
        activation="relu",
    )
    shape = (flag.image_size, flag.image_size, _CHANNELS)
    model = config.ModelConfig(shape, n_bins=256, latent_dim=0, flow=flow)
    training = config.TrainingConfig(
        batch_size=flag.batch_size, initialization_images=flag.batch_size
    )
    found = benchmark.measure(
        config.ExperimentConfig(model, training=training), flag.repeats, False
    )
    variables = build_model(model).trainable_variables
    return {
        **found,
        "parameters": sum(variable.shape.num_elements() for variable in variables),
        "versions": {"tfp_vaeflow": __version__, "tensorflow": tf.__version__},
    }


def _tfp(flag: argparse.Namespace) -> dict:
    from tfp_vaeflow import command

    command.start_tensorflow()
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras  # what TFP's own networks are made of

    from tfp_vaeflow.cost import flops_of

    tfb, tfd = tfp.bijectors, tfp.distributions
    images = tf.constant(_images(flag))
    glow = tfb.Glow(
        output_shape=images.shape[1:],
        num_glow_blocks=flag.levels,
        num_steps_per_block=flag.steps_per_level,
        coupling_bijector_fn=functools.partial(
            tfb.GlowDefaultNetwork, num_hidden=flag.hidden
        ),
        exit_bijector_fn=tfb.GlowDefaultExitNetwork,
        seed=0,
    )
    code = tfd.Sample(tfd.Normal(0.0, 1.0), images.shape[1:].num_elements())
    distribution = tfd.TransformedDistribution(code, glow)
    variables = glow.trainable_variables
    optimizer = tf_keras.optimizers.Adam(1e-3)

    # The images are an argument: TFP keeps what it computed, by the tensor it is of.
    @tf.function
    def train(images):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(distribution.log_prob(images))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    density = tf.function(distribution.log_prob)
    sample = tf.function(lambda: distribution.sample(flag.batch_size))
    found = _measure(
        flag,
        lambda: distribution.log_prob(images),
        lambda: train(images).numpy(),
        lambda: density(images).numpy(),
        lambda: sample().numpy(),
    )
    graph = tf.function(glow.inverse).get_concrete_function(images).graph
    flops = sum(map(flops_of, graph.get_operations())) / flag.batch_size
    return {
        **found,
        "parameters": sum(variable.shape.num_elements() for variable in variables),
        "flops_per_image": 3 * flops,
        "versions": {
            "tensorflow_probability": tfp.__version__,
            "tensorflow": tf.__version__,
        },
    }


def _normflows(flag: argparse.Namespace) -> dict:
    from importlib.metadata import version

    import normflows as nf
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    images = torch.from_numpy(_images(flag)).permute(0, 3, 1, 2).contiguous()
    codes, flows = [], []
    for squeezes in range(flag.levels, 0, -1):  # from the coarsest level
        channels = _CHANNELS * 2 ** (squeezes + 1)
        side = flag.image_size // 2**squeezes
        steps = [
            nf.flows.GlowBlock(channels, flag.hidden)
            for _ in range(flag.steps_per_level)
        ]
        flows.append([*steps, nf.flows.Squeeze()])
        leaving = channels if squeezes == flag.levels else channels // 2
        shape = (leaving, side, side)
        codes.append(nf.distributions.DiagGaussian(shape, trainable=False))
    merges = [nf.flows.Merge() for _ in range(flag.levels - 1)]
    model = nf.MultiscaleFlow(codes, flows, merges, class_cond=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def train():
        optimizer.zero_grad()
        loss = model.forward_kld(images)
        loss.backward()
        optimizer.step()
        loss.item()

    def density():
        with torch.no_grad():
            model.log_prob(images, None)

    def sample():
        with torch.no_grad():
            model.sample(flag.batch_size)

    found = _measure(flag, density, train, density, sample)
    with FlopCounterMode(display=False) as counter:
        density()
    return {
        **found,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flops_per_image": 3 * counter.get_total_flops() / flag.batch_size,
        "versions": {"normflows": version("normflows"), "torch": torch.__version__},
    }


_LIBRARIES = {"tfp_vaeflow": _ours, "tfb.Glow": _tfp, "normflows": _normflows}


def _in_new_process(library: str, python: str, settings: dict) -> dict | None:
    """A library's figures; None, after a line that says so, where it is not there."""
    threads = str(len(os.sched_getaffinity(0)))
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    print(f"measuring {library} ...", flush=True)
    done = subprocess.run(
        [
            python,
            __file__,
            *(f"--{name}={value}" for name, value in settings.items()),
            f"--library={library}",
            f"--started={time.monotonic()}",
        ],
        env={**os.environ, **dict.fromkeys(names, threads), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"{library}: its process ended with {done.returncode}; see what it wrote"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        print(
            f"{library} is left out: {python} has no module {found['missing']!r}; "
            "--help says how to install it"
        )
        return None
    rate = found["train_images_per_s"] * found["flops_per_image"]
    return {**found, "train_gflops_per_s": rate / 1e9}


def _measured_here(flag: argparse.Namespace) -> dict:
    """What `_in_new_process` reads: figures, or the module that is missing."""
    try:
        found = _LIBRARIES[flag.library](flag)
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    return {name: found[name] for name in [*_FIGURES[:-1], "versions"]}


def _check(flag: argparse.Namespace, sizes: list[str]) -> None:
    least = {"batch_size": 2}  # its standard deviation is taken
    for name in sizes:
        value = getattr(flag, name)
        if value < least.get(name, 1):
            raise UserError(
                f"--{name} is {value}; expected at least {least.get(name, 1)}"
            )
    if flag.steps_per_level % 4:
        raise UserError(
            f"--steps_per_level is {flag.steps_per_level}; expected a multiple of 4, "
            "the couplings of one step here"
        )
    if flag.image_size % 2**flag.levels:
        raise UserError(
            f"--image_size is {flag.image_size}, which cannot be halved "
            f"{flag.levels} times; expected a multiple of {2**flag.levels}"
        )
    if shutil.which(flag.python) is None:
        raise UserError(
            f"--python is {flag.python!r}, which cannot be run; expected the "
            "interpreter of an environment that has normflows"
        )


def _print(found: dict[str, dict]) -> None:
    """A row a figure, a column a library."""
    print(" " * 22 + "".join(f"{library:>16}" for library in found))
    for name in _FIGURES:
        values = (figures[name] for figures in found.values())
        cells = (f"{v:>16,.{0 if v >= 1000 else 1}f}" for v in values)
        print(f"{name:22}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "image_size": (32, "pixels a side"),
        "levels": (3, "times that the image is squeezed"),
        "steps_per_level": (8, "couplings a level"),
        "hidden": (128, "width of the coupling networks"),
        "batch_size": (32, "images at a time"),
        "repeats": (5, "of everything"),
    }
    for name, (default, text) in sizes.items():
        help_text = f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, help=help_text)
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has normflows"
    )
    parser.add_argument("--output", type=Path, help="takes the figures as JSON")
    # Of the processes that measure.
    parser.add_argument("--library", choices=_LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    flag = parser.parse_args()
    if flag.library is not None:
        print(json.dumps(_measured_here(flag)))
        return
    settings = {name: getattr(flag, name) for name in sizes}
    try:
        _check(flag, list(sizes))
        found = {}
        for library in _LIBRARIES:
            python = flag.python if library == "normflows" else sys.executable
            figures = _in_new_process(library, python, settings)
            if figures is not None:
                found[library] = figures
        _print(found)
        if flag.output is not None:
            settings["threads"] = len(os.sched_getaffinity(0))
            text = json.dumps({"libraries": found, "settings": settings}, indent=2)
            files.write_text(flag.output, text + "\n")
            print(f"written to {flag.output}")
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
