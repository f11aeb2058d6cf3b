"""The one anticipated failure of this package; the command line prints it as a line, without a traceback."""


class LocalError(Exception):
    """Something the user can put right (a tool, a port, a setting): one line, saying what to do."""
