"""Experiment files: the only module that knows gin.

An experiment file binds the fields of the dataclasses in `config`. Files are found in
the working directory, beside the package (a checkout) or inside it (an installation).
An included file is looked for beside the including file first, then in the same places.

A relative path in an experiment starts at the working directory. It is saved as an
absolute path, so that a saved experiment finds its data from every directory.
"""

import dataclasses
import importlib.util  # noqa: F401 (gin's resource reader needs it and forgets it)
import io
import os
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path

import gin
from tfp_vaeflow.common import files
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import flow, model, run
from tfp_vaeflow.config.model import ModelConfig
from tfp_vaeflow.config.run import ExperimentConfig

_PACKAGE = Path(__file__).resolve().parents[1]
_SEARCH_PATH = (Path(), _PACKAGE.parent, _PACKAGE)
CONFIG_FILE = "config.gin"

_REGISTERED = {
    cls: gin.external_configurable(cls)
    for module in (flow, model, run)
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
}
_BINDING = re.compile(r"""\s*(\w+[./])*(?P<name>\w+\.\w+)\s*=""")
_INCLUDE = re.compile(r"""\s*include\s+(['"])(?P<name>.+?)\1\s*(#.*)?$""")


def _find(name: str, beside: Path | None = None) -> Path:
    """The experiment file of that name, beside another file if there is one there."""
    for directory in filter(None, (beside, *_SEARCH_PATH)):
        if (directory / name).is_file():
            return directory / name
    shipped = sorted(
        path.name for root in _SEARCH_PATH[1:] for path in root.glob("gin/*")
    )
    raise UserError(
        f"there is no experiment file {name}; the package has "
        f"{', '.join(f'gin/{name}' for name in shipped)}"
    )


def _parse_text(text: str, within: tuple[Path, ...] = ()) -> None:
    """Parses lines of an experiment; gin itself looks for includes elsewhere.

    Args:
      text: the lines.
      within: the file of the lines, after the files that include it. Errors name this
        file, and the files that it includes are looked for beside it first.
    """
    name, beside = (str(within[-1]), within[-1].parent) if within else (None, None)

    def parse(first, last):
        part = io.StringIO(first * "\n" + "".join(lines[first:last]))
        part.name = name
        gin.parse_config(part)

    lines = text.splitlines(keepends=True)
    done = 0
    for number, line in enumerate(lines):
        include = _INCLUDE.match(line)
        if include:
            parse(done, number)
            _parse_file(_find(files.expand(include["name"]), beside), within)
            done = number + 1
    parse(done, len(lines))


def _parse_file(path: Path, within: tuple[Path, ...] = ()) -> None:
    path = path.resolve()
    if path in within:
        chain = " includes ".join(map(str, (*within, path)))
        raise UserError(f"{chain}: the files include each other; remove an include")
    _parse_text(path.read_text(encoding="utf-8"), (*within, path))


def load(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> ExperimentConfig:
    """Reads an experiment; unknown names and values of the wrong kind are errors.

    Args:
      gin_files: files, later ones overriding earlier ones.
      bindings: lines such as `TrainingConfig.num_steps = 100`, overriding the files.

    Raises:
      UserError: saying which file and line, or which field, is wrong.
    """
    paths = [_find(name) for name in gin_files]
    return _parse(paths, bindings, _origin(gin_files, bindings))


def _origin(names: Sequence[str], bindings: Sequence[str]) -> str:
    where = ", ".join(names)
    return f"{where} or --gin_bindings" if bindings else where


def _parse(
    paths: Sequence[Path], bindings: Sequence[str], origin: str
) -> ExperimentConfig:
    gin.clear_config()
    try:
        for path in paths:
            _parse_file(path)
        _parse_text("\n".join(bindings))
        gin.finalize()
        config = _REGISTERED[ExperimentConfig]()
        with gin.unlock_config():
            for field in dataclasses.fields(config):
                part = getattr(config, field.name)
                for name, path in part.absolute_paths().items():
                    gin.bind_parameter(f"{type(part).__name__}.{name}", path)
        return _REGISTERED[ExperimentConfig]()
    except UserError as error:
        # gin adds where the object was made; the first line says what is wrong.
        raise UserError(str(error).splitlines()[0]) from error
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        raise UserError(f"in {origin}: {message}, line {line}") from error
    except (
        ValueError,
        TypeError,
        SyntaxError,
        OSError,
        RuntimeError,
        ImportError,
    ) as error:
        raise UserError(f"in {origin}: {error}") from error


def names_in(bindings: Sequence[str]) -> list[str]:
    """The settings that bindings set, in their order, such as `DataConfig.shift`."""
    lines = [line for binding in bindings for line in binding.splitlines()]
    found = map(_BINDING.match, lines)
    return [match["name"] for match in found if match]


def save(model_dir: str | os.PathLike) -> str:
    """Writes the experiment that was read last to a model directory.

    `config.gin` holds all bindings, with includes resolved. `operative_config.gin`
    holds every value that was used, also the defaults.

    Returns:
      The text of `operative_config.gin`.
    """
    operative = gin.operative_config_str()
    files.write_text(os.path.join(model_dir, CONFIG_FILE), gin.config_str())
    files.write_text(os.path.join(model_dir, "operative_config.gin"), operative)
    return operative


def model_bindings(model: ModelConfig) -> list[str]:
    """All fields of a model as lines of an experiment file."""

    def lines(settings, scope=""):
        name = type(settings).__name__
        inner = "dequantizer/" if name == "DequantizerConfig" else scope
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if dataclasses.is_dataclass(value):
                yield from lines(value, inner)
                value = f"@{inner}{type(value).__name__}()"
            else:
                value = repr(value)
            yield f"{scope}{name}.{field.name} = {value}"

    return list(lines(model))


def is_saved(model_dir: str | os.PathLike) -> bool:
    """Whether a model directory holds an experiment."""
    return files.exists(os.path.join(model_dir, CONFIG_FILE))


def differences(former: ExperimentConfig, current: ExperimentConfig) -> list[str]:
    """The fields that differ between two experiments, `Part.field: was -> is`."""
    changes = []
    for part in dataclasses.fields(former):
        before, after = getattr(former, part.name), getattr(current, part.name)
        for field in dataclasses.fields(before):
            was, now = getattr(before, field.name), getattr(after, field.name)
            if was != now:
                name = f"{type(before).__name__}.{field.name}"
                changes.append(f"{name}: {was!r} -> {now!r}")
    return changes


def load_saved(
    model_dir: str | os.PathLike, bindings: Sequence[str] = ()
) -> ExperimentConfig:
    """Reads the experiment that a model directory was last trained with.

    Raises:
      UserError: if there is none.
    """
    path = os.path.join(model_dir, CONFIG_FILE)
    if not is_saved(model_dir):
        raise UserError(
            f"{model_dir} is not a model directory: there is no {CONFIG_FILE}; "
            "expected what `python -m tfp_vaeflow.train --model_dir=...` writes"
        )
    # As text, because gin opens local files only.
    lines = [files.read_text(path), *bindings]
    return _parse([], lines, _origin([path], bindings))
