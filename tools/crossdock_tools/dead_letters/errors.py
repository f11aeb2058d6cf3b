"""The one failure of these commands that a user can put right; `main` prints it as one line."""

from __future__ import annotations


class DeadLetterError(Exception):
    """What was asked for is not there or cannot be done; the text says why and what to do next."""
