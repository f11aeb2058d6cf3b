"""The one failure of these commands that a user can put right; `main` prints it as one line."""

from __future__ import annotations


class ReplayError(Exception):
    """What was asked for cannot be replayed; the text says why and what to do next."""
