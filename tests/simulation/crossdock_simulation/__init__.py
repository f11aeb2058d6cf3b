"""The deterministic simulator: all six services with their real shell and deciders in one process, under one seed.

`crossdock simulate` and the tests call it; no service, library or tool but that command imports it.
"""
