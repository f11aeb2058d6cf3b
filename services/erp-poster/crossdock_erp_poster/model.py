"""What erp-poster decides with: its policy, its private events, the call to the ERP and the ERP's answers.

Imported by every other module of the service; the state itself is the generated `state_records.ChainState`.

A document's life: queued (intent) → started → answered. Posted and failed are the published records; an
answer that settles nothing is followed by a new attempt, with a new call id, for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from crossdock_canonical.identity import OrderId
from crossdock_erp_poster.state_records import ChainState, PendingDocument

RETRY_TIMER = "retry"
PREDECESSOR_TIMER = "predecessor"
REMOVE_TIMER = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Deadlines and rules of the business.

    default_erp, erp_by_channel: cut-over rule between ERPs that run side by side. A chain keeps the ERP that
        its first record chose, so a changed rule never moves half an order's documents.
    back_off_first, back_off_max: delay before attempt n + 1 is first · 2^(n-1), at most max. The number of
        attempts has no limit: an outage queues for as long as it takes; the next try stands in the state.
    settle: longest time from a posting's leaving to its booking, whatever became of the answer; no document
        is posted again before it is over and a look-up found nothing.
    predecessor_deadline: how long a document waits for a predecessor that no record has announced.
    on_account_after: how long money waits for an invoice before it is posted on account.
    retention: how long a chain at rest is remembered; longer than any return window and any redelivery.
    adjustments_remembered: settled adjustments that a stock chain lists; older ones are known by version.
    """

    default_erp: str
    erp_by_channel: Mapping[str, str] = field(default_factory=dict)
    back_off_first: timedelta = timedelta(seconds=1)
    back_off_max: timedelta = timedelta(minutes=1)
    settle: timedelta = timedelta(seconds=20)
    predecessor_deadline: timedelta = timedelta(days=1)
    on_account_after: timedelta = timedelta(days=7)
    retention: timedelta = timedelta(days=120)
    adjustments_remembered: int = 32

    def erp_of(self, channel: str) -> str:
        """The ERP whose book a new chain of this channel belongs to."""
        return self.erp_by_channel.get(channel, self.default_erp)


# --- Private events ---


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOpened:
    """The first record of a chain came."""

    chain: str
    order_id: OrderId | None


@dataclass(frozen=True, slots=True)
class ErpChosen:
    """A record named its channel, so the chain belongs to this ERP from now on."""

    erp: str


@dataclass(frozen=True, slots=True)
class DocumentQueued:
    """The intent: the ERP shall hold this document."""

    document: PendingDocument


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The document is to be posted now; `attempt` counts from 1."""

    business_key: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """The ERP was away, or what it did is unknown; the next attempt comes at `retry_at`."""

    business_key: str
    attempt: int
    code: str
    detail: str
    retry_at: datetime


@dataclass(frozen=True, slots=True)
class PostedOnAccount:
    """Money has waited long enough for an invoice, or there will be none: it needs no predecessor."""

    business_key: str


@dataclass(frozen=True, slots=True)
class InvoiceRuledOut:
    """The order was cancelled before anything of it shipped: money waits for no invoice any more."""


@dataclass(frozen=True, slots=True)
class SettledForgotten:
    """A stock chain lists only its latest `keep` settled adjustments; older ones are known by version."""

    keep: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimersMoved:
    """When the chain looks at what waits for its predecessor, and when it is forgotten; None clears."""

    predecessor: datetime | None
    remove: datetime | None


@dataclass(frozen=True, slots=True)
class ChainForgotten:
    """The chain has been at rest for the whole retention."""


# --- The call to the ERP and its answers ---


@dataclass(frozen=True, slots=True, kw_only=True)
class PostDocument:
    """The outstanding call of a chain. `predecessor` is the reference of the posted document it follows."""

    call_id: str
    erp: str
    order_id: OrderId | None
    document: PendingDocument
    predecessor: str
    attempt: int

    @property
    def reference(self) -> str:
        """What the ERP files the document under, the same for every attempt: `<business key>@<version>`."""
        return reference(self.document.business_key, self.document.version)

    @property
    def caused_by(self) -> str:
        """Event id of the fact that calls for the document."""
        return self.document.cause


@dataclass(frozen=True, slots=True)
class Posted:
    """The ERP holds the document under its own number; `existed` when a look-up found it."""

    external_ref: str
    existed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The ERP examined the document and will never take it. `code` is the ERP's."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The ERP is away and has not taken the document. `retry_after_s` when it said how long."""

    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class UnknownOutcome:
    """The document was sent, the answer was lost and a look-up did not find it (yet)."""

    detail: str


Outcome = Posted | Refused | Unavailable | UnknownOutcome


@dataclass(frozen=True, slots=True)
class ErpAnswered:
    """Command from the port: what one call brought."""

    call_id: str
    outcome: Outcome


def reference(business_key: str, version: int) -> str:
    """The deterministic reference of a document."""
    return f"{business_key}@{version}"


def call_id(document: PendingDocument, attempt: int) -> str:
    """Id of one attempt."""
    return f"{reference(document.business_key, document.version)}#{attempt}"


def current_document(state: ChainState) -> PendingDocument | None:
    """The document that is being posted or waits for its next try."""
    if not state.current:
        return None
    return next(document for document in state.pending if document.business_key == state.current)
