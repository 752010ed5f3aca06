"""How layers compute now: settings that TFP's and Keras' interfaces do not have."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Mode:
    """How layers compute.

    Attributes:
      training: whether batch norm in coupling networks uses (and updates from) the
        batch, not its running statistics.
      statistics_stay: whether training leaves the running statistics of batch norm as
        they are, because the batch is being computed again.
      mixed_precision: whether networks compute in bfloat16; what they take and give is
        float32, and so are weights, norms and conditioners.
      recompute: whether the insides of networks are computed again for their gradient,
        so that between the passes only their inputs are kept.
      compiled: whether layers are inside a function that XLA compiles.
      graphs: the `SharedGraphs` of modules of one structure; None for none.
      is_within_graph: whether layers are inside one of these graphs.
      weights_wait: whether initial values of `Weight`s stay arrays, until it is known
        which ones are stored together.
      weights: tensors in the place of variables, by the variables' `id`, and of
        `Derived` attributes, by the module's `id` and the attribute's name.

    Reference: Micikevicius et al., arXiv 1710.03740; Kalamkar et al., arXiv 1905.12322
    (bfloat16, which needs no scaling of the loss); Chen et al., *Training Deep Nets
    with Sublinear Memory Cost*, arXiv 1604.06174 (recomputation).
    """

    training: bool = False
    statistics_stay: bool = False
    mixed_precision: bool = False
    recompute: bool = False
    compiled: bool = False
    graphs: object | None = None
    is_within_graph: bool = False
    weights_wait: bool = False
    weights: Mapping[object, tf.Tensor] = dataclasses.field(default_factory=dict)


_DEFAULT = Mode()
_mode = contextvars.ContextVar("mode")


def mode() -> Mode:
    """How layers compute here."""
    return _mode.get(_DEFAULT)


@contextlib.contextmanager
def using(base: Mode | None = None, **changes) -> Iterator[None]:
    """Within this context, layers compute in another mode.

    Args:
      base: the mode to change; None for the present one. A gradient passes the mode of
        its forward pass, which is no longer set when the gradient is built.
      **changes: fields of `Mode`.
    """
    token = _mode.set(dataclasses.replace(base or mode(), **changes))
    try:
        yield
    finally:
        _mode.reset(token)


def network_dtype(dtype: tf.DType) -> tf.DType:
    """The type that networks compute in, if inputs and weights have type `dtype`."""
    return tf.bfloat16 if mode().mixed_precision else dtype
