"""Measures a Glow of one size in several libraries, on the same images and CPU.

    python -m venv peers && peers/bin/pip install torch normflows
    python tools/benchmark_peers.py --python=peers/bin/python --output=PEERS.json

Measures this package, TensorFlow Probability's tfb.Glow and normflows, each in a
process of its own with one thread per core. A library that is not installed is left
out. Once all are ready, they run by turns, so that a machine whose speed changes
favours none; rates are medians over --repeats. Data-dependent initialisation is not
timed. Run nothing else meanwhile: other load does not slow all libraries alike.

All have --levels levels of --steps_per_level affine couplings, whose networks are
convolutions 3x3-1x1-3x3 of width --hidden with ReLU. Between levels, half of the
channels leave. Training uses Adam, compiled by tf.function, or eager in normflows.

Differences:
- In this package, a step has four couplings with one 1x1 convolution and two ActNorms;
  the others have one of each per coupling. Channels that leave pass one more coupling
  in this package, a single convolution in tfb.Glow, and nothing in normflows.
- This package runs the trainer's step, which adds dequantization, the norm of the
  gradient and a check that all values are finite, in a process set up like that of
  `train`. Its density and sampling take and return pixels.

FLOPs are those of training per image: three times the convolutions and matrix products
from the image to its code. tfb.Glow's log_prob computes its networks twice, for the
value and for the log-det; the second time is not counted.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import LIBRARIES, Sizes

# No TensorFlow here: a new process begins with the peak memory of its parent.
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError

_PEER = Path(__file__).resolve().with_name("peers.py")

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


class _Peer:
    """A library in a process of its own.

    Attributes:
      first: its answer after its first step.

    Args:
      library: its name.
      python: the interpreter that has it.
      sizes: the sizes of the Glow.
    """

    def __init__(self, library: str, python: str, sizes: Sizes):
        self.library = library
        threads = str(len(os.sched_getaffinity(0)))
        names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
        told = [library, json.dumps(sizes._asdict()), str(time.monotonic())]
        self._process = subprocess.Popen(
            [python, _PEER, *told],
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
        """Has it run something; its answer has the time and the peak memory so far."""
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


def _check(flag: argparse.Namespace, names: list[str]) -> None:
    least = {"batch_size": 2}  # its standard deviation is taken
    for name in names:
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
    """Prints one row per figure, with one column per library."""
    print(" " * 22 + "".join(f"{library:>16}" for library in found))
    for name in _FIGURES:
        values = (figures[name] for figures in found.values())
        cells = (f"{v:>16,.{0 if v >= 1000 else 1}f}" for v in values)
        print(f"{name:22}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {
        "image_size": (32, "pixels a side"),
        "levels": (3, "times that the image is squeezed"),
        "steps_per_level": (8, "couplings a level"),
        "hidden": (128, "width of the coupling networks"),
        "batch_size": (32, "images at a time"),
        "repeats": (5, "of everything"),
    }
    for name, (default, text) in numbers.items():
        help_text = f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, help=help_text)
    parser.add_argument(
        "--python",
        type=files.expand,
        default=sys.executable,
        help="interpreter that has normflows",
    )
    parser.add_argument(
        "--output", type=files.user_path, help="takes the figures as JSON"
    )
    flag = parser.parse_args()
    settings = {name: getattr(flag, name) for name in numbers}
    peers = []
    try:
        _check(flag, list(numbers))
        sizes = Sizes(**{name: settings[name] for name in Sizes._fields})
        for library in LIBRARIES:
            python = flag.python if library == "normflows" else sys.executable
            peers.append(_Peer(library, python, sizes))
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
