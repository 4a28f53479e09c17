"""The one exception that a user of the package has to catch, and what is told apart from it."""


class CompactFFError(ValueError):
    """Bad input: the message says what was expected, what came, and what is allowed."""


class WriteError(CompactFFError):
    """A file could not be written, for want of space or of permission; what the system said is its cause."""


class NotFiniteError(CompactFFError):
    """Energy or forces are not finite: the input was good, the dynamics were not."""
