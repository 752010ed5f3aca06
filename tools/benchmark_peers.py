"""What a Glow of one size costs in several libraries, on the same images, on the CPU.

    python -m venv peers && peers/bin/pip install torch normflows
    python tools/benchmark_peers.py --python=peers/bin/python --output=PEERS.json

Measures this package, TensorFlow Probability's tfb.Glow and normflows, each in a
process of its own with a thread a core. A library that is not there is left out. Once
all are ready they run by turns, so that a machine whose speed changes favours none;
rates are medians over --repeats. Data-dependent initialisation is not timed. Let
nothing else run meanwhile: it does not slow all of them alike.

All have --levels levels of --steps_per_level affine couplings by networks 3x3-1x1-3x3
of width --hidden with ReLU; between levels half of the channels leave. They are trained
with Adam, compiled by tf.function or, normflows, eagerly.

What differs:
- Here four couplings make a step, with one 1x1 convolution and two ActNorms; the others
  have one of each with every coupling. Channels that leave pass one more coupling here,
  a single convolution in tfb.Glow, nothing in normflows.
- What runs here is the trainer's step, which adds dequantization, the norm of the
  gradient and a check that all is finite, in a process set up as that of `train`;
  density and sampling take and give pixels.

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
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# What measures normflows has neither TensorFlow nor absl. And the program itself stays
# small: a new process begins with the peak memory of its parent.
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


class _Model(NamedTuple):
    """What a library's process can be told to do.

    Attributes:
      initialize: data-dependent initialisation.
      train, density, sample: each takes or makes one batch, and waits for it.
      cost: gives `parameters`, `flops_per_image` and `versions`.
    """

    initialize: Callable[[], object]
    train: Callable[[], object]
    density: Callable[[], object]
    sample: Callable[[], object]
    cost: Callable[[], dict]


def _pixels(flag: argparse.Namespace):
    """The batch, uint8 `[B, H, W, C]`."""
    import numpy as np

    shape = (flag.batch_size, flag.image_size, flag.image_size, _CHANNELS)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _images(flag: argparse.Namespace):
    """The batch as a flow takes it, float32 in [-1, 1)."""
    return (_pixels(flag).astype("float32") + 0.5) / 128 - 1


def _sizes(variables) -> int:
    return sum(variable.shape.num_elements() for variable in variables)


def _ours(flag: argparse.Namespace) -> _Model:
    from tfp_vaeflow import __version__, command, config

    command.start_tensorflow()
    import tensorflow as tf

    from tfp_vaeflow import data
    from tfp_vaeflow.cost import costs
    from tfp_vaeflow.data.splits import in_memory
    from tfp_vaeflow.distribution import make_strategy, tune_process
    from tfp_vaeflow.trainer.step import Trainer

    tune_process()
    size = flag.batch_size
    steps = flag.steps_per_level // 4
    flow = config.FlowConfig(
        # The finest level of the others begins with a squeeze.
        num_steps=(0, *[(steps,)] * (flag.levels - 1), steps),
        hidden=(flag.hidden,) * (flag.levels + 1),
        factors=(2,) * (flag.levels - 1),
        activation="relu",
    )
    pixels = _pixels(flag)
    experiment = config.ExperimentConfig(
        config.ModelConfig(pixels.shape[1:], n_bins=256, latent_dim=0, flow=flow),
        training=config.TrainingConfig(batch_size=size, initialization_images=size),
    )
    trainer = Trainer(experiment, make_strategy())
    model = trainer.model
    split = in_memory(pixels, None)
    batch = next(iter(data.training_batches(split, experiment.data, size, 0, 0)))

    def cost():
        return {
            "parameters": _sizes(model.trainable_variables),
            "flops_per_image": 3 * sum(part.flops for part in costs(model).values()),
            "versions": {"tfp_vaeflow": __version__, "tensorflow": tf.__version__},
        }

    return _Model(
        lambda: trainer.initialize(split),
        lambda: trainer.train_step(batch).gradient_norm.numpy(),
        lambda: model.losses(pixels, batch_size=size).generation.numpy(),
        lambda: model.sample(size, batch_size=size).numpy(),
        cost,
    )


def _tfp(flag: argparse.Namespace) -> _Model:
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

    def cost():
        graph = tf.function(glow.inverse).get_concrete_function(images).graph
        flops = sum(map(flops_of, graph.get_operations())) / flag.batch_size
        return {
            "parameters": _sizes(variables),
            "flops_per_image": 3 * flops,
            "versions": {
                "tensorflow_probability": tfp.__version__,
                "tensorflow": tf.__version__,
            },
        }

    return _Model(
        lambda: distribution.log_prob(images),
        lambda: train(images).numpy(),
        lambda: density(images).numpy(),
        lambda: sample().numpy(),
        cost,
    )


def _normflows(flag: argparse.Namespace) -> _Model:
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

    def cost():
        with FlopCounterMode(display=False) as counter:
            density()
        return {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "flops_per_image": 3 * counter.get_total_flops() / flag.batch_size,
            "versions": {"normflows": version("normflows"), "torch": torch.__version__},
        }

    return _Model(density, train, density, sample, cost)


_LIBRARIES = {"tfp_vaeflow": _ours, "tfb.Glow": _tfp, "normflows": _normflows}


def _serve(flag: argparse.Namespace) -> None:
    """A library's process: takes its first step, then does what it reads."""

    def answer(**what):
        print(json.dumps(what), flush=True)

    try:
        model = _LIBRARIES[flag.library](flag)
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    start = time.monotonic()
    model.initialize()
    apart = time.monotonic() - start
    model.train()
    answer(seconds=time.monotonic() - flag.started - apart)
    for line in sys.stdin:
        what = line.strip()
        start = time.perf_counter()
        result = getattr(model, what)()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cost = result if what == "cost" else None
        answer(seconds=seconds, peak=peak, cost=cost)


