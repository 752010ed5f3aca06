"""The workers of a run on several machines, as the environment of each names them.

The environment names them in `TF_CONFIG`, which Kubeflow's TFJob, Vertex AI and others
set, or in the variables of a SLURM step.
"""

import json
import os
import re
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow.common.errors import UserError

_FORM = (
    '{"cluster": {"worker": ["host:port", ...]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_JOBS = ("chief", "worker")  # in the order in which their tasks are numbered
_FIRST_PORT, _PORTS = 12000, 20000  # for SLURM; systems give out the ports above


class Cluster(NamedTuple):
    """The workers of a run.

    Attributes:
      addresses: `host:port` of each; the first is the chief.
      index: the index of this process among them.
    """

    addresses: list[str]
    index: int

    def resolver(self) -> tf.distribute.cluster_resolver.ClusterResolver:
        """The same for TensorFlow, where the chief is a worker like the others."""
        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": self.addresses}),
            task_type="worker",
            task_id=self.index,
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )


def find_cluster() -> Cluster | None:
    """The workers that the environment names; None if it names none.

    Raises:
      UserError: if the environment is malformed or contradicts itself.
    """
    if os.environ.get("TF_CONFIG"):
        return _of_tf_config(os.environ["TF_CONFIG"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return _of_slurm(tasks) if tasks > 1 else None


def _of_tf_config(text: str) -> Cluster | None:
    wrong = UserError(f"TF_CONFIG is {text}; expected {_FORM}")
    try:
        config = json.loads(text)
        jobs, task = config.get("cluster", {}), config.get("task", {})
        jobs = {str(job): list(addresses) for job, addresses in jobs.items()}
        me = task.get("type"), task.get("index")
    except (ValueError, AttributeError, TypeError) as error:
        raise wrong from error
    unknown = {*jobs, str(me[0] or "worker")} - {*_JOBS}
    if unknown:
        raise UserError(
            f"TF_CONFIG has a task of type {min(unknown)!r}; expected only 'chief' and "
            "'worker': the chief evaluates, and weights are mirrored"
        )
    if not jobs:
        return None
    tasks = [
        (job, number, address)
        for job in _JOBS
        for number, address in enumerate(jobs.get(job, ()))
    ]
    addresses = [address for _, _, address in tasks]
    names = [(job, number) for job, number, _ in tasks]
    if me not in names or not all(isinstance(a, str) and ":" in a for a in addresses):
        raise wrong
    return Cluster(addresses, names.index(me))


def _natural(address: str) -> list[int | str]:
    """A key that sorts `node9` before `node10`, as SLURM does."""
    return [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", address)]


def _of_slurm(tasks: int) -> Cluster:
    try:
        job = int(os.environ.get("SLURM_JOB_ID", 0))
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            # 16 ports per job, one per task, so that jobs on one machine do not clash.
            port_base=_FIRST_PORT + job * 16 % _PORTS,
            # SLURM has placed the tasks. The resolver would place them by GPUs, and
            # fail if there are none.
            gpus_per_node=tasks,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        addresses = resolver.cluster_spec().job_tasks("worker")
        index = int(os.environ["SLURM_PROCID"])
        addresses = sorted(addresses, key=_natural)  # it puts node10 before node9
        expected = addresses[index].rpartition(":")[0]
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(
            f"the SLURM variables of this step do not fit together: {error}; start the "
            "workers by srun, with one or more tasks per node, or set TF_CONFIG"
        ) from error
    node = os.environ.get("SLURMD_NODENAME", expected)
    if node != expected:
        raise UserError(
            f"SLURM runs task {index} on {node}; by the order of the names, expected "
            f"{expected}: start the workers by srun --distribution=block on nodes in "
            "the order of their names, or set TF_CONFIG"
        )
    return Cluster(addresses, index)
