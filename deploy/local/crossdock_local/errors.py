"""The one anticipated failure of this package; the command line prints it as a line, without a traceback."""


class LocalError(Exception):
    """Something the user can put right: a missing tool, a taken port, a setting. One line, saying what to do."""
