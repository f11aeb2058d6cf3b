"""Simulated systems around the backbone: real HTTP processes with books of their own and faults on demand.

Used by the demo and the tests; no service imports them.
"""
