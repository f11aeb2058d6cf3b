"""Deliberate defects: the test of the auditor. Each is planted in production code, and the simulator must run into it.

`catalogue` lists them, `hunt` runs schedules until the auditor catches one; `crossdock simulate --mutations` calls both.
"""