class _Peer:
    """A library in a process of its own.

    Attributes:
      first: what it says after its first step.

    Args:
      library: its name.
      python: the interpreter that has it.
      settings: the sizes.
    """

    def __init__(self, library: str, python: str, settings: dict):
        self.library = library
        threads = str(len(os.sched_getaffinity(0)))
        names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
        sizes = [f"--{name}={value}" for name, value in settings.items()]
        own = [f"--library={library}", f"--started={time.monotonic()}"]
        self._process = subprocess.Popen(
            [python, __file__, *sizes, *own],
            env={
                **os.environ,
                **dict.fromkeys(names, threads),
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                f"{self.library}: its process ended with {self._process.wait()}; see "
                "what it wrote"
            )
        return json.loads(line)

    def run(self, what: str) -> dict:
        """Has it do something; how long that took, and the peak memory so far."""
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def _measure(peers: list[_Peer], batch_size: int, repeats: int) -> dict[str, dict]:
    """The figures of libraries that have taken their first step, by name."""
    found = {peer.library: {} for peer in peers}
    for what in ("train", "density", "sample"):
        for peer in peers:
            peer.run(what)  # the first one traces
        answers = {peer.library: [] for peer in peers}
        for _ in range(repeats):
            for peer in peers:
                answers[peer.library].append(peer.run(what))
        for peer in peers:
            figures, taken = found[peer.library], answers[peer.library]
            seconds = statistics.median(answer["seconds"] for answer in taken)
            figures[f"{what}_images_per_s"] = batch_size / seconds
            if what == "train":
                figures["seconds_to_first_step"] = peer.first["seconds"] - seconds
                figures["peak_memory_mb"] = taken[-1]["peak"]
    for peer in peers:
        figures = found[peer.library]
        figures.update(peer.run("cost")["cost"])
        rate = figures["train_images_per_s"] * figures["flops_per_image"]
        figures["train_gflops_per_s"] = rate / 1e9
    return found


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
        _serve(flag)
        return
    settings = {name: getattr(flag, name) for name in sizes}
    peers = []
    try:
        _check(flag, list(sizes))
        for library in _LIBRARIES:
            python = flag.python if library == "normflows" else sys.executable
            peers.append(_Peer(library, python, settings))
            missing = peers[-1].first.get("missing")
            if missing is None:
                print(f"{library} has taken its first step", flush=True)
            else:
                peers.pop().close()
                print(
                    f"{library} is left out: {python} has no module {missing!r}; "
                    "--help says how to install it"
                )
        found = _measure(peers, flag.batch_size, flag.repeats)
        _print(found)
        if flag.output is not None:
            settings["threads"] = len(os.sched_getaffinity(0))
            text = json.dumps({"libraries": found, "settings": settings}, indent=2)
            files.write_text(flag.output, text + "\n")
            print(f"written to {flag.output}")
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    finally:
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    main()
