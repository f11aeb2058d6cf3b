"""The decider of one chain: facts become intents, intents become calls, answers settle them.

Called by the shell. Within a chain exactly one document is on its way at a time, and none starts before the
one it follows is posted. A refused document fails and takes with it only those that follow it; money that
moved is never failed for want of an invoice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import assert_never

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CreditGranted,
    ErpDocumentFailed,
    ErpDocumentPosted,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    SettlementProved,
    StockAdjusted,
)
from crossdock_erp_poster.documents import Fact, chain_of, documents_of
from crossdock_erp_poster.evolve import Event, evolve
from crossdock_erp_poster.model import (
    PREDECESSOR_TIMER,
    REMOVE_TIMER,
    RETRY_TIMER,
    AttemptFailed,
    AttemptStarted,
    ChainForgotten,
    ChainOpened,
    DocumentQueued,
    ErpAnswered,
    ErpChosen,
    InvoiceRuledOut,
    Policy,
    PostDocument,
    Posted,
    PostedOnAccount,
    Refused,
    SettledForgotten,
    TimersMoved,
    Unavailable,
    UnknownOutcome,
    call_id,
    current_document,
    reference,
)
from crossdock_erp_poster.state_records import ChainState, PendingDocument, SettledDocument

Command = Fact | ErpAnswered | TimerFired


def decide(
    command: Command, state: ChainState | None, *, now: datetime, policy: Policy, cause: str = ""
) -> tuple[Event, ...]:
    """What the command changes in its chain; a duplicate or a fact without a document is `Ignored`.

    cause: event id of the command; a document keeps that of its fact, since the ERP's answer comes long after.
    """
    if isinstance(command, TimerFired):
        assert state is not None, "a timer lives in its chain"
        return _on_timer(command, state, now=now, policy=policy)
    if isinstance(command, ErpAnswered):
        return _on_answer(command, state, now=now, policy=policy)
    return _on_fact(command, state, now=now, policy=policy, cause=cause)


def calls(state: ChainState | None) -> tuple[PostDocument, ...]:
    """What is outstanding at the ERP: the current document, unless it waits for its next try."""
    document = None if state is None else current_document(state)
    if state is None or document is None or RETRY_TIMER in state.timers:
        return ()
    predecessor = _posted_predecessor(document, state)
    return (
        PostDocument(
            call_id=call_id(document, state.attempt),
            erp=state.erp,
            order_id=state.order_id,
            document=document,
            predecessor=reference(predecessor.business_key, predecessor.version) if predecessor else "",
            attempt=state.attempt,
        ),
    )


class _Chain:
    """The events decided so far and the state they lead to, so that each decision sees the one before it."""

    def __init__(self, state: ChainState | None) -> None:
        self.events: list[Event] = []
        self._state = state

    @property
    def state(self) -> ChainState:
        assert self._state is not None
        return self._state

    def add(self, event: Event) -> None:
        self._state = evolve(self._state, event)
        self.events.append(event)


def _on_fact(
    fact: Fact, state: ChainState | None, *, now: datetime, policy: Policy, cause: str
) -> tuple[Event, ...]:
    ignored = _without_document(fact, state)
    # A complete cancellation speaks of money that has come before it, even when there is no sales order to
    # change.
    rules_out = state is not None and isinstance(fact, OrderCancelled) and fact.complete
    if ignored is not None and not rules_out:
        return (ignored,)
    chain = _Chain(state)
    if state is None:
        order_id = None if isinstance(fact, SettlementProved | StockAdjusted) else fact.order_id
        chain.add(ChainOpened(chain=chain_of(fact), order_id=order_id))
    erp = _erp(fact, policy)
    if erp and not chain.state.erp:
        chain.add(ErpChosen(erp))
    if rules_out and chain.state.invoice_expected:
        chain.add(InvoiceRuledOut())
    if ignored is None:
        for document in documents_of(fact, known=_keys(chain.state), now=now, policy=policy):
            if not _known(document, chain.state):
                chain.add(DocumentQueued(replace(document, cause=cause)))
    if not chain.events:
        return (Ignored("erp.duplicate", f"{type(fact).__name__} of {chain.state.chain}"),)
    _advance(chain, now=now, policy=policy)
    return tuple(chain.events)


def _without_document(fact: Fact, state: ChainState | None) -> Ignored | None:
    """Why the fact calls for no document; None when it does."""
    match fact:
        case PaymentRecorded() if fact.kind is not PaymentKind.CAPTURED:
            # A charge-back reaches the books with the settlement that withholds it; the rest moves no money.
            return Ignored("erp.no_money_moved", f"{fact.payment_id} {fact.kind}")
        case CreditGranted(invoiced=False):
            return Ignored("erp.never_invoiced", fact.credit_id)
        case OrderAmended(released=False):
            return Ignored("erp.not_released", fact.amendment_id)
        case OrderCancelled() if not _has_sales_order(fact.order_id, state):
            # One topic carries an order's events in order: a cancellation of released units follows the
            # release.
            return Ignored("erp.not_released", fact.cancel_id)
        case OrderCancelled(complete=False):
            # Something remains, and an amendment of the same transaction states it.
            return Ignored("erp.told_by_amendment", fact.cancel_id)
        case _:
            return None


def _has_sales_order(order_id: str, state: ChainState | None) -> bool:
    prefix = f"sales_order/{order_id}/"
    return state is not None and any(key.startswith(prefix) for key in _keys(state))


def _keys(state: ChainState) -> Iterator[str]:
    """Business keys of every intent and of every document that is done with."""
    yield from (document.business_key for document in state.pending)
    yield from (document.business_key for document in state.settled)


def _erp(fact: Fact, policy: Policy) -> str:
    """The ERP that the fact's channel belongs to; empty when it names no channel."""
    match fact:
        case StockAdjusted():
            return policy.default_erp
        case OrderAmended() | CreditGranted():
            return ""
        case (
            OrderReleased()
            | OrderShipped()
            | OrderCancelled()
            | PaymentRecorded()
            | RefundRecorded()
            | SettlementProved()
        ):
            return policy.erp_of(fact.channel)
        case _:
            assert_never(fact)


