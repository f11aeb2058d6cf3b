"""One run of the demo: the script is sent, the last effect waited for, and topics, books and script held against each other.

`command` starts the stack and prints; this plays. Imported only when the demo runs: it needs the whole client side.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from typing import Any

from crossdock_canonical.records import ChannelOrderReceived, ShipmentConfirmed
from crossdock_eventing.clock import SystemClock
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.ledgers import read_ledgers
from crossdock_tools.audit.report import Report
from crossdock_tools.cluster import Cluster, demo_books, demo_directory
from crossdock_tools.demo import figures, scenario
from crossdock_tools.demo.client import GatewayClient, read_json, write_json
from crossdock_tools.demo.shapes import SHOP
from crossdock_tools.demo.stack import DEMO_POLICIES, SERVICES, Stack
from crossdock_tools.replaying.identity import replays_alike
from crossdock_tools.schemas.commands import repository
from crossdock_tools.topic_reader import TopicReader

_POISON_KEY = b"no-order-has-this-key"
_QUIET_S = 2.0
_PROGRESS_S = 2.0


class DemoError(Exception):
    """The run did not end as it must; the text says what is open or what disagrees."""


class Run:
    """One run on a running stack."""

    def __init__(
        self, stack: Stack, key: str, say: Callable[[str], None], started: float, limit_s: float
    ) -> None:
        self._stack = stack
        self._say = say
        self._started = started
        self._limit_s = limit_s
        self._key = key
        self._now = SystemClock().now().astimezone(UTC)
        self._script = scenario.build(self._now, key)
        self._reader = figures.OutcomeReader(stack.cluster, (*SERVICES, "channel-gateway"))
        self._client = GatewayClient(stack.gateway_url, self._tick)
        self._last_progress = 0.0

    def play(self) -> tuple[dict[str, Any], list[str]]:
        """Send the script and judge the outcome: the summary, and what disagrees."""
        with closing(self._reader), closing(self._client):
            self._refuse_a_second_run()
            self._send_all()
            outcome = self._reader.outcome
            wall_s = time.monotonic() - self._started
            self._say("auditing topics and books, replaying the journals")
            audit = self._audit()
            books = {name: read_json(f"{url}/books") for name, url in self._stack.simulator_urls.items()}
            result = figures.summary(
                outcome,
                books,
                sent=self._client.sent,
                refused=self._client.refused,
                expected_letters=1,
                audit=audit,
                wall_s=wall_s,
            )
            problems = figures.disagreements(outcome, self._script, result)
            return result, [*problems, *(f"invariant {each}" for each in audit.findings())]

    def _audit(self) -> Report:
        cluster, books = self._stack.cluster, read_ledgers(self._stack.simulator_urls)
        # Kept for `crossdock audit --demo`: the simulated systems end with the demo.
        demo_books().write_text(json.dumps(books.to_json()) + "\n")
        auditor = Auditor(repository(None), cluster.registry())
        evidence = auditor.read(cluster.broker())
        if not evidence.quiet:
            raise DemoError(
                "the topics do not come to rest after the last effect: somebody works without end"
            )
        replayed = replays_alike(cluster, {**os.environ, **DEMO_POLICIES}, whole=True)
        return auditor.judge(evidence, books, expect_drained=True, supplied=[replayed])

    def _refuse_a_second_run(self) -> None:
        """The script's orders are the same every time: a cluster that has seen them would ignore them as duplicates."""
        intake = TopicReader(
            self._stack.cluster.broker(), self._stack.cluster.registry(), [ChannelOrderReceived.TOPIC]
        )
        with closing(intake):
            known = any(getattr(entry.body, "shop", "") == SHOP for entry in intake.entries())
        if known:
            raise DemoError(
                "this cluster holds the orders of an earlier demo, which it would ignore as duplicates: "
                "wipe it (crossdock down --wipe, then make up), or run the demo on a cluster of its own"
            )

    def _send_all(self) -> None:
        script, outcome = self._script, self._reader.outcome
        wms = self._stack.simulator_urls["wms"]
        write_json(f"{wms}/faults", {"short_pick": {scenario.SEXTANT.sku: 1}})
        self._say(f"sending master data, then {script.distinct} orders in {len(script.orders)} requests")
        for request in script.master_data:
            self._client.send(request)
        for number, request in enumerate(script.orders, start=1):
            self._client.send(request)
            self._progress(f"sent {number}/{len(script.orders)}")
        poison(self._stack.cluster)
        for request in script.late:
            self._client.send(request)
        self._wait(
            "orders", lambda: outcome.ordered <= outcome.ended and len(outcome.ordered) == script.distinct
        )
        self._say(
            "every order has ended; sending two returns, a refund of the shop's own and both settlement files"
        )
        self._client.send(scenario.shop_refund(self._now, self._key))
        for request in (*script.returns, *script.settlements):
            self._client.send(request)
        self._wait("returns", lambda: set(script.returned) <= outcome.refunded_orders)
        self._wait("settlements", lambda: len(outcome.settlements) == len(script.settlements))
        self._wait("ERP documents", lambda: outcome.documents_missing() == 0)
        self._wait_until_quiet()

    def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        while not holds():
            self._tick()
            self._reader.read()
            self._progress(f"waiting for {what}")
            if time.monotonic() - self._started > self._limit_s:
                raise DemoError(f"gave up after {self._limit_s:.0f} s waiting for {what}: {self._open()}")
            time.sleep(0.1)

    def _wait_until_quiet(self) -> None:
        """The outside may still be told things: wait until neither topics nor books move any more."""
        quiet_since, seen = time.monotonic(), ""
        while time.monotonic() - quiet_since < _QUIET_S:
            self._tick()
            moved = self._reader.read()
            books = json.dumps([read_json(f"{url}/books") for url in self._stack.simulator_urls.values()])
            if moved or books != seen:
                quiet_since, seen = time.monotonic(), books
            time.sleep(0.1)

    def _open(self) -> str:
        outcome = self._reader.outcome
        orders = sorted(outcome.ordered - outcome.ended)
        parts = [
            f"{len(orders)} orders open {orders[:5]}",
            f"{outcome.documents_missing()} ERP documents missing",
            f"dead letters {outcome.dead_letters[:5]}",
            f"logs in {demo_directory() / 'logs'}",
        ]
        return "; ".join(parts)

    def _tick(self) -> None:
        for restarted in self._stack.supervisor.poll():
            self._say(f"{restarted.name} had ended with {restarted.exit_code}; restarted as {restarted.pid}")

    def _progress(self, doing: str) -> None:
        now = time.monotonic()
        if now - self._last_progress < _PROGRESS_S:
            return
        self._last_progress = now
        self._reader.read()
        outcome = self._reader.outcome
        self._say(
            f"{doing}: {len(outcome.ended)}/{len(outcome.ordered)} orders ended, "
            f"{sum(outcome.documents.values())} ERP documents, {sum(outcome.shipped_by_us.values())} units shipped"
        )


def poison(cluster: Cluster) -> None:
    """A publisher's mistake, past the gateway: bytes that are no record, on a topic of the warehouse."""
    producer = cluster.broker().producer("retail.demo.poison")
    producer.init_transactions()
    producer.begin()
    producer.produce(ShipmentConfirmed.TOPIC, key=_POISON_KEY, value=b"\x00\x00\x00\x00\x00not avro")
    producer.commit()
    producer.close()
