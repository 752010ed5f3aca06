"""The devices and workers of a run, its lock, and requests to stop it."""

import errno
import fcntl
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import Batch, Share
from tfp_vaeflow.training.cluster import Cluster, find_cluster

# The errors of a file system without locks: Lustre, FUSE and NFS in some set-ups.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


class WorkerLostError(Exception):
    """Another worker is gone; TensorFlow cannot let it join again."""


@contextmanager
def noticing_lost_workers(count: int) -> Iterator[None]:
    """Turns TensorFlow's errors about a lost worker into a `WorkerLostError`.

    Args:
      count: number of workers; with only one, errors stay as they are.
    """
    try:
        yield
    except (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.UnavailableError,
    ) as error:
        if count == 1:
            raise
        raise WorkerLostError(str(error).splitlines()[0]) from error


# TensorFlow's all-reduce methods: between devices of a machine, between machines.
_BETWEEN_DEVICES = {
    "nccl": tf.distribute.NcclAllReduce,
    "hierarchical_copy": tf.distribute.HierarchicalCopyAllReduce,
    "one_device": tf.distribute.ReductionToOneDevice,
}
_KEYS = 10  # a strategy needs fewer
_BETWEEN_MACHINES = {
    "auto": tf.distribute.experimental.CommunicationImplementation.AUTO,
    "nccl": tf.distribute.experimental.CommunicationImplementation.NCCL,
    "ring": tf.distribute.experimental.CommunicationImplementation.RING,
}