def _known(document: PendingDocument, state: ChainState) -> bool:
    """True when the chain already has the intent or is done with it."""
    if document.business_key in _keys(state):
        return True
    # Versions of a sku's books only rise, so what is older than the list has been settled and forgotten.
    return 0 < document.book_version <= state.forgotten_book_version


def _on_answer(
    answer: ErpAnswered, state: ChainState | None, *, now: datetime, policy: Policy
) -> tuple[Event, ...]:
    outstanding = calls(state)
    if state is None or not outstanding or outstanding[0].call_id != answer.call_id:
        return (Ignored("erp.stale_answer", answer.call_id),)
    chain, document = _Chain(state), outstanding[0].document
    match answer.outcome:
        case Posted(external_ref=external_ref, existed=existed):
            chain.add(
                ErpDocumentPosted(
                    chain=state.chain,
                    document_type=document.document_type,
                    business_key=document.business_key,
                    version=document.version,
                    erp=state.erp,
                    external_ref=external_ref,
                    amount=Money(minor=document.amount_minor, currency=document.currency)
                    if document.currency
                    else None,
                    order_id=state.order_id,
                    posted_at=now,
                    existed=existed,
                )
            )
        case Refused(code=code, detail=detail):
            chain.add(_failed(document, state, "erp.rejected", f"{code}: {detail}"))
        case Unavailable(detail=detail, retry_after_s=retry_after_s):
            delay = max(_back_off(state.attempt, policy), timedelta(seconds=retry_after_s or 0))
            chain.add(_attempt_failed(document, state, "erp.unavailable", detail, now + delay))
        case UnknownOutcome(detail=detail):
            delay = max(_back_off(state.attempt, policy), policy.settle)
            chain.add(_attempt_failed(document, state, "erp.unknown_outcome", detail, now + delay))
        case _:
            assert_never(answer.outcome)
    _advance(chain, now=now, policy=policy)
    return tuple(chain.events)


def _attempt_failed(
    document: PendingDocument, state: ChainState, code: str, detail: str, retry_at: datetime
) -> AttemptFailed:
    return AttemptFailed(
        business_key=document.business_key,
        attempt=state.attempt,
        code=code,
        detail=detail,
        retry_at=retry_at,
    )


def _back_off(attempt: int, policy: Policy) -> timedelta:
    # The exponent is capped because an outage may last for any number of attempts.
    return min(policy.back_off_first * (1 << min(attempt - 1, 20)), policy.back_off_max)


