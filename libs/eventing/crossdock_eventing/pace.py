"""How fast a worker commits: read by the worker, set by composition roots and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When a worker commits. Small transactions drown the broker in commits; large ones delay everybody.

    It commits when the input is dry and `commit_interval_s` have passed since the last commit, after `commit_interval_s_max`
    in any case, or at `batch_max` messages.
    """

    batch_max: int = 2_000
    commit_interval_s: float = 0.020
    commit_interval_s_max: float = 0.100
    idle_wait_s: float = 0.100
    calls_wait_s: float = 0.005
    timers_max: int = 500
