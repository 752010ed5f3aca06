"""A module imports only from rooms above its own, and there are no circles."""

import ast
import graphlib
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfp_vaeflow"
# As in WORKSPACE.md. Rooms of one row import from left to right.
ROWS = [
    ["common", "config"],
    ["compute", "networks"],
    ["bijectors"],
    ["model"],
    ["serving", "reference", "data", "pretrained"],
    ["evaluation"],
    ["training"],
    ["command"],
    ["client"],
    ["train", "evaluate", "score", "synthesize", "export", "explore"],
]
ORDER = [room for row in ROWS for room in row]
ENTRY_POINTS = ROWS[-1]
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").parts
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


def imported(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Modules of the package that a module imports, wherever in its text."""
    found = set()
    tree = ast.parse((PACKAGE.joinpath(*module)).with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "tfp_vaeflow" and len(parts) > 1:
                found.add(module_of(tuple(parts[1:])))
    return found


def module_of(name: tuple[str, ...]) -> tuple[str, ...]:
    """The module that holds a name."""
    found = (name, name[:-1], (*name, "__init__"), (*name[:-1], "__init__"))
    return next(module for module in found if module in MODULES)


def test_every_package_is_installed():
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    listed = tomllib.loads(text)["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    names = {".".join(path.relative_to(PACKAGE.parent).parts) for path in folders}
    assert names | {"tfp_vaeflow.gin"} == set(listed)


def test_every_room_has_a_place():
    assert {module[0] for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_imports_go_up_only(module):
    room = module[0]
    for target in imported(module):
        if target[0] != room:
            assert ORDER.index(target[0]) < ORDER.index(room), (
                f"{'.'.join(module)} imports {'.'.join(target)}, which lies below it"
            )
            assert not {target[0], room} <= set(ENTRY_POINTS)


def test_there_are_no_circles():
    """Not even of imports within functions, which Python would let pass."""
    graphlib.TopologicalSorter({m: imported(m) for m in MODULES}).prepare()


def test_compute_has_one_door():
    """Its functions are called as `compute.linear(...)`: so they can be replaced."""
    for module in MODULES:
        targets = {t for t in imported(module) if t[0] == "compute"}
        assert module[0] == "compute" or targets <= {("compute", "__init__")}, (
            module,
            targets,
        )


def test_only_experiment_knows_gin():
    for module in MODULES:
        text = (PACKAGE.joinpath(*module)).with_suffix(".py").read_text()
        tree = ast.parse(text)
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert ("gin" in names) == (module == ("config", "experiment"))


def test_modules_stay_small():
    for module in MODULES:
        text = (PACKAGE.joinpath(*module)).with_suffix(".py").read_text()
        assert len(text.splitlines()) <= 400, module
