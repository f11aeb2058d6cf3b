"""Crossdock's fulfilment router.

Which location ships which lines of a released order, and what becomes of them.
"""
