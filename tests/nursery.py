"""Trains in processes that are forked, to be killed: TensorFlow is imported once.

Reads model directories from stdin, one a line. For each it prints the process's number,
what happens in it, and how it ended. Saves are slow: each stops for a moment where it
is half done, and says so.
"""

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

# The place where TensorFlow joins the parts of a checkpoint under their final name.
from tensorflow.python.ops import gen_io_ops

from testing import load_digits, tiny_experiment, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import training
from tfp_vaeflow.training.devices import mirrored

PAUSE = 0.3


def say(*words):
    print(*words, flush=True)


def slowly(owner, name, before, after):
    """Makes a function stop before and after its work."""
    work = getattr(owner, name)

    def slow(*args, **kwargs):
        say("saving", before)
        time.sleep(PAUSE)
        result = work(*args, **kwargs)
        say("saving", after)
        time.sleep(PAUSE)
        return result

    setattr(owner, name, slow)


def experiment():
    """Little to trace, and no pictures."""
    model = tiny_model_config(
        image_shape=(8, 8, 1),
        n_bins=17,
        flow=cfg.FlowConfig(num_steps=[0, 1], hidden=[4, 4], factors=[]),
        prior=cfg.PriorConfig("normal"),
    )
    whole = tiny_experiment(
        num_steps=60, log_every=1, evaluate_every=15, checkpoint_every=5, images_every=0
    )
    return cfg.ExperimentConfig(
        model=model, data=whole.data, optimizer=whole.optimizer, training=whole.training
    )


def main():
    slowly(gen_io_ops, "merge_v2_checkpoints", "parts", "data")
    slowly(tf.train.CheckpointManager, "_record_state", "data", "state")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            tf.config.optimizer.set_experimental_options(
                {"disable_meta_optimizer": True}
            )
            config = experiment()
            strategy = mirrored(["CPU:0"])
            training.train(config, load_digits(config), strategy, line.strip(), "")
            os._exit(0)
        say("process", child)
        say("ended", os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
