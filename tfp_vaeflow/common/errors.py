"""Errors that users can cause: one clear line instead of a stack trace."""

# The extra of pyproject.toml that installs each optional package, by import name.
EXTRAS = {
    "gradio": "explore",
    "matplotlib": "evaluate",
    "sklearn": "evaluate",
    "tensorflow_serving": "serve",
    "threadpoolctl": "evaluate",
}


class UserError(ValueError):
    """Says what was found and expected, and what to do; commands print only that."""


def missing_extra(error: ModuleNotFoundError) -> UserError | None:
    """The error for a missing package of an extra; None for any other package."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return None
    return UserError(
        f"the package {package!r} is not installed; install the packages of its extra: "
        f"pip install 'tfp_vaeflow[{EXTRAS[package]}]'"
    )
