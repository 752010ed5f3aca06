"""What a user can cause: one clear line instead of a stack trace."""

# Packages that are not installed without asking, by what is imported: pyproject.toml.
EXTRAS = {
    "gradio": "explore",
    "matplotlib": "evaluate",
    "sklearn": "evaluate",
    "tensorflow_serving": "serve",
    "threadpoolctl": "evaluate",
}


class UserError(ValueError):
    """Says what came, what was expected, and what to do; commands print just that."""


def missing_extra(error: ModuleNotFoundError) -> UserError | None:
    """What to say of a package that an extra would bring; None for another one."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return None
    return UserError(
        f"the package {package!r} is not installed; expected those of an extra: "
        f"pip install 'tfp_vaeflow[{EXTRAS[package]}]'"
    )
