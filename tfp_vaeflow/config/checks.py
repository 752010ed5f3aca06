"""The base of all settings: values of the right type, frozen, and checked."""

import dataclasses
import types
import typing

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError

# Metadata of a field that holds a path, and of one that holds a path or a name.
PATH = {"path": "always"}
PATH_OR_NAME = {"path": "if it is there"}


def _frozen(value):
    """Turns lists (as gin and JSON give them) into tuples, nested ones too."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value


def _fits(value: object, hint: object) -> bool:
    """Whether a value has the type that a field is annotated with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


class Settings:
    """Base of the frozen dataclasses; subclasses check their values in `check`."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _frozen(getattr(self, field.name))
            if "path" in field.metadata and isinstance(value, str):
                if not value:
                    raise UserError(f"{self._name(field.name)} is ''; expected a path")
                value = files.expand(value)
            object.__setattr__(self, field.name, value)
            if not _fits(value, field.type):
                expected = getattr(field.type, "__name__", None)
                if expected is None or typing.get_args(field.type):
                    expected = str(field.type)
                raise UserError(
                    f"{self._name(field.name)} is {value!r}; expected {expected}"
                )
            # TensorFlow holds most of them in 32 bits.
            if field.type is int and field.name != "seed" and value >= 2**31:
                raise UserError(
                    f"{self._name(field.name)} is {value}; expected less than 2**31"
                )
        self.check()

    def absolute_paths(self) -> dict[str, str]:
        """The fields that hold a path, as paths for any working directory.

        A field for a path or a name holds a path if such a file or folder exists.
        """
        found = {}
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), field.metadata.get("path")
            if value is not None and (
                kind == "always" or (kind is not None and files.exists(value))
            ):
                found[field.name] = files.absolute(value)
        return found

    def check(self) -> None:
        """Raises a `UserError` where a value does not make sense."""

    def _name(self, field: str) -> str:
        return f"{type(self).__name__}.{field}"

    def _choose(self, field: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if value not in choices:
            raise UserError(
                f"{self._name(field)} is {value!r}; expected one of "
                f"{', '.join(choices)}"
            )

    def _at_least(self, field: str, least: float) -> None:
        value = getattr(self, field)
        if not value >= least:
            raise UserError(
                f"{self._name(field)} is {value}; expected at least {least}"
            )
