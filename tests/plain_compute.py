"""The room `compute` in its plainest form: no graphs, no tricks, float32."""

import contextlib

import keras
import pytest
import tensorflow as tf

from tfp_vaeflow import compute


def _linear(x, kernel):
    kernel = tf.cast(kernel, x.dtype)
    if kernel.shape.rank == 2:
        return tf.matmul(x, kernel)
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _normalized_by_batch(x, offset, scale, epsilon):
    mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    y = tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)
    count = tf.cast(tf.size(x) / x.shape[-1], x.dtype)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance), count


def _in_turn(modules, method, x, conditioning):
    maps = []
    for module in modules:
        x, log_det_map = method(module, x, conditioning)
        maps.append(log_det_map)
    return x, maps


FORMS = {
    "as_fast_as_float32": lambda function: function,
    "assign_on_replica": lambda variable, value: variable.assign(value),
    "compiled": lambda function: function,
    "compile_use_at_once": lambda: None,
    "compiled_for_use": lambda function, signature, graph, name: function,
    "compiled_in_parts": lambda function, signature, sizes: function,
    "conv2d_same": lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"),
    "conv2d_valid": lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "VALID"),
    "elu": tf.nn.elu,
    "give_memory_back": lambda: None,
    "gradient": lambda tape, target, sources: tape.gradient(target, sources),
    "in_groups": lambda function, lists, *others: [function(*lists, *others)],
    "in_turn": _in_turn,
    "inverse": tf.linalg.inv,
    "linear": _linear,
    "log_abs_det": lambda matrix: tf.linalg.slogdet(matrix)[1],
    "network_dtype": lambda dtype: dtype,
    "normalized_by_batch": _normalized_by_batch,
    "of_any_batch": lambda y: y,
    "padded": lambda inputs, batch_size: list(inputs),
    "recomputed": lambda function: function,
    "repeated": lambda cells, rows, columns: tf.repeat(
        tf.repeat(cells, rows, axis=1), columns, axis=2
    ),
    "run_model": lambda model, parts, x, training: model(x, training=training),
    "stacked": lambda make, count: (list(map(make, range(count))), []),
    "shared": lambda module, method, x, conditioning: method(module, x, conditioning),
    "summed_over_replicas": lambda values: values,
    "sizes": lambda x: keras.ops.shape(x)[1:-1],
    "tune_process": lambda save_memory=False: None,
    "WithoutStackTraces": contextlib.nullcontext,
}
# These say how to compute, or look at something, and compute nothing.
KEPT = {
    "Derived",
    "SharedGraphs",
    "Weight",
    "handles",
    "has_gpu",
    "mode",
    "parts_of_variables",
    "peak_memory_mib",
    "read_handle",
    "using",
    "variable_of",
}


@contextlib.contextmanager
def plain():
    """Within, every function of the room is in its plainest form."""
    with pytest.MonkeyPatch.context() as patch:
        for name, form in FORMS.items():
            patch.setattr(compute, name, form)
        yield
