"""Helpers that several test modules share."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfp_vaeflow import config as cfg
from tfp_vaeflow import data
from tfp_vaeflow.networks import Folding, Initializer


def tiny_model_config(**changes) -> cfg.ModelConfig:
    """A 3-level model for 8x8 RGB images that builds in a moment."""
    values = {
        "image_shape": (8, 8, 3),
        "n_bins": 256,
        "latent_dim": 4,
        "flow": cfg.FlowConfig(num_steps=[1, [1], 1], hidden=[4, 4, 4], factors=[4]),
        "encoder": cfg.EncoderConfig(planes=[4], out_planes=2),
        "prior": cfg.PriorConfig(num_steps=1, hidden=4),
    }
    return cfg.ModelConfig(**{**values, **changes})


# Bindings that make gin/digits.gin tiny, for commands.
TINY = [
    "FlowConfig.num_steps=[0,[1],1]",
    "FlowConfig.hidden=[8,8,8]",
    "EncoderConfig.planes=[4]",
    "EncoderConfig.out_planes=2",
    "ModelConfig.latent_dim=4",
    "PriorConfig.hidden=4",
    "TrainingConfig.batch_size=32",
    "TrainingConfig.log_every=5",
    "TrainingConfig.evaluate_every=5",
    "TrainingConfig.initialization_images=128",
    "EvaluationConfig.num_samples=2",
    "EvaluationConfig.generated_images=50",
    "EvaluationConfig.probe_seeds=1",
    "EvaluationConfig.classifier_steps=30",
    "EvaluationConfig.temperatures=(0.7,1.0)",
]


def tiny_experiment(**training) -> cfg.ExperimentConfig:
    """The digits with a tiny model and all that training can do, but for the clip.

    Args:
      **training: settings that differ.
    """
    model = tiny_model_config(
        image_shape=(8, 8, 1),
        n_bins=17,
        flow=cfg.FlowConfig(num_steps=[0, [1], 1], hidden=[8, 8, 8], factors=[4]),
        encoder=cfg.EncoderConfig([4], 2),
    )
    settings = {
        "batch_size": 48,  # 27 steps an epoch
        "micro_batches": 2,
        "num_steps": 40,
        "initialization_images": 128,
        "log_every": 10,
        "evaluate_every": 20,
        "checkpoint_every": 10,
        "keep_checkpoints": 3,
        "images_every": 40,
        "seed": 3,
    }
    return cfg.ExperimentConfig(
        model=model,
        data=cfg.DataConfig("digits", shift=1, shift_fill="constant"),
        objective=cfg.ObjectiveConfig(free_nats=2.0),
        optimizer=cfg.OptimizerConfig(
            learning_rate=3e-3, warmup_steps=2, ema_decay=0.9
        ),
        training=cfg.TrainingConfig(**{**settings, **training}),
    )


def load_digits(config: cfg.ExperimentConfig) -> data.Splits:
    return data.load(config.data, config.model)


def start_server(script: str) -> subprocess.Popen:
    """Starts a script of this folder that takes orders by stdin, answers by stdout."""
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, here / script],
        env={**os.environ, "PYTHONPATH": str(here.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class CommandServer:
    """Runs the project's commands, each in a fork of one process.

    Args:
      outputs: a directory for what they print.
    """

    def __init__(self, outputs: Path):
        self._outputs = outputs
        self._numbers = itertools.count()
        self._process = start_server("forkserver.py")

    def run(
        self,
        command: str,
        *arguments: object,
        cwd: Path,
        then: Sequence[Sequence[object]] = (),
        optimized: bool = False,
        **surroundings,
    ) -> subprocess.CompletedProcess:
        """Runs a command to its end.

        Args:
          command: such as `train`.
          *arguments: its flags.
          cwd: where it runs.
          then: commands, each with its flags, that follow in the same process.
          optimized: whether TensorFlow optimises the graphs, as it does for users.
          **surroundings: what changes there, see `surroundings.apply`.
        """
        stdout, stderr = (self._outputs / f"{next(self._numbers)}" for _ in range(2))
        order = {
            "commands": [
                list(map(str, words)) for words in ([command, *arguments], *then)
            ],
            "cwd": str(cwd),
            "optimized": optimized,
            "stdout": str(stdout),
            "stderr": str(stderr),
            **surroundings,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(
            order, code, stdout.read_text(), stderr.read_text()
        )

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def digest(checkpoint: str | Path) -> str:
    """md5 over the names and bits of every variable in a checkpoint."""
    reader = tf.train.load_checkpoint(str(checkpoint))
    result = hashlib.md5()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":  # describes what belongs to what
            value = np.asarray(reader.get_tensor(name))
            result.update(name.encode() + value.tobytes())
    return result.hexdigest()


def random_images(count: int, shape=(8, 8, 3), seed: int = 0) -> np.ndarray:
    """Smooth-ish random uint8 images, so that initialisation sees unequal channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (count, shape[0] // 2, shape[1] // 2, shape[2]))
    fine = rng.integers(0, 56, (count, *shape))
    return (coarse.repeat(2, 1).repeat(2, 2) + fine).astype(np.uint8)


def randomize(module: tf.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Moves every floating-point variable away from its start.

    A fresh coupling is the identity, and a test of it would test nothing.
    """
    rng = np.random.default_rng(seed)
    for variable in module.variables:
        if variable.dtype.is_floating and variable.trainable:
            variable.assign_add(scale * rng.standard_normal(variable.shape))


def float64_init(seed: int = 0) -> Initializer:
    return Initializer(seed, tf.float64)


def assert_valid_bijector(
    bijector,
    event_shape: tuple[int, ...],
    conditioning_shape: int | tuple[int, ...] = 0,
    scale: float = 0.3,
) -> None:
    """Checks all that a bijector promises, in float64 on random weights.

    Round trips from both sides, the log-dets of both directions against autodiff
    Jacobians, that it is not the identity, that examples do not see each other, and
    that every variable and input gets a finite gradient.

    Args:
      bijector: built with `float64_init`.
      event_shape: of one example; keep its size small, the Jacobian is dense.
      conditioning_shape: length of a conditioning vector, or shape of a map; 0 for
        none.
      scale: how far the weights are moved; deep flows lose digits when it is large.
    """
    randomize(bijector, scale=scale)
    rng = np.random.default_rng(1)
    batch = 3
    x = tf.constant(rng.standard_normal((batch, *event_shape)))
    kwargs, conditioning = {}, None
    if conditioning_shape:
        shape = (conditioning_shape,)
        if isinstance(conditioning_shape, tuple):
            shape = conditioning_shape
        conditioning = tf.constant(rng.standard_normal((batch, *shape)))
        kwargs = {"conditioning": conditioning}
    ndims = len(event_shape)
    close = dict(rtol=0, atol=1e-8)

    # tf.identity keeps TFP's cache, which goes by tensor, from answering.
    y = bijector.forward(x, **kwargs)
    np.testing.assert_allclose(bijector.inverse(tf.identity(y), **kwargs), x, **close)
    back = bijector.inverse(tf.identity(x), **kwargs)
    again = bijector.forward(tf.identity(back), **kwargs)
    np.testing.assert_allclose(again, x, **close)
    assert np.abs(y - x).max() > 1e-2, "the bijector is the identity"

    size = int(np.prod(event_shape))
    for run, fldj in (
        (bijector.forward, bijector.forward_log_det_jacobian),
        (bijector.inverse, bijector.inverse_log_det_jacobian),
    ):
        value = tf.identity(x)
        with tf.GradientTape() as tape:
            tape.watch(value)
            result = run(value, **kwargs)
        jacobian = tape.batch_jacobian(result, value)
        matrices = tf.reshape(jacobian, [batch, size, size])
        expected = np.linalg.slogdet(matrices.numpy())[1]
        fresh = tf.identity(value)
        log_det = fldj(fresh, event_ndims=ndims, **kwargs)
        np.testing.assert_allclose(log_det, expected, **close)

    # The methods that return both agree with TFP's.
    both = bijector.inverse_and_log_det(x, conditioning)
    np.testing.assert_allclose(both[0], back, **close)
    np.testing.assert_allclose(both[1], log_det, **close)
    assert both[1].shape == (batch,)

    # So does the layer with all folded that can be folded.
    folded = bijector.folded(Folding(tf.float64))
    for run in ("forward_and_log_det", "inverse_and_log_det"):
        expected = getattr(bijector, run)(x, conditioning)
        for ours, theirs in zip(getattr(folded, run)(x, conditioning), expected):
            np.testing.assert_allclose(ours, theirs, **close)

    for index in range(batch):
        one = {k: v[index : index + 1] for k, v in kwargs.items()}
        alone = bijector.forward(x[index : index + 1], **one)
        np.testing.assert_allclose(alone[0], y[index], **close)

    variables = bijector.trainable_variables
    with tf.GradientTape() as tape:
        inputs = [x, *kwargs.values()]
        tape.watch(inputs)
        value, log_det = bijector.inverse_and_log_det(*inputs)
        loss = tf.reduce_sum(value**2) - tf.reduce_sum(log_det)
    for target, gradient in zip(
        [*variables, *inputs], tape.gradient(loss, [*variables, *inputs])
    ):
        assert gradient is not None, getattr(target, "name", "input")
        assert np.isfinite(gradient).all(), getattr(target, "name", "input")
        used = conditioning is None or target is not conditioning
        assert not used or np.abs(gradient).max() > 0, getattr(target, "name", "input")
