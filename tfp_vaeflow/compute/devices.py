"""What the devices here are good at."""

import functools
from pathlib import Path

import tensorflow as tf


def has_gpu() -> bool:
    """Whether TensorFlow has a GPU here."""
    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the device that runs products has instructions for bfloat16."""
    if has_gpu() or tf.config.list_logical_devices("TPU"):
        return True
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text()  # avx512_bf16, amx_bf16
    except OSError:
        return True
