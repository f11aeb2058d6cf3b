"""The audit: evidence read once, every check held against it. Called by `crossdock audit`, the demo, simulations and chaos runs.

A check is a function `(Evidence, Books) -> Check | tuple[Check, ...]` in the module of its subject; `CHECKS` is the list of
them. One more invariant is one more function, and its line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.registry import SchemaSource
from crossdock_tools.audit import (
    causation,
    convergence,
    delivery,
    documents,
    effects,
    lifecycle,
    memory,
    money,
    ordering,
    parking,
    quantities,
    settlement,
    stock,
)
from crossdock_tools.audit.books import NO_BOOKS, Books
from crossdock_tools.audit.evidence import Evidence, EvidenceReader
from crossdock_tools.audit.report import Check, Report
from crossdock_tools.schemas.contracts import Repository

Statement = Callable[[Evidence, Books], "Check | tuple[Check, ...]"]

CHECKS: tuple[Statement, ...] = (
    delivery.accounted,
    documents.documents,
    ordering.outputs,
    ordering.letters,
    ordering.documents,
    parking.parked,
    causation.causes,
    causation.acyclic,
    causation.identities,
    causation.producers,
    memory.remembered,
    effects.references,
    effects.outside,
    *stock.CHECKS,
    *money.CHECKS,
    *settlement.CHECKS,
    *quantities.CHECKS,
    *lifecycle.CHECKS,
    *convergence.CHECKS,
)
#: Held as well when the caller says that all work is done: what is still under way is then a violation.
CHECKS_OF_DRAINED: tuple[Statement, ...] = (
    delivery.drained,
    documents.complete,
    effects.carried_out,
    *lifecycle.CHECKS_OF_DRAINED,
)


class Auditor:
    """Audits any number of clusters that share a registry; it keeps parsed schemas from one to the next.

    checks, checks_of_drained: another choice of statements than all of them.
    """

    def __init__(
        self,
        catalogue: Repository,
        registry: SchemaSource,
        *,
        checks: Iterable[Statement] = CHECKS,
        checks_of_drained: Iterable[Statement] = CHECKS_OF_DRAINED,
    ) -> None:
        self._reader = EvidenceReader(catalogue, registry)
        self._checks = tuple(checks)
        self._checks_of_drained = tuple(checks_of_drained)

    def read(self, broker: Broker) -> Evidence:
        """What the cluster says now. Raises what `EvidenceReader.read` does."""
        return self._reader.read(broker)

    def judge(
        self,
        evidence: Evidence,
        books: Books = NO_BOOKS,
        *,
        expect_drained: bool = False,
        supplied: Iterable[Check] = (),
    ) -> Report:
        """The verdict on evidence.

        expect_drained: all work is done, so that what is pending is a violation.
        supplied: checks that were made elsewhere and belong in this report, such as a replay of the journal.
        """
        found: list[Check] = []
        for statement in (*self._checks, *(self._checks_of_drained if expect_drained else ())):
            result = statement(evidence, books)
            found += result if isinstance(result, tuple) else (result,)
        found += supplied
        return Report(tuple(sorted(found, key=lambda check: check.invariant)))

    def audit(
        self,
        broker: Broker,
        books: Books = NO_BOOKS,
        *,
        expect_drained: bool = False,
        supplied: Iterable[Check] = (),
    ) -> Report:
        """Read, then judge."""
        return self.judge(self.read(broker), books, expect_drained=expect_drained, supplied=supplied)
