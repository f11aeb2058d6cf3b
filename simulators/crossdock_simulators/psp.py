"""A payment provider: captures, voids and refunds by idempotency key, each answered and then reported as an event.

    python -m crossdock_simulators.psp [--port 9102] [--gateway URL] [--books FILE]

    POST /captures | /voids | /refunds   Idempotency-Key, {id, order_id, tender_reference, amount{amount, currency}}
                                         → 201, 200 when the key is known, 402 {status: declined, reason}
    GET  /captures/{id} …                → 200 {status}, 404
    POST /authorizations | /chargebacks  what a shopper or a bank does, for the demo → 201, and the event
    GET  /books    money by kind and currency; repeated requests; what was done twice
    GET  /ledger   every request that was acted on, and how often
    POST /faults   {"decline": {"captures": n, "voids": n, "refunds": n}, "lose_answer": n, "outage": true, "slow_s": s}

A refusal is an answer only: no event follows it. Used by the demo and the tests; no service imports it.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal, InvalidOperation

from aiohttp import web

from crossdock_simulators.simulated import (
    Faults,
    Journal,
    Json,
    Outbox,
    add_desk,
    event_of,
    faulty,
    json_object,
    now_text,
    parser,
    serve,
)

EVENTS = "/payments/events"
# Resource: the event that reports it, and the event's name of our id.
_REPORTS = {
    "captures": ("captured", "capture_id"),
    "voids": ("voided", "void_id"),
    "refunds": ("refunded", "refund_id"),
    "authorizations": ("authorized", "tender_reference"),
    "chargebacks": ("charged_back", "chargeback_id"),
}


class Provider:
    """The provider's books."""

    def __init__(self, journal: Journal, outbox: Outbox, faults: Faults) -> None:
        self.faults = faults
        self.done: dict[tuple[str, str], Json] = {}
        self.times: Counter[tuple[str, str]] = Counter()
        self.repeats: Counter[str] = Counter()
        self.contradictions: list[str] = []
        self._outbox = outbox
        for fact in journal.past():
            self._apply(fact)
            outbox.remember(fact)

    def act(self, kind: str, key: str, request: Json) -> tuple[int, Json]:
        """Status and answer. The same key acts once; with another content it is refused."""
        known = self.done.get((kind, key))
        if known is not None:
            self.repeats[kind] += 1
            if known["request"] != request:
                self.contradictions.append(f"{kind}/{key}")
                return 409, {"detail": "the idempotency key was used for another request"}
            return (402 if known["status"] == "declined" else 200), _answer(known)
        declined = self.faults.take("decline", kind)
        fact = {
            "fact": "acted",
            "kind": kind,
            "key": key,
            "request": request,
            "status": "declined" if declined else "succeeded",
            "reason": "insufficient funds" if declined else "",
            "psp_reference": f"psp-{len(self.done) + 1:08d}",
        }
        self._outbox.record(fact, None if declined else self._report(kind, key, request, fact))
        self._apply(fact)
        return (402 if declined else 201), _answer(fact)

    def books(self) -> Json:
        """Money moved, as decimal text by kind and currency."""
        money: dict[str, Counter[str]] = {kind: Counter() for kind in _REPORTS}
        totals: dict[tuple[str, str], Decimal] = {}
        for (kind, _), fact in self.done.items():
            if fact["status"] != "succeeded":
                continue
            amount = fact["request"]["amount"]
            slot = (kind, amount["currency"])
            totals[slot] = totals.get(slot, Decimal(0)) + Decimal(amount["amount"])
            money[kind][amount["currency"]] += 1
        return {
            "money": {
                kind: {currency: format(totals[kind, currency], "f") for currency in counts}
                for kind, counts in money.items()
            },
            "count": {kind: counts.total() for kind, counts in money.items()},
            "declined": sum(fact["status"] == "declined" for fact in self.done.values()),
            "repeated_requests": dict(self.repeats),
            "contradictions": self.contradictions,
            "events_posted": self._outbox.posted,
            "events_waiting": self._outbox.waiting,
            "events_refused": self._outbox.refused,
        }

    def ledger(self) -> Json:
        """Every entry of the books, refusals included."""
        return {
            "entries": [
                {
                    "kind": kind,
                    "reference": key,
                    "times": self.times[kind, key],
                    "status": fact["status"],
                    "order_id": fact["request"]["order_id"],
                    "amount": fact["request"]["amount"],
                }
                for (kind, key), fact in self.done.items()
            ],
            "contradictions": self.contradictions,
            "events_refused": self._outbox.refused,
        }

    def _report(self, kind: str, key: str, request: Json, fact: Json) -> Json:
        event, name = _REPORTS[kind]
        body: Json = {
            "type": event,
            "order_id": request["order_id"],
            name: key,
            "amount": request["amount"],
            "occurred_at": now_text(),
        }
        if kind == "chargebacks":
            body["reason"] = str(request.get("reason", ""))
        else:
            body["psp_reference"] = fact["psp_reference"]
        return event_of(request["order_id"], f"{kind}/{key}", EVENTS, body)

    def _apply(self, fact: Json) -> None:
        if fact.get("fact") == "acted":
            self.done[fact["kind"], fact["key"]] = fact
            self.times[fact["kind"], fact["key"]] += 1


def _answer(fact: Json) -> Json:
    return {"status": fact["status"], "reason": fact["reason"], "psp_reference": fact["psp_reference"]}


def create_app(provider: Provider, outbox: Outbox) -> web.Application:
    """The provider's HTTP face."""
    app = web.Application(middlewares=[faulty(provider.faults)])
    add_desk(app, provider.faults, provider.books, provider.ledger)
    app.cleanup_ctx.append(outbox.running)

    async def act(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        body = await json_object(request)
        key = request.headers.get("Idempotency-Key") or str(body.get("id", ""))
        if kind not in _REPORTS or not key:
            return web.json_response({"detail": "unknown resource, or no idempotency key"}, status=400)
        if not isinstance(body.get("order_id"), str) or not _is_money(body.get("amount")):
            return web.json_response(
                {"detail": "order_id and amount{amount, currency} are required"}, status=422
            )
        status, answer = provider.act(kind, key, body)
        return web.json_response(answer, status=status)

    async def find(request: web.Request) -> web.Response:
        fact = provider.done.get((request.match_info["kind"], request.match_info["key"]))
        if fact is None:
            return web.json_response({"detail": "unknown"}, status=404)
        return web.json_response(_answer(fact))

    app.add_routes([web.post("/{kind}", act), web.get("/{kind}/{key}", find)])
    return app


def _is_money(given: object) -> bool:
    if not isinstance(given, dict) or not isinstance(given.get("currency"), str):
        return False
    try:
        return Decimal(given["amount"]).is_finite()
    except (KeyError, TypeError, InvalidOperation):
        return False


def build(gateway: str, journal: Journal) -> web.Application:
    """The provider over a journal."""
    outbox = Outbox(gateway, journal)
    return create_app(Provider(journal, outbox, Faults(frozenset({"decline"}))), outbox)


def main() -> None:
    """Entry point."""
    options = parser("A simulated payment provider", 9102).parse_args()
    serve(build(options.gateway, Journal(options.books)), options)


if __name__ == "__main__":
    main()
