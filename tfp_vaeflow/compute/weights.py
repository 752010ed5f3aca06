"""Weights of modules: variables, parts of stacked ones, tensors in their place."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow.compute.mode import mode


class StackedWeight:
    """One module's part of a variable that modules alike share; see `compute.stacked`.

    It is read like a `tf.Variable`.

    Args:
      stack: `[N, ...]`.
      index: of the part.
    """

    def __init__(self, stack: tf.Variable, index: int):
        self.stack = stack
        self.index = index
        self.shape = stack.shape[1:]
        self.dtype = stack.dtype
        self.trainable = stack.trainable
        self.name = f"{stack.name}[{index}]"

    def value(self) -> tf.Tensor:
        """The part of the variable, as a tensor."""
        return self.stack[self.index]

    def numpy(self) -> np.ndarray:
        """The part of the variable, as an array."""
        return self.value().numpy()

    def assign(self, value) -> None:
        """Replaces the part, and no other part of the variable."""
        value = tf.convert_to_tensor(value, self.dtype)[tf.newaxis]
        self.stack.assign(
            tf.tensor_scatter_nd_update(self.stack, [[self.index]], value)
        )

    def assign_sub(self, change) -> None:
        """Subtracts from the part, and from no other part of the variable."""
        self.assign(self.value() - change)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)


tf.register_tensor_conversion_function(
    StackedWeight,
    lambda weight, dtype=None, name=None, as_ref=False: tf.convert_to_tensor(
        weight.value(), dtype, name=name
    ),
)


def _overload(name: str) -> None:
    operator = getattr(tf.Tensor, name)
    setattr(StackedWeight, name, lambda weight, *args: operator(weight.value(), *args))


for _name in tf.Tensor.OVERLOADABLE_OPERATORS:
    _overload(_name)


class Weight:
    """A weight of a `tf.Module`, as an attribute of its class.

    It is set to a variable, or to an initial value: an array, from which a variable is
    made. Reading it gives the variable, or the tensor that `Mode.weights` has in its
    place. So a module is a function of its weights, too.

        class Scale(tf.Module):
            factor = compute.Weight()

            def __init__(self):
                super().__init__()
                self.factor = np.float32(2)

    Args:
      trainable: whether training changes it.
    """

    def __init__(self, trainable: bool = True):
        self.trainable = trainable

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

    def __set__(
        self,
        module: tf.Module,
        value: np.ndarray | np.generic | tf.Variable | StackedWeight | None,
    ):
        if isinstance(value, (np.ndarray, np.generic)) and not mode().weights_wait:
            variable = tf.Variable(value, trainable=self.trainable, name=self._name)
            setattr(module, self._name, variable)  # by which the module tracks it
        else:
            vars(module)[self._name] = value

    def __delete__(self, module: tf.Module):
        del vars(module)[self._name]


class Derived:
    """A tensor that depends on a module's weights alone, as an attribute of its class.

        log_det = compute.Derived(function of the module)

    Where modules that are built alike run as one loop, it is computed for all of them
    at once before the loop. So the function has to take weights with one more leading
    dimension.

    Args:
      function: (module) -> tensor.
      replaces: names of weights that nothing else computes with. Such a loop leaves
        them out, so that it adds up no zero gradients for them.
    """

    def __init__(
        self,
        function: Callable[[tf.Module], tf.Tensor],
        replaces: Sequence[str] = (),
    ):
        self.function = function
        self.replaces = replaces

    def __set_name__(self, owner: type, name: str):
        self._name = name

    def __get__(self, module: tf.Module | None, owner: type | None = None):
        if module is None:
            return self
        known = mode().weights.get((id(module), self._name))
        return self.function(module) if known is None else known


# A weight, or the key of a `Derived` attribute, that a tensor can stand in for.
Place = tf.Variable | StackedWeight | keras.Variable | tuple[int, str]


def places_of(module: tf.Module) -> list[Place]:
    """The weights that a module can take as tensors, in a fixed order.

    `Derived` attributes come last, if the present mode has tensors for them. Weights
    that they replace there are left out.
    """
    known = mode().weights
    parts = (module, *module.submodules)
    keras_layers = [
        value
        for part in parts
        for _, value in sorted(vars(part).items())
        if isinstance(value, keras.Layer)
    ]
    return [
        *(
            weight
            for part, name in weights_by_place(module)
            if known.get(id(weight := vars(part)[name]), weight) is not None
        ),
        *(variable for layer in keras_layers for variable in layer.variables),
        *(place for place in derived_of(module) if place in known),
    ]


def key_of(place: Place) -> int | tuple[int, str]:
    """The key of a place in `Mode.weights`."""
    return place if isinstance(place, tuple) else id(place)


def value_of(place: Place) -> tf.Tensor:
    """The tensor that is in a place now."""
    if isinstance(place, keras.Variable):
        return tf.convert_to_tensor(place.value)
    return tf.convert_to_tensor(mode().weights.get(key_of(place), place))


def derived_of(module: tf.Module) -> dict[tuple[int, str], tf.Module]:
    """The places of `Derived` attributes in a module, with the module that has each."""
    return {
        (id(part), name): part
        for part in (module, *module.submodules)
        for name in dir(type(part))
        if isinstance(getattr(type(part), name, None), Derived)
    }


def weights_by_place(module: tf.Module) -> list[tuple[tf.Module, str]]:
    """The `Weight`s of a module and its submodules, as pairs of (module, name)."""
    return [
        (part, name)
        for part in (module, *module.submodules)
        for name in sorted(vars(part))
        if is_weight(part, name)
    ]


def is_weight(module: tf.Module, name: str) -> bool:
    """Whether an attribute is a `Weight` that is not None."""
    declared = isinstance(getattr(type(module), name, None), Weight)
    return declared and vars(module)[name] is not None


def variable_of(weight: tf.Variable | StackedWeight) -> tuple[tf.Variable, object]:
    """The variable that holds a weight, and the index of its part: `...` for all."""
    if isinstance(weight, StackedWeight):
        return weight.stack, weight.index
    return weight, ...


def parts_of_variables(module: tf.Module) -> Iterator[tuple[tf.Variable, object]]:
    """The variables that a module computes with, each with the index of its part.

    The index is the position in a stack, or `...` for all of a variable.
    """
    for variable in module.variables:
        yield variable_of(variable)
    for part, name in weights_by_place(module):
        yield variable_of(vars(part)[name])