def _on_timer(timer: TimerFired, state: ChainState, *, now: datetime, policy: Policy) -> tuple[Event, ...]:
    chain = _Chain(state)
    match timer.name:
        case name if name == RETRY_TIMER:
            chain.add(AttemptStarted(state.current, state.attempt + 1))
        case name if name == REMOVE_TIMER:
            chain.add(ChainForgotten())
        case name if name == PREDECESSOR_TIMER:
            _advance(chain, now=max(now, timer.due), policy=policy)
        case _:
            raise AssertionError(f"no timer is named {timer.name}")
    return tuple(chain.events)


# --- What comes next in the chain ---


class _Readiness(Enum):
    READY = auto()
    BEHIND = auto()  # its predecessor is queued
    MISSING = auto()  # nobody has announced its predecessor yet
    FAILED = auto()  # its predecessor will never be posted


def _advance(chain: _Chain, *, now: datetime, policy: Policy) -> None:
    """Give up what can never follow, start the next document when the chain is free, and set the timers."""
    _give_up(chain, now=now)
    if not chain.state.current:
        ready = (
            document
            for document in chain.state.pending
            if _readiness(document, chain.state) is _Readiness.READY
        )
        following = next(ready, None)
        if following is not None:
            chain.add(AttemptStarted(following.business_key, 1))
    if chain.state.chain.startswith("stock:") and len(chain.state.settled) > policy.adjustments_remembered:
        chain.add(SettledForgotten(policy.adjustments_remembered))
    _move_timers(chain, now=now, policy=policy)


def _give_up(chain: _Chain, *, now: datetime) -> None:
    """Settle every document whose predecessor failed or is overdue; each may take others with it."""
    settled_one = True
    while settled_one:
        settled_one = False
        for document in chain.state.pending:
            match _readiness(document, chain.state):
                case _Readiness.FAILED:
                    event: Event = _failed(document, chain.state, "erp.predecessor_failed", document.after)
                case _Readiness.MISSING if document.optional_predecessor and (
                    document.wait_until <= now or not chain.state.invoice_expected
                ):
                    event = PostedOnAccount(document.business_key)
                case _Readiness.MISSING if document.wait_until <= now and not document.optional_predecessor:
                    event = _failed(document, chain.state, "erp.predecessor_missing", document.after)
                case _:
                    continue
            chain.add(event)
            settled_one = True
            break


def _readiness(document: PendingDocument, state: ChainState) -> _Readiness:
    if not document.after or _posted_predecessor(document, state) is not None:
        return _Readiness.READY
    if any(_follows(document, other) for other in state.pending):
        return _Readiness.BEHIND
    if any(_follows(document, other) for other in state.settled):
        # The money has moved whatever became of the invoice.
        return _Readiness.READY if document.optional_predecessor else _Readiness.FAILED
    return _Readiness.MISSING


def _posted_predecessor(document: PendingDocument, state: ChainState) -> SettledDocument | None:
    """The latest posted document that this one follows."""
    return next(
        (other for other in reversed(state.settled) if other.posted and _follows(document, other)), None
    )


def _follows(document: PendingDocument, other: PendingDocument | SettledDocument) -> bool:
    if document.after.endswith("/"):
        return other.business_key.startswith(document.after)
    return bool(document.after) and other.business_key == document.after


def _failed(document: PendingDocument, state: ChainState, code: str, detail: str) -> ErpDocumentFailed:
    return ErpDocumentFailed(
        chain=state.chain,
        document_type=document.document_type,
        business_key=document.business_key,
        version=document.version,
        erp=state.erp,
        code=code,
        detail=detail,
        order_id=state.order_id,
    )


def _move_timers(chain: _Chain, *, now: datetime, policy: Policy) -> None:
    """A chain with intents watches for overdue predecessors; one at rest waits to be forgotten."""
    state = chain.state
    missing = [
        document.wait_until for document in state.pending if _readiness(document, state) is _Readiness.MISSING
    ]
    predecessor = min(missing, default=None)
    remove = None if state.pending else now + policy.retention
    if (predecessor, remove) != (state.timers.get(PREDECESSOR_TIMER), state.timers.get(REMOVE_TIMER)):
        chain.add(TimersMoved(predecessor=predecessor, remove=remove))
