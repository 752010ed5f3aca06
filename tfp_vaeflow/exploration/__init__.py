"""The page of `explore`: its components (`page`), and their HTML (`pictures`)."""
