"""Replay of journals: services by name, recorded runs as text files, and the choice of what a recording keeps.

Only `command` is mounted on the command line; `tests/replay` reads recordings through `recording`.
"""
