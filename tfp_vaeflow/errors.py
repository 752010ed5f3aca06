"""What a user can cause: one clear line instead of a stack trace."""


class UserError(ValueError):
    """Says what came, what was expected, and what to do; commands print just that."""
