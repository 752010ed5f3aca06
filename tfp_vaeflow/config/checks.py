"""Checks that the dataclasses share; each raises one clear line."""

from tfp_vaeflow.errors import UserError


def choose(owner: str, field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"{owner}.{field} is {value!r}; expected one of {', '.join(choices)}"
        )


def at_least(owner: str, field: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{owner}.{field} is {value}; expected at least {least}")


def freeze(instance: object, *fields: str) -> None:
    """Turns lists (as gin and JSON give them) into tuples, nested ones too."""

    def frozen(value):
        if isinstance(value, (list, tuple)):
            return tuple(frozen(item) for item in value)
        return value

    for field in fields:
        object.__setattr__(instance, field, frozen(getattr(instance, field)))
