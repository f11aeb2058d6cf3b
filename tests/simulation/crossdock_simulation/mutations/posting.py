"""Defects of the ERP poster: look-ups, references, order of documents, causes. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from crossdock_canonical.decider import Ignored
from crossdock_canonical.records import CreditGranted, OrderShipped, Origin
from crossdock_erp_poster import decide, documents, erp_api, lanes
from crossdock_erp_poster.model import PostDocument, TimersMoved
from crossdock_simulation import erp
from crossdock_simulation.mutations.mutation import Mutation, replaced, together, wrapped

_SERVICE = "erp-poster"
Original = Callable[..., Any]


def _posted_at_once(self: Any, job: Any, _not_before_s: float) -> None:
    job.doubt = None
    self.post(job)


def _reference_of_attempt(original: Original) -> Original:
    def body(call: PostDocument) -> dict[str, Any]:
        return {**original(call), "reference": call.call_id}

    return body


def _channel_credits_left_out(original: Original) -> Original:
    def without_document(fact: Any, state: Any) -> Any:
        if isinstance(fact, CreditGranted) and fact.origin is Origin.CHANNEL:
            return Ignored("erp.never_invoiced", fact.credit_id)
        return original(fact, state)

    return without_document


def _invoice_first(original: Original) -> Original:
    def documents_of(fact: Any, **rest: Any) -> Any:
        found = original(fact, **rest)
        if not isinstance(fact, OrderShipped):
            return found
        delivery, invoice = found
        return replace(invoice, after=""), delivery

    return documents_of


def _cause_lost(original: Original) -> Original:
    def on_fact(fact: Any, state: Any, *, cause: str, **rest: Any) -> Any:
        return original(fact, state, cause="", **rest)

    return on_fact


def _forgotten_early(*, predecessor: Any, remove: Any) -> TimersMoved:
    return TimersMoved(predecessor=predecessor, remove=remove and remove - timedelta(days=90))


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="posted-unlooked",
        invariant=4,
        where=_SERVICE,
        about="a document whose posting was not answered is posted again without looking it up",
        apply=replaced(lanes._Lane, "look_up", _posted_at_once),
    ),
    Mutation(
        name="reference-of-attempt",
        invariant=4,
        where=_SERVICE,
        about="a document is posted under the id of the attempt, and looked up under its own",
        apply=together(
            wrapped(erp_api, "document_body", _reference_of_attempt),
            wrapped(erp, "document_body", _reference_of_attempt),
        ),
    ),
    Mutation(
        name="invoice-first",
        invariant=5,
        where=_SERVICE,
        about="an invoice is posted before its delivery, and does not wait for it",
        apply=wrapped(decide, "documents_of", _invoice_first),
    ),
    Mutation(
        name="channel-credits-unbooked",
        invariant=4,
        where=_SERVICE,
        about="credits that a channel granted have no credit memo",
        apply=wrapped(decide, "_without_document", _channel_credits_left_out),
    ),
    Mutation(
        name="invoice-without-charges",
        invariant=3,
        where=_SERVICE,
        about="an invoice leaves out shipping and other charges",
        apply=replaced(documents, "_charges", lambda _fact: 0),
    ),
    Mutation(
        name="answer-without-cause",
        invariant=8,
        where=_SERVICE,
        about="what follows from an ERP's answer does not name the fact that it was asked for",
        apply=wrapped(decide, "_on_fact", _cause_lost),
    ),
    Mutation(
        name="chain-forgotten-early",
        invariant=9,
        where=_SERVICE,
        about="the documents of an order are forgotten after 30 days",
        apply=replaced(decide, "TimersMoved", _forgotten_early),
    ),
)
