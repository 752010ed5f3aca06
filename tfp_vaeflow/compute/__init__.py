"""How the package computes: graphs, precision, devices, memory.

Everything here changes speed and the use of memory; it changes results only by
rounding. With each function in its plainest form, all results are the same, only slower
to compute: `tests/test_compute.py` checks that. Modules of maths call these functions
as `compute.linear(...)` and know nothing else of the machinery.
"""

from tfp_vaeflow.compute.batch_norm import normalized_by_batch
from tfp_vaeflow.compute.compilation import (
    compile_use_at_once,
    compiled,
    compiled_for_use,
    compiled_in_parts,
    padded,
)
from tfp_vaeflow.compute.convolutions import (
    as_fast_as_float32,
    conv2d_same,
    conv2d_valid,
    elu,
    linear,
    of_any_batch,
    sizes,
)
from tfp_vaeflow.compute.devices import has_gpu
from tfp_vaeflow.compute.graphs import SharedGraphs, recomputed, shared
from tfp_vaeflow.compute.keras_models import run_model
from tfp_vaeflow.compute.loops import gradient, in_turn
from tfp_vaeflow.compute.matrices import inverse, log_abs_det
from tfp_vaeflow.compute.memory import give_memory_back, peak_memory_mib, tune_process
from tfp_vaeflow.compute.mode import mode, network_dtype, using
from tfp_vaeflow.compute.stack_traces import WithoutStackTraces
from tfp_vaeflow.compute.stacks import stacked
from tfp_vaeflow.compute.updates import (
    assign_on_replica,
    handles,
    in_groups,
    read_handle,
    summed_over_replicas,
)
from tfp_vaeflow.compute.upsampling import repeated
from tfp_vaeflow.compute.weights import Derived, Weight, parts_of_variables, variable_of

__all__ = [
    "Derived",
    "SharedGraphs",
    "Weight",
    "WithoutStackTraces",
    "as_fast_as_float32",
    "assign_on_replica",
    "compile_use_at_once",
    "compiled",
    "compiled_for_use",
    "compiled_in_parts",
    "conv2d_same",
    "conv2d_valid",
    "elu",
    "give_memory_back",
    "gradient",
    "handles",
    "has_gpu",
    "in_groups",
    "in_turn",
    "inverse",
    "linear",
    "log_abs_det",
    "mode",
    "network_dtype",
    "normalized_by_batch",
    "of_any_batch",
    "padded",
    "parts_of_variables",
    "peak_memory_mib",
    "read_handle",
    "recomputed",
    "repeated",
    "run_model",
    "shared",
    "sizes",
    "stacked",
    "summed_over_replicas",
    "tune_process",
    "using",
    "variable_of",
]
