"""Operations and memory traffic of an optimised program of XLA, from its text."""

import math
import re
from collections.abc import Iterator

# Instructions that compute nothing: they name values or pass them on.
_NOTHING = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
_HEADER = re.compile(r"^(?:(ENTRY) )?%?([\w.\-]+)[ (].*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
_CALLED = re.compile(r"(?:to_apply|calls|condition|body)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+))\[([\d,]*)\]")


class Instruction:
    """One instruction of a computation.

    Attributes:
      name, kind, type: of the instruction and its result.
      operands: names of other instructions of the computation.
      called: names of the computations that it calls.
      trips: how often a loop turns; 1 if that is not known.
      is_root: whether it gives the computation's result.
    """

    def __init__(self, match: re.Match):
        root, self.name, self.type, self.kind, rest = match.groups()
        self.is_root = bool(root)
        inside, attributes = _split_arguments(rest)
        self.operands = re.findall(r"%([\w.\-]+)", inside)
        self.called = _CALLED.findall(attributes)
        trips = _TRIPS.search(attributes)
        self.trips = int(trips[1]) if trips else 1


def _split_arguments(rest: str) -> tuple[str, str]:
    """The text up to the bracket that closes the arguments, and the text after it."""
    depth = 1
    for index, letter in enumerate(rest):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0:
            return rest[:index], rest[index:]
    return rest, ""


def size_of(shape: str) -> int:
    """The bytes of arrays of a type, such as `(f32[2,3]{1,0}, s8[16])`.

    Arrays of `s8` are not counted: here they are only the scratch memory of libraries.
    """
    total = 0
    for name, bits, sizes in _ARRAY.findall(shape):
        if name != "s8":
            width = {"pred": 1, "bf16": 2}.get(name) or int(bits) // 8
            total += width * math.prod(int(n) for n in sizes.split(",") if n)
    return total


class Program:
    """An optimised HLO module.

    Args:
      hlo: its text.
    """

    def __init__(self, hlo: str):
        self._computations, self._entry, found = {}, None, {}
        for line in hlo.splitlines():
            header = _HEADER.match(line)
            match = _INSTRUCTION.match(line)
            if header:
                found = self._computations.setdefault(header[2], {})
                self._entry = header[2] if header[1] else self._entry
            elif match:
                instruction = Instruction(match)
                found[instruction.name] = instruction

    def operations(self) -> int:
        """The operations that it starts.

        A fusion is one operation. A loop counts as the operations of all its turns, or
        of one turn if their number is not known.
        """
        return sum(times for times, _, _ in self._started(self._entry, 1))

    def traffic(self) -> int:
        """The bytes that its operations read and write, without scratch memory.

        An operation that only takes a slice of a value, or puts one into it, counts the
        slice.
        """
        return sum(
            times * self._bytes(computation, one)
            for times, computation, one in self._started(self._entry, 1)
        )

    def _started(
        self, name: str, times: int
    ) -> Iterator[tuple[int, dict, Instruction]]:
        computation = self._computations[name]
        for one in computation.values():
            if one.kind in _NOTHING:
                continue
            if one.kind in ("while", "call"):
                for called in one.called:
                    yield from self._started(called, times * one.trips)
            else:
                yield times, computation, one

    def _bytes(self, computation, one):
        if one.kind == "fusion":
            return self._bytes_of_fusion(self._computations[one.called[0]])
        operands = [computation[name].type for name in one.operands]
        if one.kind == "dynamic-update-slice":
            return 2 * size_of(operands[1])
        if one.kind in ("dynamic-slice", "slice"):
            return 2 * size_of(one.type)
        return sum(map(size_of, [one.type, *operands]))

    def _bytes_of_fusion(self, inside):
        users = {}
        for one in inside.values():
            for place, name in enumerate(one.operands):
                users.setdefault(name, []).append((one, place))

        def read(name):
            total = 0
            for user, place in users.get(name, ()):
                if user.kind in ("dynamic-slice", "slice", "gather") and place == 0:
                    total += size_of(user.type)
                elif user.kind == "bitcast":
                    total += read(user.name)
                elif user.kind != "dynamic-update-slice" or place != 0:
                    return size_of(inside[name].type)
            return min(total, size_of(inside[name].type))

        total = sum(read(n) for n, one in inside.items() if one.kind == "parameter")
        (root,) = [one for one in inside.values() if one.is_root]
        results = (
            [inside[name] for name in root.operands] if root.kind == "tuple" else [root]
        )
        for result in results:
            while result.kind == "bitcast":
                result = inside[result.operands[0]]
            if result.kind == "dynamic-update-slice":
                result = inside[result.operands[1]]
            total += size_of(result.type)
        return total
