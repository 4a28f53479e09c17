"""The one exception that a user of the package has to catch."""


class CompactFFError(ValueError):
    """Bad input: the message says what was expected, what came, and what is allowed."""
