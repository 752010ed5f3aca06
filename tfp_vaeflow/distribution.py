"""The devices that a run is spread over, and requests to stop it."""

import signal
from types import FrameType

import tensorflow as tf

from tfp_vaeflow.errors import UserError


def make_strategy() -> tf.distribute.MirroredStrategy:
    """Mirrors the model over all GPUs, or over all (logical) CPU devices if none."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices)


def check_even_share(
    strategy: tf.distribute.Strategy, batch_size: int, field: str
) -> None:
    """Checks that the replicas can share a global batch evenly.

    Raises:
      UserError: if they cannot, naming the field that holds the batch size.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"{field} is {batch_size}, which {replicas} devices cannot share evenly; "
            f"expected a multiple of {replicas}"
        )


def split_over_replicas(strategy: tf.distribute.Strategy, batch):
    """Gives each replica its consecutive part of a global batch.

    Args:
      strategy: its replicas share the batch evenly.
      batch: a structure of tensors with a leading batch dimension.

    Returns:
      The same structure of per-replica values, for `strategy.run`.
    """

    def share(value: tf.Tensor):
        size = value.shape[0] // strategy.num_replicas_in_sync

        def part(context):
            first = context.replica_id_in_sync_group * size
            return value[first : first + size]

        return strategy.experimental_distribute_values_from_function(part)

    return tf.nest.map_structure(share, batch)


class StopRequest:
    """Notes Ctrl-C or SIGTERM, so that a run can end between two steps.

    A context manager; `requested` says whether a signal came. A second Ctrl-C
    interrupts at once.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopRequest":
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
