"""A schedule: everything that decides how one simulated world runs. Drawn from a seed, written as JSON, shrunk after a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from crossdock_simulation.faults import Fault, draw_faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run. The same schedule gives the same history.

    seed: draws the workload, the fates outside and the interleaving. faults: what goes wrong.
    left_out: numbers of the workload's items that are not said. partitions, instances: of every service.
    batch_max, commit_interval_s: how the workers commit.
    parked_max: messages that a parked key may hold; then its task takes no input. released_max: parked messages that one
    transaction decides. horizon_days: how much time passes after the last item.
    replays: at the end every journal is replayed, which takes a quarter of the time of all else.
    """

    seed: int
    faults: tuple[Fault, ...]
    left_out: frozenset[int] = frozenset()
    partitions: int = 2
    instances: int = 1
    batch_max: int = 2000
    commit_interval_s: float = 0.0
    parked_max: int = 1_000
    released_max: int = 500
    horizon_days: float = 60.0
    replays: bool = True

    @classmethod
    def of_seed(cls, seed: int) -> Schedule:
        """The schedule that a seed stands for."""
        chance = Random(f"{seed}/schedule")
        return cls(
            seed=seed,
            faults=draw_faults(chance),
            partitions=chance.choice((1, 2, 2, 3)),
            instances=chance.choice((1, 1, 2)),
            batch_max=chance.choice((1, 3, 2000, 2000, 2000, 2000)),
            commit_interval_s=chance.choice((0.0, 0.0, 0.004)),
            # The longer one is past every retention: closed orders are forgotten.
            horizon_days=chance.choice((60.0, 60.0, 60.0, 420.0)),
            replays=chance.random() < 1 / 6,
            parked_max=chance.choice((1, 3, 1_000, 1_000)),
            released_max=chance.choice((1, 500)),
        )

    def without(
        self, *, faults: frozenset[int] = frozenset(), items: frozenset[int] = frozenset()
    ) -> Schedule:
        """The same with the faults at these positions and the items of these numbers left out."""
        kept = tuple(fault for position, fault in enumerate(self.faults) if position not in faults)
        return replace(self, faults=kept, left_out=self.left_out | items)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "seed": self.seed,
            "faults": [fault.to_json() for fault in self.faults],
            "left_out": sorted(self.left_out),
            "partitions": self.partitions,
            "instances": self.instances,
            "batch_max": self.batch_max,
            "commit_interval_s": self.commit_interval_s,
            "parked_max": self.parked_max,
            "released_max": self.released_max,
            "horizon_days": self.horizon_days,
            "replays": self.replays,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Schedule:
        """Raises KeyError, TypeError or ValueError for what is no schedule."""
        return cls(
            **{
                **found,
                "faults": tuple(Fault.from_json(each) for each in found["faults"]),
                "left_out": frozenset(found["left_out"]),
            }
        )
