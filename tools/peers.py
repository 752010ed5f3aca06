"""A Glow in one of several libraries, in this process, for benchmark_peers.py.

    python tools/peers.py LIBRARY SIZES STARTED

initializes the model, takes the first step and prints the seconds since STARTED (by the
monotonic clock, without the initialisation), or the name of a missing module. For each
line of its input it then runs the function of that name, and prints the seconds that
this took. Every answer is one line of JSON; SIZES are JSON, too.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The interpreter that runs normflows may have neither TensorFlow nor absl, so each
# library is imported by its own function.

_CHANNELS = 3


class Sizes(NamedTuple):
    """The sizes of the Glow in all libraries; see `benchmark_peers.py --help`."""

    image_size: int
    levels: int
    steps_per_level: int
    hidden: int
    batch_size: int


class _Model(NamedTuple):
    """The functions that a library's process can run.

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


def _pixels(sizes: Sizes):
    """The batch, uint8 `[B, H, W, C]`."""
    import numpy as np

    shape = (sizes.batch_size, sizes.image_size, sizes.image_size, _CHANNELS)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _images(sizes: Sizes):
    """The batch as a flow takes it, float32 in [-1, 1)."""
    return (_pixels(sizes).astype("float32") + 0.5) / 128 - 1


def _count(variables) -> int:
    return sum(variable.shape.num_elements() for variable in variables)


def _ours(sizes: Sizes) -> _Model:
    from tfp_vaeflow import __version__, command, config

    command.start_tensorflow(cached=False)
    import tensorflow as tf

    from tfp_vaeflow import compute, data
    from tfp_vaeflow.data.splits import in_memory
    from tfp_vaeflow.training.cost import costs
    from tfp_vaeflow.training.devices import make_strategy
    from tfp_vaeflow.training.step import Trainer

    compute.tune_process()
    size = sizes.batch_size
    steps = sizes.steps_per_level // 4
    flow = config.FlowConfig(
        # No steps at full resolution: the other libraries begin with a squeeze.
        num_steps=(0, *[(steps,)] * (sizes.levels - 1), steps),
        hidden=(sizes.hidden,) * (sizes.levels + 1),
        factors=(2,) * (sizes.levels - 1),
        activation="relu",
    )
    pixels = _pixels(sizes)
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
            "parameters": _count(model.trainable_variables),
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


def _tfp(sizes: Sizes) -> _Model:
    from tfp_vaeflow import command

    command.start_tensorflow(cached=False)
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras  # TFP's own networks are made of it

    from tfp_vaeflow.training.cost import flops_of

    tfb, tfd = tfp.bijectors, tfp.distributions
    images = tf.constant(_images(sizes))
    glow = tfb.Glow(
        output_shape=images.shape[1:],
        num_glow_blocks=sizes.levels,
        num_steps_per_block=sizes.steps_per_level,
        coupling_bijector_fn=functools.partial(
            tfb.GlowDefaultNetwork, num_hidden=sizes.hidden
        ),
        exit_bijector_fn=tfb.GlowDefaultExitNetwork,
        seed=0,
    )
    code = tfd.Sample(tfd.Normal(0.0, 1.0), images.shape[1:].num_elements())
    distribution = tfd.TransformedDistribution(code, glow)
    variables = glow.trainable_variables
    optimizer = tf_keras.optimizers.Adam(1e-3)

    # The images are an argument because TFP caches its results by tensor.
    @tf.function
    def train(images):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(distribution.log_prob(images))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    density = tf.function(distribution.log_prob)
    sample = tf.function(lambda: distribution.sample(sizes.batch_size))

    def cost():
        graph = tf.function(glow.inverse).get_concrete_function(images).graph
        flops = sum(map(flops_of, graph.get_operations())) / sizes.batch_size
        return {
            "parameters": _count(variables),
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


def _normflows(sizes: Sizes) -> _Model:
    from importlib.metadata import version

    import normflows as nf
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    images = torch.from_numpy(_images(sizes)).permute(0, 3, 1, 2).contiguous()
    codes, flows = [], []
    for squeezes in range(sizes.levels, 0, -1):  # from the coarsest level
        channels = _CHANNELS * 2 ** (squeezes + 1)
        side = sizes.image_size // 2**squeezes
        steps = [
            nf.flows.GlowBlock(channels, sizes.hidden)
            for _ in range(sizes.steps_per_level)
        ]
        flows.append([*steps, nf.flows.Squeeze()])
        leaving = channels if squeezes == sizes.levels else channels // 2
        shape = (leaving, side, side)
        codes.append(nf.distributions.DiagGaussian(shape, trainable=False))
    merges = [nf.flows.Merge() for _ in range(sizes.levels - 1)]
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
            model.sample(sizes.batch_size)

    def cost():
        with FlopCounterMode(display=False) as counter:
            density()
        return {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "flops_per_image": 3 * counter.get_total_flops() / sizes.batch_size,
            "versions": {"normflows": version("normflows"), "torch": torch.__version__},
        }

    return _Model(density, train, density, sample, cost)


LIBRARIES = {"tfp_vaeflow": _ours, "tfb.Glow": _tfp, "normflows": _normflows}


def _answer(**what) -> None:
    print(json.dumps(what), flush=True)


def main(library: str, sizes: Sizes, started: float) -> None:
    try:
        model = LIBRARIES[library](sizes)
    except ModuleNotFoundError as error:
        _answer(missing=error.name)
        return
    start = time.monotonic()
    model.initialize()
    apart = time.monotonic() - start
    model.train()
    _answer(seconds=time.monotonic() - started - apart)
    for line in sys.stdin:
        what = line.strip()
        start = time.perf_counter()
        result = getattr(model, what)()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cost = result if what == "cost" else None
        _answer(seconds=seconds, peak=peak, cost=cost)


if __name__ == "__main__":
    main(sys.argv[1], Sizes(**json.loads(sys.argv[2])), float(sys.argv[3]))
