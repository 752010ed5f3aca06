"""Classes by name: their order, and the names that a run keeps of its labels.

Label i is the i-th name. Model directories and exported class-conditional models hold
the names in `classes.json`.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError

FILE = "classes.json"


def natural_key(name: str) -> list:
    """A key to sort names as people do: "2" before "10", "b" before "C"."""
    # Odd places hold the digits, so that numbers are compared with numbers only.
    words = re.split("([0-9]+)", name)
    return [[int(w) if i % 2 else w.casefold() for i, w in enumerate(words)], name]


class Order(NamedTuple):
    """The rule that gives each class its label.

    Attributes:
      known: the names that a run has saved; they come first, in their order.
      natural: whether numbers in new names are sorted as numbers. They are not for a
        run from before names were saved.
    """

    known: tuple[str, ...] = ()
    natural: bool = True

    def arrange(self, *groups: Iterable[str]) -> tuple[str, ...]:
        """Names in the order of their labels: the known ones, then group by group."""
        key = natural_key if self.natural else None
        names = dict.fromkeys(self.known)
        for group in groups:
            names |= dict.fromkeys(sorted(group, key=key))
        return tuple(names)


NATURAL = Order()


def write(directory: str | os.PathLike, names: Sequence[str]) -> None:
    """Writes the names of labels to a directory, in one step."""
    text = json.dumps({"classes": list(names)}, indent=2) + "\n"
    files.write_text(os.path.join(directory, FILE), text)


def read(directory: str | os.PathLike) -> tuple[str, ...] | None:
    """The names that a directory holds; None if there are none.

    Raises:
      UserError: if the file is damaged.
    """
    path = os.path.join(directory, FILE)
    if not files.exists(path):
        return None
    try:
        names = json.loads(files.read_text(path))["classes"]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("not every name is a text")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is damaged ({error}); expected {{"classes": [NAME, ...]}}: bring '
            "back a copy of it"
        ) from error
    return tuple(names)


def order_of(directory: str | os.PathLike) -> Order:
    """The order of a run that has begun: its saved names, or else plain text order."""
    names = read(directory)
    return Order(natural=False) if names is None else Order(names)


def label_of(name: str, names: Sequence[str] | None, num_classes: int) -> int:
    """The label of a class that a user gives by name or by number.

    Args:
      name: one of `names`, or else a label, 0 to `num_classes - 1`.
      names: of the labels; None if they are not known.
      num_classes: of the model.

    Raises:
      UserError: if there is no such class.
    """
    known = (names or ())[:num_classes]
    if (shown := files.printable(name)) in known:
        return known.index(shown)
    if re.fullmatch("[0-9]{1,9}", name) and int(name) < num_classes:
        return int(name)
    expected = f"a number from 0 to {num_classes - 1}"
    raise UserError(
        f"there is no class {shown!r}; expected "
        + (f"one of {listed(known)}, or {expected}" if known else expected)
    )


def first_of_another(labels: Sequence[int]) -> int:
    """The first position whose class is not that of position 0; 1 if there is none."""
    return next((i for i, label in enumerate(labels) if label != labels[0]), 1)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names as text; only the first `most` if there are more."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
