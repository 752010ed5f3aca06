"""A module imports only from rooms above its own, or earlier in its row."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfp_vaeflow"
# Ground floor first, as in WORKSPACE.md. Rooms of one row import from left to right.
ROWS = [
    [
        "errors",
        "arguments",
        "files",
        "metrics",
        "classes",
        "config",
        "keras_settings",
    ],
    ["noise"],
    ["compute", "networks"],
    ["bijectors"],
    ["model"],
    ["serving"],
    ["checkpoints", "reference"],
    ["data"],
    ["evaluation", "summaries"],
    ["training"],
    ["compilation_cache", "command"],
    ["client"],
    ["train", "evaluate", "synthesize", "export", "explore"],
]
ORDER = [room for row in ROWS for room in row]
ENTRY_POINTS = ROWS[-1]
# Within the rooms that are folders.
INNER = {
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
    "summaries": [
        "dashboard",
        "pictures",
        "projector",
        "statistics",
        "profile",
        "writer",
    ],
    "serving": ["folding", "pictures", "rows", "signatures", "warmup", "bundle"],
    "training": [
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
    assert {module[0] for module in MODULES} == set(ORDER)
    for room, inner in INNER.items():
        files = {m[1] for m in MODULES if m[0] == room and m[1] != "__init__"}
        assert files == set(inner)
    folders = {module[0] for module in MODULES if len(module) > 1}
    assert folders == set(INNER)


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_imports_go_up_only(module):
    room = module[0]
    for target in imported(module):
        if target[0] == room:
            inner = INNER[room]
            if module[1] != "__init__" and target[1] in inner:
                assert inner.index(target[1]) < inner.index(module[1]), target
            continue
        assert target[0] in ORDER, target
        assert ORDER.index(target[0]) < ORDER.index(room), (
            f"{'.'.join(module)} imports {'.'.join(target)}, which lies below it"
        )
        assert not (room in ENTRY_POINTS and target[0] in ENTRY_POINTS)


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
