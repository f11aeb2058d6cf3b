"""One chaos run: load and faults together, then healing, then waiting for the last effect, then the audit.

`command` starts the stack and prints; this plays. Imported only when the run begins: it needs the whole client side.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, timedelta

from crossdock_eventing.clock import SystemClock
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.ledgers import read_ledgers
from crossdock_tools.audit.report import Report
from crossdock_tools.chaos import load
from crossdock_tools.chaos.faults import Faults
from crossdock_tools.chaos.report import FORESEEN_EXITS, ChaosReport, how_ended, read_logs, unproven
from crossdock_tools.chaos.schedule import Kind, plan
from crossdock_tools.chaos.sending import Sender
from crossdock_tools.chaos.stack import POLICIES, Stack
from crossdock_tools.chaos.watching import Watcher
from crossdock_tools.demo.client import read_json, write_json
from crossdock_tools.demo.run import poison
from crossdock_tools.replaying.identity import replays_alike
from crossdock_tools.schemas.contracts import Repository

_TICK_S = 0.05
_PROGRESS_S = 5.0
#: Nothing has moved for so long, while everything is up: what was going to happen has happened.
_QUIET_S = 12.0
_ERP_AWAY_S = 86_400.0


class ChaosError(Exception):
    """The run found what must not be; the text says what, and where the evidence lies."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller may choose.

    load_s: how long orders come in. only: kinds of faults. erp_away: the ERP is away for all that time and longer.
    """

    seed: int
    faults: int
    load_s: float
    orders_per_s: float
    drain_limit_s: float
    only: tuple[Kind, ...]
    erp_away: bool


class Run:
    """One run on a running stack."""

    def __init__(
        self, stack: Stack, repository: Repository, settings: Settings, key: str, say: Callable[[str], None]
    ) -> None:
        self._stack = stack
        self._repository = repository
        self._settings = settings
        self._say = say
        self._key = key
        self._report = ChaosReport(settings.seed, settings.faults)
        self._restarts: Counter[str] = Counter()
        self._poisoned = 0
        self._said_at = 0.0
        self._watcher = Watcher(stack.cluster)
        self._sender = Sender(stack.gateway_urls)

    def play(self) -> tuple[ChaosReport, Report]:
        """The whole run, and the auditor's verdict. Everything that is wrong is in the report's `problems`."""
        report, settings = self._report, self._settings
        with closing(self._watcher), closing(self._sender):
            self._under_load()
            self._say("every fault is over and healed; waiting for the last effect")
            healed = time.monotonic()
            self._sender.send(load.closing(SystemClock().now().astimezone(UTC)))
            self._poison()
            if settings.erp_away:
                self._without_erp()
            self._drain(healed)
            report.drain_s = time.monotonic() - healed
            self._collect()
        self._say("auditing topics and books, replaying the journals")
        return report, self._audit()

    def _under_load(self) -> None:
        settings = self._settings
        now = SystemClock().now().astimezone(UTC)
        start = now - timedelta(hours=2)
        stories = load.stories(settings.seed, self._key, start)
        schedule = plan(
            settings.seed,
            self._stack.targets,
            count=settings.faults,
            within_s=settings.load_s,
            only=settings.only,
            erp_away=settings.erp_away,
        )
        if settings.erp_away:
            write_json(f"{self._stack.simulator_urls['erp']}/faults", {"outage_s": _ERP_AWAY_S})
            self._say("the ERP is away from now on")
        for request in load.opening(start):
            self._sender.send(request)
        self._poison()
        self._say(
            f"load begins: {settings.orders_per_s:g} orders a second for {settings.load_s:.0f} s, "
            f"{len(schedule)} faults; seed {settings.seed}"
        )
        began = time.monotonic()
        fed = 0
        faults = Faults(self._stack, schedule, self._say)
        try:
            while (elapsed := time.monotonic() - began) < settings.load_s or not faults.over:
                faults.tick()
                # Orders keep coming until the last fault is over, so that none falls on idle services.
                wanted = int(elapsed * settings.orders_per_s)
                if wanted > fed:
                    self._sender.feed(stories, orders=wanted - fed)
                    fed = wanted
                self._tick(f"under load, {sum(faults.done.values())}/{len(schedule)} faults")
                if elapsed > settings.load_s + settings.drain_limit_s:
                    # Fewer faults than asked for fail the run by themselves; this says why they are fewer.
                    self._report.problems.append(
                        f"{settings.drain_limit_s:.0f} s after the load was to end, faults are still under way: "
                        "a process or the broker does not come back"
                    )
                    break
        finally:
            faults.heal()
            self._report.faults = {kind.value: count for kind, count in sorted(faults.done.items())}
            self._report.load_s = time.monotonic() - began

    def _poison(self) -> None:
        """A message that nobody can read: one dead letter more."""
        poison(self._stack.cluster)
        self._poisoned += 1

    def _without_erp(self) -> None:
        """Every order ends while the ERP is still away; then it returns."""
        asked = time.monotonic()
        outcome = self._watcher.outcome
        while not self._orders_ended():
            self._tick("waiting for the orders, without the ERP")
            if time.monotonic() - asked > self._settings.drain_limit_s:
                self._report.problems.append(
                    f"without the ERP {len(outcome.ordered - outcome.ended)} orders have not ended: "
                    f"{sorted(outcome.ordered - outcome.ended)[:5]}"
                )
                break
        erp = self._stack.simulator_urls["erp"]
        booked = read_json(f"{erp}/books")["documents"]
        self._report.erp_outage = {
            "orders ended before it returned": len(outcome.ended),
            "units shipped before it returned": sum(outcome.shipped_by_us.values()),
            "documents booked before it returned": booked,
            "documents that waited for it": outcome.documents_missing(),
        }
        if booked:
            self._report.problems.append(f"{booked} documents were booked while the ERP was away")
        self._say(f"{len(outcome.ended)} orders have ended; the ERP returns")
        write_json(f"{erp}/faults", {})

    def _drain(self, since: float) -> None:
        """Until nothing is open and nothing moves; what is open when the limit is reached becomes a problem."""
        limit = since + self._settings.drain_limit_s
        if self._settings.erp_away:
            limit = time.monotonic() + self._settings.drain_limit_s
        while not self._drained():
            self._tick("draining")
            if time.monotonic() > limit:
                outcome = self._watcher.outcome
                left = sorted(outcome.ordered - outcome.ended)
                self._report.problems.append(
                    f"not drained after {self._settings.drain_limit_s:.0f} s: {len(left)} orders open {left[:5]}, "
                    f"{outcome.documents_missing()} ERP documents missing, {self._sender.waiting} stories untold"
                )
                return

    def _drained(self) -> bool:
        return (
            self._sender.waiting == 0
            and self._watcher.quiet_s > _QUIET_S
            and self._orders_ended()
            and self._watcher.outcome.documents_missing() == 0
            and all(self._stack.supervisor.healthy(each) for each in self._stack.targets.instances)
        )

    def _orders_ended(self) -> bool:
        outcome = self._watcher.outcome
        return self._sender.waiting == 0 and outcome.ordered <= outcome.ended and bool(outcome.ordered)

    def _tick(self, doing: str) -> None:
        """Keep the processes alive, tell how it goes, and wait a moment."""
        if self._watcher.failure is not None:
            raise self._watcher.failure
        for restarted in self._stack.supervisor.poll():
            self._restarts[how_ended(restarted.exit_code)] += 1
            if restarted.exit_code not in FORESEEN_EXITS:
                self._report.crashes.append(f"{restarted.name} ended with {how_ended(restarted.exit_code)}")
        now = time.monotonic()
        if now - self._said_at >= _PROGRESS_S:
            self._said_at = now
            outcome = self._watcher.outcome
            self._say(
                f"{doing}: {self._sender.orders} orders sent, {len(outcome.ended)}/{len(outcome.ordered)} ended, "
                f"{sum(outcome.documents.values())} ERP documents, {outcome.documents_missing()} missing, "
                f"{self._sender.waiting} stories under way"
            )
        time.sleep(_TICK_S)

    def _collect(self) -> None:
        """Figures and, besides what the auditor says, everything that must not be."""
        report, outcome = self._report, self._watcher.outcome
        report.orders = self._sender.orders
        report.requests = self._sender.requests
        report.requests_repeated = self._sender.retried
        report.orders_ended = len(outcome.ended)
        report.erp_documents = sum(outcome.documents.values())
        report.restarts = dict(self._restarts)
        told = read_logs(self._stack.directory / "logs")
        report.ends = dict(told.ends.most_common())
        report.crashes += told.crashes
        report.recoveries = dict(told.recoveries.most_common())
        report.problems += [f"crashed: {each}" for each in report.crashes]
        report.problems += [f"unexpected answer: {each}" for each in self._sender.unexpected[:10]]
        done = sum(report.faults.values())
        if done < report.faults_asked:
            report.problems.append(f"{done} faults were carried out, {report.faults_asked} were asked for")
        if len(outcome.ordered) != report.orders:
            report.problems.append(
                f"{report.orders} orders were taken, {len(outcome.ordered)} are on the topics"
            )
        books = {name: read_json(f"{url}/books") for name, url in self._stack.simulator_urls.items()}
        for name in ("wms", "psp", "channels"):
            if books[name]["events_refused"]:
                report.problems.append(f"{name}: the gateway refused {books[name]['events_refused'][:3]}")
        report.problems += [f"refused by the ERP: {each}" for each in outcome.failed_documents[:10]]
        report.problems += [f"the ERP's ledger: {each}" for each in books["erp"]["findings"][:10]]

    def _audit(self) -> Report:
        """The auditor's verdict on topics and books, which are kept beside the report."""
        cluster, report = self._stack.cluster, self._report
        books = read_ledgers(self._stack.simulator_urls)
        (self._stack.directory / "books.json").write_text(json.dumps(books.to_json()) + "\n")
        auditor = Auditor(self._repository, cluster.registry())
        evidence = auditor.read(cluster.broker())
        replayed = replays_alike(cluster, {**os.environ, **POLICIES}, whole=True)
        verdict = auditor.judge(evidence, books, expect_drained=True, supplied=[replayed])
        report.messages = len(evidence.entries)
        report.dead_letters = len(evidence.letters)
        report.audit = verdict.to_json()
        report.problems += [f"invariant {each}" for each in verdict.findings()]
        report.problems += unproven(verdict)
        if len(evidence.letters) != self._poisoned:
            report.problems.append(f"{len(evidence.letters)} dead letters, {self._poisoned} were provoked")
        return verdict
