"""Times sampling and density of a MaCow step for images of several sizes.

Sampling inverts masked convolutions row by row: 4 times the side means 4 times the
iterations of each loop, each on a strip that is 4 times as long. A loop that convolved
the whole image in each iteration would do 64 times the arithmetic.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

flags.DEFINE_multi_integer("side", [16, 32, 64], "Pixels a side; several allowed.")
flags.DEFINE_integer("channels", 12, "Channels of the step.")
flags.DEFINE_integer("hidden", 64, "Width of its coupling networks.")
flags.DEFINE_integer("batch_size", 1, "Images at a time.")
flags.DEFINE_integer("repeats", 7, "Runs, of which the median is taken.")


def main() -> None:
    import tensorflow as tf

    from tfp_vaeflow.bijectors import MaCowStep
    from tfp_vaeflow.config import CouplingConfig, StepConfig
    from tfp_vaeflow.networks import Initializer

    flag = command.FLAGS
    config = StepConfig(CouplingConfig(flag.hidden))
    step = MaCowStep(flag.channels, config, Initializer())
    directions = {
        "sampling": tf.function(step.forward_and_log_det),
        "density": tf.function(step.inverse_and_log_det),
    }
    first = {}
    print(f"{'side':>6}{'direction':>12}{'ms':>10}{'ratio':>8}")
    for side in flag.side:
        x = tf.random.stateless_normal(
            [flag.batch_size, side, side, flag.channels], [0, 0]
        )
        for name, run in directions.items():
            times = []
            for _ in range(flag.repeats + 1):  # the first one traces
                start = time.perf_counter()
                run(x)[0].numpy()
                times.append(time.perf_counter() - start)
            seconds = statistics.median(times[1:])
            ratio = seconds / first.setdefault(name, seconds)
            print(f"{side:>6}{name:>12}{1000 * seconds:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    command.run_main(main, __doc__)
