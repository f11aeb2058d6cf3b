"""Carrying out a fault at the moment it strikes. `world` calls it from inside the call of a process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from crossdock_eventing import names
from crossdock_simulation.erp import Mishap
from crossdock_simulation.faults import SERVICES, Fault
from crossdock_simulation.instance import Instance

if TYPE_CHECKING:
    from crossdock_simulation.world import World


_ERP_MISHAPS = {
    "erp_answer_lost": Mishap.ANSWER_LOST,
    "erp_request_lost": Mishap.REQUEST_LOST,
    "erp_unreachable": Mishap.UNREACHABLE,
    "erp_fails": Mishap.FAILED,
    "erp_fails_afterwards": Mishap.FAILED_AFTERWARDS,
    "erp_throttles": Mishap.THROTTLED,
}


def strike(world: World, instance: Instance, fault: Fault) -> None:
    """Raises Died when the process ends here."""
    kind, size = fault.kind, fault.size
    service = instance.service.name
    transactional_id = names.transactional_id(service, instance.ordinal)
    faults = world.broker.faults
    match kind:
        case "kill":
            raise instance.die(restart_in_s=size)
        case "kill_and_lose_disk":
            instance.lose_disks(None)
            raise instance.die(restart_in_s=size)
        case "kill_and_roll_back_disk":
            instance.lose_disks(int(size))
            raise instance.die(restart_in_s=1.0)
        case "kill_committing":
            faults.slow_commit(transactional_id, landed=False)
            world.later(size / 2, faults.land_commits)
            instance.die_at_the_answer(restart_in_s=size)
        case "pause":
            instance.fall_silent()
            world.meanwhile(instance, size)
        case "commit_answer_lost":
            faults.slow_commit(transactional_id, landed=True)
        case "commit_late":
            faults.slow_commit(transactional_id, landed=False)
            world.later(size, faults.land_commits)
        case "commit_lost":
            faults.slow_commit(transactional_id, landed=False)
        case "record_undelivered":
            faults.lose_delivery(transactional_id)
        case "expelled":
            instance.expel()
        case "superseded":
            if len(world.instances_of(service)) == 1:
                world.add_instance(service)
            instance.expel()
            world.meanwhile(instance, size)
        case "broker_away":
            faults.set_away(True)
            world.later(size, lambda: faults.set_away(False))
        case "markers_held":
            faults.hold_markers()
            world.later(size, faults.release_markers)
        case "compacted":
            _compact(world, size)
        case "scaled_out":
            world.add_instance(service)
        case "scaled_in":
            world.remove_instance(service)
        case "rolling_restart":
            for number, each in enumerate(world.instances_of(service)):
                world.later(3.0 * number, partial(each.stop, for_good=False))
        case "twin":
            twin = world.add_instance(service, twin_of=instance)
            world.later(20.0, lambda: twin.stop(for_good=True))  # somebody notices
        case "clock_skewed":
            instance.clock.skew_s += size
            instance.wake()
        case "clock_leapt":
            world.leap_after_round(size)
        case "gateway_killed":
            world.later(0.0, world.gateway.crash)
        case "deliveries_repeated":
            world.gateway.repeats += int(size)
        case "events_delayed":
            world.gateway.delay_s = size
            world.later(size, world.gateway.delay_no_more)
        case "erp_away":
            world.erps.away("cloud", until_s=world.clock.monotonic_s() + size)
        case "erp_slow":
            world.erp_slow_s = size
            world.later(120.0, world.erp_slow_no_more)
        case _ if kind in _ERP_MISHAPS:
            world.erp_mishaps.extend([_ERP_MISHAPS[kind]] * int(size))
        case _:
            system, _, trouble = kind.partition("_")
            _trouble_outside(world, system, trouble, size)


def _compact(world: World, tombstones_older_than_s: float) -> None:
    before_ms = int((world.clock.now().timestamp() - tombstones_older_than_s) * 1000)
    for service in SERVICES:
        world.broker.compact(names.changelog_topic(service), tombstones_before_ms=before_ms)


def _trouble_outside(world: World, system: str, trouble: str, size: float) -> None:
    gateway = world.gateway
    match trouble:
        case "away":
            gateway.away_until_s[system] = world.clock.monotonic_s() + size
        case "answer_lost":
            gateway.lost_answers[system] = gateway.lost_answers.get(system, 0) + int(size)
        case "request_lost":
            gateway.lost_requests[system] = gateway.lost_requests.get(system, 0) + int(size)
        case _:
            raise AssertionError(f"no such fault: {system}_{trouble}")
