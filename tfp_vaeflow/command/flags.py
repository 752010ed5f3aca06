"""The flags that commands share, and the help about flags."""

import textwrap

from absl import flags

from tfp_vaeflow.common import files

FLAGS = flags.FLAGS


class _PathParser(flags.ArgumentParser):
    """A path, local or not; `~` at its start is the home directory."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError("expected a path")
        return files.expand(argument)


class _PathListParser(flags.ArgumentParser):
    """Paths with commas between them."""

    syntactic_help = "paths with commas between them"

    def parse(self, argument: str) -> list[str]:
        return [_PathParser().parse(path) for path in argument.split(",")]


def define_path(
    name: str, help_text: str, required: bool = False, default: str | None = None
) -> None:
    """Defines a flag that holds a path; all such flags are defined here."""
    flags.DEFINE(_PathParser(), name, default, help_text, required=required)


def define_paths(name: str, help_text: str) -> None:
    """Defines a flag that holds a path and has to be given, once or several times."""
    serializer = flags.ArgumentSerializer()
    flags.DEFINE_multi(_PathParser(), serializer, name, None, help_text, required=True)


def define_path_list(name: str, help_text: str) -> None:
    """Defines a flag that holds paths with commas between them."""
    flags.DEFINE(_PathListParser(), name, None, help_text)


def define_model_dir(help_text: str) -> None:
    """Defines `--model_dir`, which has to be given."""
    define_path("model_dir", help_text, required=True)


def define_served_model() -> None:
    """Defines the two flags that name an exported model; a command takes one."""
    define_path("saved_model", "Directory that `export` wrote; the model runs here.")
    flags.DEFINE_string(
        "server",
        None,
        "Address of a server: http://HOST:8501/v1/models/NAME or "
        "grpc://HOST:8500/NAME.",
    )


def define_checkpoint() -> None:
    """Defines `--checkpoint`, which chooses the weights of a run."""
    flags.DEFINE_enum(
        "checkpoint",
        "latest",
        ["latest", "best"],
        "The weights to take: the last ones, or those with the fewest bits/dim of the "
        "validation images.",
    )


def define_bindings() -> None:
    """Defines `--gin_bindings`, which override settings of the experiment."""
    flags.DEFINE_multi_string(
        "gin_bindings",
        [],
        "A setting that overrides the experiment's, such as "
        "TrainingConfig.batch_size=32; may be given several times.",
    )


def bindings_with(short_cuts: dict[str, str]) -> list[str]:
    """`--gin_bindings`, followed by the bindings that other flags are short for.

    Args:
      short_cuts: flag -> the parameter that it binds.
    """
    values = FLAGS.flag_values_dict()
    extra = [
        f"{binding} = {values[flag]!r}"
        for flag, binding in short_cuts.items()
        if values[flag] is not None
    ]
    return [*values["gin_bindings"], *extra]


def own_flags() -> list[flags.Flag]:
    """The flags of the command, without those that absl itself defines."""
    return [
        flag
        for module, members in FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl.")
        for flag in members
    ]


def is_missing(flag: flags.Flag) -> bool:
    """Whether a flag that has to be given has no value."""
    return flag.value is None and flag.validators


def flag_help() -> str:
    """The command's flags, each with its meaning and default."""
    lines = ["Flags:"]
    for flag in sorted(own_flags(), key=lambda flag: flag.name):
        default = "" if flag.default in (None, []) else f" (default: {flag.default})"
        text = flag.help.split(";\n")[0]  # absl adds that it may be repeated
        text = f"--{flag.name}: {text}{default}"
        lines.append(
            textwrap.fill(text, 88, initial_indent="  ", subsequent_indent="      ")
        )
    return "\n".join(lines)
