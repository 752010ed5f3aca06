"""Counts the operations that a device starts for a training step.

    python tools/operations.py --gin_file=gin/cifar10.gin --batch_size=8

On a GPU, starting an operation takes some microseconds, whatever it computes. This
prints the number of operations of the step as a graph of TensorFlow, and of the step as
XLA compiles it (the instructions of the optimised program, those of a loop once per
iteration), with the memory that the latter reads and writes. XLA compiles for the
device of this machine: on a CPU the numbers are an estimate for a GPU.

With --hlo, the step is written to a file instead, as XLA takes it: tools/gpu_program.py
says what XLA makes of it for a GPU, on a machine without one.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hlo_program import Program

from tfp_vaeflow.common import files

# Operations that compute nothing: they name values or pass them on.
_NOTHING_IN_GRAPHS = {
    "Const",
    "Identity",
    "IdentityN",
    "NoOp",
    "Placeholder",
    "StopGradient",
    "PreventGradient",
    "_Arg",
    "_Retval",
}


def count_in_graph(graph) -> int:
    """The operations of a graph and of the functions that it calls.

    A loop counts as one iteration.

    Args:
      graph: a `tf.Graph`.
    """
    definition = graph.as_graph_def()
    functions = {f.signature.name: f.node_def for f in definition.library.function}
    known = {}

    def count(nodes):
        return sum(map(operations, nodes))

    def operations(node):
        called = [v.func.name for v in node.attr.values() if v.func.name]
        if not called or node.op.endswith("Dataset"):
            return node.op not in _NOTHING_IN_GRAPHS
        for name in called:
            if name not in known:
                known[name] = count(functions.get(name, ()))
        return sum(known[name] for name in called)

    return count(definition.node)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gin_file", type=files.expand, default="gin/cifar10.gin")
    parser.add_argument("--gin_bindings", action="append", default=[])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--hlo", type=files.user_path, help="takes the step")
    flag = parser.parse_args()

    from benchmark import random_split  # it starts TensorFlow

    from tfp_vaeflow import compute
    from tfp_vaeflow.config import experiment
    from tfp_vaeflow.training import Trainer
    from tfp_vaeflow.training.devices import make_strategy

    sizes = [
        f"TrainingConfig.batch_size={flag.batch_size}",
        "TrainingConfig.initialization_images=2",
    ]
    bindings = [*flag.gin_bindings, *sizes, "TrainingConfig.jit_compile=False"]
    config = experiment.load([flag.gin_file], bindings)
    trainer = Trainer(config, make_strategy("one_device"))
    batch = next(iter(trainer.training_batches(random_split(config), 0)))
    if flag.hlo is not None:
        files.write_bytes(flag.hlo, trainer.program(batch, "hlo_serialized"))
        print(f"written to {flag.hlo}")
        return
    print(f"graph: {count_in_graph(trainer.graph(batch))} operations", flush=True)
    start = time.perf_counter()
    program = Program(trainer.program(batch))
    print(
        f"compiled by XLA: {program.operations()} operations, which read and write "
        f"{program.traffic() / 1e9:.1f} GB; compiled in "
        f"{time.perf_counter() - start:.0f} s, the process took up to "
        f"{compute.peak_memory_mib():.0f} MB"
    )


if __name__ == "__main__":
    main()
