"""The selling channels as the gateway reports to them: every acknowledgement counted once, and again when it comes again.

    python -m crossdock_simulators.channels [--port 9104] [--gateway URL] [--books FILE] [--shopify-secret TEXT]

    PUT /{channel}/{fulfillments|cancellations|rejections|refunds|returns}/{reference}  → 201, 200 when known
    GET the same                                                                        → 200, 404
    GET /books    acknowledgements by channel and kind; duplicates; contradictions
    GET /ledger   every acknowledgement that was acted on, and how often
    POST /faults  {"lose_answer": n, "outage": true, "slow_s": s}

With a secret, a refund on Shopify comes back as the shop's own `refunds/create` webhook, as it does in life. Used by the
demo and the tests; no service imports it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from collections import Counter

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

KINDS = frozenset({"fulfillments", "cancellations", "rejections", "refunds", "returns"})


class Channels:
    """What each channel has been told."""

    def __init__(self, journal: Journal, outbox: Outbox, faults: Faults, *, shopify_secret: str = "") -> None:
        self.faults = faults
        self.told: dict[tuple[str, str, str], Json] = {}
        self.times: Counter[tuple[str, str, str]] = Counter()
        self.duplicates: Counter[str] = Counter()
        self.contradictions: list[str] = []
        self._outbox = outbox
        self._secret = shopify_secret.encode()
        for fact in journal.past():
            if fact.get("fact") == "told":
                self._keep(fact["channel"], fact["kind"], fact["reference"], fact["body"])
            outbox.remember(fact)

    def tell(self, channel: str, kind: str, reference: str, body: Json) -> bool:
        """Take an acknowledgement; False when this channel has been told already."""
        known = self.told.get((channel, kind, reference))
        if known is not None:
            self.duplicates[f"{channel}/{kind}"] += 1
            if known != body:
                self.contradictions.append(f"{channel}/{kind}/{reference}")
            return False
        fact = {"fact": "told", "channel": channel, "kind": kind, "reference": reference, "body": body}
        echoes = channel == "shopify" and kind == "refunds" and self._secret
        self._outbox.record(fact, self._echo(reference, body) if echoes else None)
        self._keep(channel, kind, reference, body)
        return True

    def _keep(self, channel: str, kind: str, reference: str, body: Json) -> None:
        self.told[channel, kind, reference] = body
        self.times[channel, kind, reference] += 1

    def books(self) -> Json:
        """Counts by channel and kind."""
        return {
            "told": dict(Counter(f"{channel}/{kind}" for channel, kind, _ in self.told)),
            "duplicates": sum(self.duplicates.values()),
            "duplicates_by_kind": dict(self.duplicates),
            "contradictions": self.contradictions,
            "events_posted": self._outbox.posted,
            "events_waiting": self._outbox.waiting,
            "events_refused": self._outbox.refused,
        }

    def ledger(self) -> Json:
        """Every entry of the books."""
        return {
            "told": [
                {
                    "channel": channel,
                    "kind": kind,
                    "reference": reference,
                    "times": self.times[channel, kind, reference],
                    "body": body,
                }
                for (channel, kind, reference), body in self.told.items()
            ],
            "contradictions": self.contradictions,
            "events_refused": self._outbox.refused,
        }

    def _echo(self, reference: str, body: Json) -> Json:
        """The shop's webhook of a refund that it was asked to note."""
        refund = {
            "id": zlib.crc32(reference.encode()),
            "order_id": body.get("external_id"),
            "created_at": now_text(),
            "note": body.get("note"),
            "refund_line_items": [],
            "order_adjustments": [],
            "transactions": [{"kind": "refund", "status": "success", **body.get("amount", {})}],
        }
        # Signed over the very bytes that the outbox sends.
        signature = base64.b64encode(
            hmac.new(self._secret, json.dumps(refund).encode(), hashlib.sha256).digest()
        )
        headers = {
            "X-Shopify-Topic": "refunds/create",
            "X-Shopify-Shop-Domain": str(body.get("shop", "")),
            "X-Shopify-Event-Id": f"echo-{refund['id']}",
            "X-Shopify-Webhook-Id": f"echo-{refund['id']}",
            "X-Shopify-Hmac-Sha256": signature.decode(),
        }
        return event_of(reference, f"echo/{reference}", "/webhooks/shopify", refund, headers)


def create_app(channels: Channels, outbox: Outbox) -> web.Application:
    """The channels' HTTP face."""
    app = web.Application(middlewares=[faulty(channels.faults)])
    add_desk(app, channels.faults, channels.books, channels.ledger)
    app.cleanup_ctx.append(outbox.running)

    async def tell(request: web.Request) -> web.Response:
        where = request.match_info
        if where["kind"] not in KINDS:
            return web.json_response({"detail": f"nothing is told of {where['kind']}"}, status=404)
        body = await json_object(request)
        fresh = channels.tell(where["channel"], where["kind"], where["reference"], body)
        return web.json_response({"reference": where["reference"]}, status=201 if fresh else 200)

    async def find(request: web.Request) -> web.Response:
        where = request.match_info
        body = channels.told.get((where["channel"], where["kind"], where["reference"]))
        if body is None:
            return web.json_response({"detail": "unknown"}, status=404)
        return web.json_response(body)

    path = "/{channel}/{kind}/{reference}"
    app.add_routes([web.put(path, tell), web.get(path, find)])
    return app


def build(gateway: str, journal: Journal, *, shopify_secret: str = "") -> web.Application:
    """The channels over a journal."""
    outbox = Outbox(gateway, journal)
    channels = Channels(journal, outbox, Faults(frozenset()), shopify_secret=shopify_secret)
    return create_app(channels, outbox)


def main() -> None:
    """Entry point."""
    options = parser("The simulated selling channels", 9104)
    options.add_argument("--shopify-secret", default="", help="signs the echo of refunds")
    given = options.parse_args()
    serve(build(given.gateway, Journal(given.books), shopify_secret=given.shopify_secret), given)


if __name__ == "__main__":
    main()
