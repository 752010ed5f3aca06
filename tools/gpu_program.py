"""What XLA makes of a training step for an NVIDIA H100, on a machine without one.

    python tools/operations.py --batch_size=256 --hlo=step.hlo \\
      --gin_bindings=TrainingConfig.mixed_precision=True
    python -m venv ENV
    ENV/bin/pip install jax==0.9.1 jax-cuda12-plugin==0.9.1 jax-cuda12-pjrt==0.9.1 \\
      nvidia-cuda-nvcc-cu12==12.5.82
    ENV/bin/python tools/gpu_program.py step.hlo

It prints the operations that the program starts, the memory that they read and write,
the memory that it takes, and the seconds of compilation. `jaxlib` has an XLA of the
same months as TensorFlow 2.21: for a step of gin/cifar10.gin with unrolled loops they
gave 6,379 and 6,323 operations, and 114.3 and 114.5 GB. Nothing is tried on a device,
so products have their default algorithms, and XLA's own kernels for products are off,
as in `train`.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hlo_program import Program

from tfp_vaeflow.common import files  # which imports no TensorFlow

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 14 patch: 0 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")


def compiled(module: bytes):
    """An executable for an H100, of a serialised HLO module."""
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # no driver is needed
    flags = os.environ.get("XLA_FLAGS", ""), *_FLAGS
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    try:
        from jax._src.interpreters.mlir import make_ir_context
        from jax._src.lib.mlir import ir
        from jax.experimental import topologies
        from jaxlib import _jax, xla_client
    except ImportError as error:
        sys.exit(f"{error}; see `python {sys.argv[0]} --help` for what to install")
    import numpy as np

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=_H100, topology="1x1x1"
    )
    computation = xla_client.XlaComputation(module)
    text = _jax.mlir.xla_computation_to_mlir_module(computation)
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    for one in (options, build):
        one.num_replicas = one.num_partitions = 1
        one.device_assignment = xla_client.DeviceAssignment.create(np.array([[0]]))
    with make_ir_context():
        # jaxlib does not know TensorFlow's copies of results; a conversion to the same
        # type takes their place.
        parsed = str(ir.Module.parse(text))
        parsed = re.sub(r"mhlo\.copy (%\S+)", r"stablehlo.convert \1", parsed)
        return described.devices[0].client.compile(
            ir.Module.parse(parsed), _jax.DeviceList(tuple(described.devices)), options
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hlo", type=files.expand, help="from tools/operations.py --hlo")
    parser.add_argument("--output", type=files.user_path, help="takes the program")
    flag = parser.parse_args()
    start = time.perf_counter()
    executable = compiled(Path(flag.hlo).read_bytes())
    seconds = time.perf_counter() - start
    text = executable.hlo_modules()[0].to_string()
    if flag.output is not None:
        files.write_text(flag.output, text)
    program, memory = Program(text), executable.get_compiled_memory_stats()
    print(
        f"{program.operations()} operations, which read and write "
        f"{program.traffic() / 1e9:.1f} GB; {memory.temp_size_in_bytes / 2**20:.0f} MB "
        f"of memory beside arguments and results; compiled in {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
