"""A module imports only from rooms above its own, or earlier in its row."""

import ast
import os
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfp_vaeflow"
# Ground floor first, as in WORKSPACE.md. Rooms of one row import from left to right.
ROWS = [
    ["common", "config"],
    ["compute", "networks"],
    ["bijectors"],
    ["model"],
    ["serving", "reference", "data"],
    ["evaluation"],
    ["training"],
    ["command"],
    ["client"],
    ["train", "evaluate", "synthesize", "export", "explore"],
]
ORDER = [room for row in ROWS for room in row]
ENTRY_POINTS = ROWS[-1]
# Within the rooms that are folders.
INNER = {
    "common": [
        "errors",
        "arguments",
        "files",
        "metrics_file",
        "classes",
        "keras_settings",
        "noise",
    ],
    "command": ["compilation_cache", "flags", "tensorflow_start", "run"],
    "config": ["checks", "flow", "model", "run", "experiment"],
    "client": ["transports", "model", "markup", "page"],
    "compute": [
        "stack_traces",
        "updates",
        "batch_norm",
        "devices",
        "mode",
        "convolutions",
        "matrices",
        "weights",
        "graphs",
        "loops",
        "stacks",
        "compilation",
        "keras_models",
        "memory",
    ],
    "networks": [
        "initializer",
        "norms",
        "resnets",
        "encoders",
        "linear",
        "conditioners",
        "base",
        "coupling",
        "masked",
    ],
    "bijectors": [
        "base",
        "sequences",
        "elementwise",
        "channels",
        "channel_map",
        "squeeze",
        "actnorm",
        "conv1x1",
        "parametrized",
        "coupling",
        "masked_conv",
        "steps",
        "multiscale",
    ],
    "model": [
        "quantization",
        "priors",
        "dequantizers",
        "global_codes",
        "objective",
        "draws",
        "core",
        "graphs",
        "inputs",
        "vaeflow",
        "build",
        "checkpoints",
    ],
    "data": ["splits", "pictures", "listing", "named", "folder", "batches"],
    "evaluation": [
        "figures",
        "plots",
        "measure",
        "likelihood",
        "latents",
        "probes",
        "samples",
        "classifier",
        "fidelity",
        "decoupling",
        "novelty",
        "by_class",
        "measures",
        "report",
        "page",
    ],
    "serving": ["folding", "pictures", "rows", "signatures", "warmup", "bundle"],
    "training.summaries": [
        "dashboard",
        "pictures",
        "projector",
        "statistics",
        "profile",
        "writer",
    ],
    "training": [
        "summaries",
        "cluster",
        "devices",
        "optimization",
        "progress",
        "results",
        "gradients",
        "cost",
        "step",
        "diagnosis",
        "dry_run",
        "loop",
    ],
    "reference": ["archive", "schema", "mapping"],
}
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
                found.add(tuple(parts[1:]))
    return found


def test_every_package_is_installed():
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    listed = tomllib.loads(text)["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    names = {".".join(path.relative_to(PACKAGE.parent).parts) for path in folders}
    assert names | {"tfp_vaeflow.gin"} == set(listed)


def test_every_module_has_a_place():
    found = {}
    for module in MODULES:
        for depth, name in enumerate(module):
            found.setdefault(".".join(module[:depth]), set()).add(name)
    assert found.pop("") == set(ORDER)
    assert set(found) == set(INNER)
    for room, inner in INNER.items():
        assert found[room] - {"__init__"} == set(inner), room


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_imports_go_up_only(module):
    for target in imported(module):
        depth = len(os.path.commonprefix([module, target]))
        order = INNER[".".join(module[:depth])] if depth else ORDER
        mine, other = module[depth], target[depth] if depth < len(target) else None
        if depth and (mine == "__init__" or other not in order):
            continue  # a room opens its own modules; a name that a room exports
        assert other in order, target
        assert order.index(other) < order.index(mine), (
            f"{'.'.join(module)} imports {'.'.join(target)}, which lies below it"
        )
        assert not {mine, other} <= set(ENTRY_POINTS)


def test_compute_has_one_door():
    """Its functions are called as `compute.linear(...)`: so they can be replaced."""
    for module in MODULES:
        targets = {t for t in imported(module) if t[0] == "compute"}
        assert module[0] == "compute" or targets <= {("compute",)}, (module, targets)


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