def make_strategy(
    name: str = "auto", all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """Chooses the devices to train on; to be called before TensorFlow uses them.

    Args:
      name: `one_device`; `mirrored` over all GPUs, or all (logical) CPU devices if
        there is no GPU (one device is not mirrored); `multi_worker` over the workers
        that `TF_CONFIG` or SLURM names, which waits for them; `tpu`; or `auto`: the
        workers if there is more than one, else a TPU if there is one, else `mirrored`.
      all_reduce: how several devices sum tensors, see `TrainingConfig`.

    Raises:
      UserError: if the environment does not have what was asked for.
      WorkerLostError: if another worker was lost while this one waited.
    """
    cluster = find_cluster() if name in ("auto", "multi_worker") else None
    if name == "auto":
        name = "mirrored"
        if cluster is not None and len(cluster.addresses) > 1:
            name = "multi_worker"
        elif "TPU_NAME" in os.environ or tf.config.list_physical_devices("TPU"):
            name = "tpu"
    if name == "multi_worker":
        return _multi_worker(cluster, all_reduce)
    if name == "tpu":
        return _tpu()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if name == "one_device":
        del devices[1:]
    if len(devices) == 1:
        # Mirrored variables take twice as long to make.
        return tf.distribute.OneDeviceStrategy(devices[0])
    if all_reduce == "auto":
        return mirrored(devices)
    ways = [way for way in _BETWEEN_DEVICES if kind == "GPU" or way != "nccl"]
    if all_reduce not in ways:
        raise _no_way(all_reduce, f"between {kind}s of one machine", ways)
    return mirrored(devices, _BETWEEN_DEVICES[all_reduce]())


def mirrored(
    devices: Sequence[str], all_reduce: tf.distribute.CrossDeviceOps | None = None
) -> tf.distribute.MirroredStrategy:
    """A `MirroredStrategy` whose replicas meet by keys of their own.

    TensorFlow gives all strategies of a process the same keys, and remembers the shape
    of what met by each. So a second training in the process would fail.
    """
    tf.distribute.MirroredStrategy._collective_key_base += _KEYS
    return tf.distribute.MirroredStrategy(devices, all_reduce)


def _no_way(all_reduce: str, where: str, ways: Sequence[str]) -> UserError:
    return UserError(
        f"TrainingConfig.all_reduce is {all_reduce!r}, which is not available {where}; "
        f"expected auto, {' or '.join(ways)}"
    )


def _multi_worker(cluster: Cluster | None, all_reduce: str) -> tf.distribute.Strategy:
    if cluster is None:
        raise UserError(
            "--strategy is multi_worker, and neither TF_CONFIG nor a SLURM step names "
            "the workers; tools/launch_local.py starts some on one machine"
        )
    if all_reduce not in _BETWEEN_MACHINES:
        raise _no_way(all_reduce, "between machines", ["nccl", "ring"])
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=_BETWEEN_MACHINES[all_reduce]
    )
    own, count = cluster.addresses[cluster.index], len(cluster.addresses)
    print(
        f"worker {cluster.index} of {count} at {own}: waits for the others", flush=True
    )
    with noticing_lost_workers(count):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            cluster.resolver(), options
        )
    # TensorFlow has replaced the handler of SIGTERM, and would ignore the signal.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _tpu() -> tf.distribute.Strategy:
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        raise UserError(
            f"there is no TPU {name!r} here: {message}; expected a TPU VM, or the "
            "name of one in TPU_NAME"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """The share of a global batch that this process reads."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return Share(0, 1)
    resolver = strategy.cluster_resolver
    return Share(resolver.task_id, resolver.cluster_spec().num_tasks("worker"))


def take_from_chief(
    strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]
) -> None:
    """Gives the variables of all workers the chief's values.

    Args:
      strategy: all of its workers have to call this.
      variables: in the same order everywhere.
    """

    def on_replica():
        context = tf.distribute.get_replica_context()
        from_chief = tf.equal(context.replica_id_in_sync_group, 0)
        for variable in variables:
            value = tf.convert_to_tensor(variable)
            if variable.dtype == tf.bool:  # cannot be summed
                value = tf.cast(value, tf.int32)
            value = tf.where(from_chief, value, tf.zeros_like(value))
            value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            compute.assign_on_replica(variable, tf.cast(value, variable.dtype))

    if share_of(strategy).count > 1:
        tf.function(lambda: strategy.run(on_replica), autograph=False)()


def check_even_share(
    strategy: tf.distribute.Strategy, batch_size: int, field: str, micro_batches: int
) -> None:
    """Checks that the replicas can share a global batch evenly, in whole micro-batches.

    Raises:
      UserError: if they cannot, naming the field that holds the batch size.
    """
    replicas = strategy.num_replicas_in_sync  # of all workers
    parts = replicas * micro_batches
    if batch_size % parts:
        pieces = f", in {micro_batches} micro-batches each" if micro_batches > 1 else ""
        raise UserError(
            f"{field} is {batch_size}, which {replicas} device(s) cannot share "
            f"evenly{pieces}; expected a multiple of {parts}"
        )


def split_over_replicas(strategy: tf.distribute.Strategy, batch: Batch) -> Batch:
    """Gives each replica of this worker its consecutive part of the worker's share.

    Args:
      strategy: its replicas share the batch evenly.
      batch: tensors with a leading batch dimension.

    Returns:
      The same batch with per-replica values, for `strategy.run`.
    """
    replicas = strategy.num_replicas_in_sync // share_of(strategy).count

    def share(value: tf.Tensor):
        size = value.shape[0] // replicas

        def part(context):
            first = context.replica_id_in_sync_group % replicas * size
            return value[first : first + size]

        return strategy.experimental_distribute_values_from_function(part)

    return tf.nest.map_structure(share, batch)


class StopRequest:
    """Notes Ctrl-C or SIGTERM, so that a run can end between two steps.

    A context manager; `requested` says whether a signal came. A second Ctrl-C
    interrupts at once. Python gives signals to its main thread alone, so nothing is
    noted in other threads.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._former = {}
        if threading.current_thread() is not threading.main_thread():
            return self
        self._former = {number: signal.getsignal(number) for number in self._SIGNALS}
        for number in self._SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def locked(directory: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in a directory; makes it if it is missing.

    The operating system drops the lock when the process ends, in whatever way. Some
    file systems have no locks, and TensorFlow has no locks for remote ones. There the
    process that began last goes on: see `checkpoints.CheckpointKeeper.take_over`.

    Raises:
      UserError: if another process holds the lock.
    """
    files.make_dirs(directory)
    if files.is_remote(directory):
        yield
        return
    # "a+", so that an attempt of another process keeps the holder's name.
    with open(os.path.join(directory, ".lock"), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"another process ({file.read().strip()}) is training in {directory}; "
                "wait for it, stop it, or name another --model_dir"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                error.filename = file.name
                raise
            print(
                f"{directory} is on a file system without locks ({error.strerror}): if "
                "two processes train there, only the one that began last goes on",
                flush=True,
            )
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


@contextmanager
def run_directory(
    model_dir: str | os.PathLike, share: Share
) -> Iterator[str | os.PathLike]:
    """The directory that a worker writes to: the run's, locked, if it is the chief.

    The other workers do the same as the chief, each in a temporary directory. So all of
    them take part in every collective operation, and none waits in vain.

    Raises:
      UserError: if another process trains there.
    """
    if share.index == 0:
        with locked(model_dir):
            yield model_dir
    else:
        with tempfile.TemporaryDirectory(prefix="tfp_vaeflow-") as directory:
            yield directory
