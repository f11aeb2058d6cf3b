"""Every deliberate defect, by invariant. `hunt` and the tests go through this list; a new one is one more entry of its module."""

from __future__ import annotations

from crossdock_simulation.mutations import (
    orders,
    parking,
    posting,
    returning,
    routing,
    settling,
    shell,
    stock,
)
from crossdock_simulation.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = tuple(
    sorted(
        (
            *shell.MUTATIONS,
            *parking.MUTATIONS,
            *orders.MUTATIONS,
            *stock.MUTATIONS,
            *routing.MUTATIONS,
            *returning.MUTATIONS,
            *settling.MUTATIONS,
            *posting.MUTATIONS,
        ),
        key=lambda mutation: mutation.invariant,
    )
)
