"""How layers compute now: what the interfaces of TFP and Keras have no place for."""

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
      statistics_stay: whether the running statistics of batch norm are not updated even
        then, because the batch is being computed again.
      mixed_precision: whether networks compute in bfloat16; what they take and give is
        float32, and so are weights, norms and conditioners.
      graphs: the `SharedGraphs` of modules of one structure; None for none.
      is_within_graph: whether this is the inside of one.
      weights: tensors in the place of variables, by the variables' `id`.

    Reference: Micikevicius et al., arXiv 1710.03740; Kalamkar et al., arXiv 1905.12322
    (bfloat16, which needs no scaling of the loss).
    """

    training: bool = False
    statistics_stay: bool = False
    mixed_precision: bool = False
    graphs: object | None = None
    is_within_graph: bool = False
    weights: Mapping[int, tf.Tensor] = dataclasses.field(default_factory=dict)


_DEFAULT = Mode()
_mode = contextvars.ContextVar("mode")


def mode() -> Mode:
    """How layers compute here."""
    return _mode.get(_DEFAULT)


@contextlib.contextmanager
def using(base: Mode | None = None, **changes) -> Iterator[None]:
    """Within, layers compute in another mode.

    Args:
      base: the mode to change; None for the present one. A gradient gives that of its
        forward pass, which is no longer set when the gradient is built.
      **changes: fields of `Mode`.
    """
    token = _mode.set(dataclasses.replace(base or mode(), **changes))
    try:
        yield
    finally:
        _mode.reset(token)


def network_dtype(dtype: tf.DType) -> tf.DType:
    """What networks compute in, whose inputs and weights are of this type."""
    return tf.bfloat16 if mode().mixed_precision else dtype


class Weight:
    """A weight of a `tf.Module`, as an attribute of its class.

    It is set to a `tf.Variable`. Reading it gives that, or what `Mode.weights` has in
    its place: so a module is a function of its weights, too.

        class Scale(tf.Module):
            factor = compute.Weight()

            def __init__(self):
                super().__init__()
                self.factor = tf.Variable(2.0)
    """

    def __set_name__(self, owner: type, name: str):
        self._name = name

    def __get__(self, module: tf.Module | None, owner: type | None = None):
        if module is None:
            return self
        try:
            variable = vars(module)[self._name]
        except KeyError as error:
            raise AttributeError(self._name) from error
        return mode().weights.get(id(variable), variable)

    def __set__(self, module: tf.Module, variable: tf.Variable | None):
        vars(module)[self._name] = variable
