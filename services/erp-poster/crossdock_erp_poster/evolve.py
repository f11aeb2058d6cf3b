"""How a chain changes by an event: `evolve(state, event) -> state`. Called by the shell and by `decide`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored
from crossdock_canonical.records import ErpDocumentFailed, ErpDocumentPosted
from crossdock_erp_poster.model import (
    PREDECESSOR_TIMER,
    REMOVE_TIMER,
    RETRY_TIMER,
    AttemptFailed,
    AttemptStarted,
    ChainForgotten,
    ChainOpened,
    DocumentQueued,
    ErpChosen,
    InvoiceRuledOut,
    PostedOnAccount,
    SettledForgotten,
    TimersMoved,
)
from crossdock_erp_poster.state_records import ChainState, SettledDocument

Event = (
    ChainOpened
    | ErpChosen
    | DocumentQueued
    | AttemptStarted
    | AttemptFailed
    | PostedOnAccount
    | InvoiceRuledOut
    | SettledForgotten
    | TimersMoved
    | ChainForgotten
    | ErpDocumentPosted
    | ErpDocumentFailed
    | Ignored
)


def evolve(state: ChainState | None, event: Event) -> ChainState | None:
    """The chain after the event; None when it is forgotten."""
    if isinstance(event, Ignored):
        return state
    if isinstance(event, ChainOpened):
        assert state is None, "a chain opens once"
        return ChainState(chain=event.chain, order_id=event.order_id)
    assert state is not None, f"{type(event).__name__} needs a chain"
    match event:
        case ErpChosen(erp=erp):
            assert state.erp in ("", erp), "a chain stays with its ERP"
            return replace(state, erp=erp)
        case DocumentQueued(document=document):
            assert all(known.business_key != document.business_key for known in state.pending)
            return replace(state, pending=(*state.pending, document))
        case AttemptStarted(business_key=business_key, attempt=attempt):
            assert state.current in ("", business_key), "one document is in flight at a time"
            assert attempt == state.attempt + 1
            return replace(
                state, current=business_key, attempt=attempt, timers=_with(state, RETRY_TIMER, None)
            )
        case AttemptFailed(retry_at=retry_at):
            return replace(state, timers=_with(state, RETRY_TIMER, retry_at))
        case PostedOnAccount(business_key=business_key):
            return replace(
                state,
                pending=tuple(
                    replace(document, after="") if document.business_key == business_key else document
                    for document in state.pending
                ),
            )
        case InvoiceRuledOut():
            return replace(state, invoice_expected=False)
        case SettledForgotten(keep=keep):
            forgotten = state.settled[:-keep]
            return replace(
                state,
                settled=state.settled[-keep:],
                forgotten_book_version=max(
                    state.forgotten_book_version, *(document.book_version for document in forgotten)
                ),
            )
        case TimersMoved(predecessor=predecessor, remove=remove):
            timers = {name: due for name, due in state.timers.items() if name == RETRY_TIMER}
            if predecessor is not None:
                timers[PREDECESSOR_TIMER] = predecessor
            if remove is not None:
                timers[REMOVE_TIMER] = remove
            return replace(state, timers=timers)
        case ChainForgotten():
            assert not state.pending, "an intent is never forgotten"
            return None
        case ErpDocumentPosted(business_key=business_key):
            assert state.current == business_key
            return _settled(state, business_key, posted=True)
        case ErpDocumentFailed(business_key=business_key):
            return _settled(state, business_key, posted=False)
        case _:
            assert_never(event)


def _settled(state: ChainState, business_key: str, *, posted: bool) -> ChainState:
    """The document leaves the queue and is remembered; after the current one the chain is free."""
    document = next(document for document in state.pending if document.business_key == business_key)
    was_current = state.current == business_key
    return replace(
        state,
        pending=tuple(other for other in state.pending if other is not document),
        settled=(
            *state.settled,
            SettledDocument(
                business_key=business_key,
                version=document.version,
                posted=posted,
                book_version=document.book_version,
            ),
        ),
        current="" if was_current else state.current,
        attempt=0 if was_current else state.attempt,
    )


def _with(state: ChainState, name: str, due: datetime | None) -> dict[str, datetime]:
    timers = {other: at for other, at in state.timers.items() if other != name}
    if due is not None:
        timers[name] = due
    return timers
