"""An ERP to post business documents to: its own books, faults on demand, and a verdict on what it was sent.

    python -m crossdock_simulators.erp [--host 127.0.0.1] --port 9103 [--books FILE] [--unique]

Used by the demo and the tests; no service imports it. It takes every document it is sent, even one whose
reference it holds already, so that a double posting shows in `GET /books`; with `--unique` it refuses the
second one as a strict ERP would. With a file its books survive a restart.

    POST /documents              document              → 201 {external_ref}, 422 {code, detail}
    POST /documents/batch        array of documents    → 200 array of {status, external_ref | code, detail}
    GET  /documents?reference=R                        → 200 {external_ref, count}, 404
    GET  /books                                        → counts, duplicates, totals, findings of the checks
    GET  /books/documents[?order_id=O]                 → the documents, in order of posting
    GET  /ledger                                       → {documents, findings}: every one, in order of posting
    POST /faults                 see `Faults`          → 200 the faults in force
    DELETE /faults                                     → 204
    GET  /livez                                        → 200

Deterministic: faults follow counters, never chance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Document = dict[str, Any]

_REQUIRED = ("document_type", "business_key", "version", "reference", "amount_minor", "currency", "lines")
_WITH_AMOUNT_OF_LINES = ("SALES_ORDER", "INVOICE", "CREDIT_MEMO")


class Books:
    """What the ERP has booked. `path` is an append-only file of one document a line, read back at start."""

    def __init__(self, path: Path | None = None, *, unique: bool = False) -> None:
        self.unique = unique
        self.documents: list[Document] = []
        self._by_reference: defaultdict[str, list[Document]] = defaultdict(list)
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                self._keep(json.loads(line))
        self._file = None if path is None else path.open("a", buffering=1)

    def book(self, document: Document) -> str:
        """Book the document and return the ERP's number for it."""
        booked = {**document, "external_ref": f"ERP-{len(self.documents) + 1:08d}"}
        if self._file is not None:
            self._file.write(json.dumps(booked, separators=(",", ":")) + "\n")
        self._keep(booked)
        return str(booked["external_ref"])

    def find(self, reference: str) -> list[Document]:
        """Every booking under the reference."""
        return self._by_reference.get(reference, [])

    def _keep(self, document: Document) -> None:
        self.documents.append(document)
        self._by_reference[document["reference"]].append(document)

    def report(self) -> dict[str, Any]:
        """The verdict: `findings` and `duplicates` are empty when the books are sound."""
        totals: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for document in self.documents:
            total = totals[document["document_type"]][document["currency"]]
            total["count"] += 1
            total["amount_minor"] += document["amount_minor"]
        return {
            "documents": len(self.documents),
            "references": len(self._by_reference),
            "duplicates": [
                {"reference": reference, "count": len(booked)}
                for reference, booked in self._by_reference.items()
                if len(booked) > 1
            ],
            "totals": totals,
            "findings": self.findings(),
        }

    def findings(self) -> list[dict[str, str]]:
        """What an auditor of this ledger would object to."""
        findings = []
        booked: set[str] = set()
        invoiced: Counter[tuple[str, str]] = Counter()

        def object_to(document: Document, code: str, detail: str) -> None:
            findings.append({"reference": document["reference"], "code": code, "detail": detail})

        for document in self.documents:
            kind, predecessor = document["document_type"], document.get("predecessor") or ""
            lines, amount_minor = document["lines"], document["amount_minor"]
            order = (document.get("order_id") or "", document["currency"])
            if predecessor and predecessor not in booked:
                object_to(document, "predecessor_missing", predecessor)
            if not predecessor and kind in ("INVOICE", "CREDIT_MEMO", "SALES_ORDER_CHANGE"):
                object_to(document, "predecessor_unnamed", kind)
            sum_minor = sum(line["net_minor"] + line["tax_minor"] for line in lines)
            if kind in _WITH_AMOUNT_OF_LINES and sum_minor != amount_minor:
                object_to(document, "amount_differs", f"lines {sum_minor}, document {amount_minor}")
            if kind == "SETTLEMENT_JOURNAL" and sum_minor:
                object_to(document, "journal_unbalanced", str(sum_minor))
            if kind == "INVOICE":
                invoiced[order] += amount_minor
            if kind == "CREDIT_MEMO":
                invoiced[order] -= amount_minor
                if invoiced[order] < 0:
                    object_to(document, "credited_beyond_invoiced", str(-invoiced[order]))
            booked.add(document["reference"])
        return findings


@dataclass
class Faults:
    """What goes wrong until it is deleted. Every share is counted out evenly, so a run can be repeated.

    outage_s: answer 503 to everything on /documents for so long.
    latency_ms: think so long before booking; a client that gives up earlier is booked all the same.
    error_rate: share of the requests, 0 to 1, that end in 500 without being booked.
    lose_answer_every: book every nth posting request, then drop the connection instead of answering.
    reject: document type or business key prefix → code of the refusal (422).
    rate_limit_per_s: requests a second, above which the answer is 429.
    """

    outage_s: float = 0
    latency_ms: float = 0
    error_rate: float = 0
    lose_answer_every: int = 0
    reject: dict[str, str] = field(default_factory=dict)
    rate_limit_per_s: int = 0


class Erp:
    """The web application around the books."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._faults = Faults()
        self._outage_until_s = 0.0
        self._error_share = 0.0
        self._postings = 0
        self._second = (0, 0)  # the running second and how many requests it has seen
        self.requests: Counter[str] = Counter()

    def application(self) -> web.Application:
        """Routes only; nothing runs yet."""
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.add_routes(
            [
                web.get("/livez", self._live),
                web.post("/documents", self._post),
                web.post("/documents/batch", self._post_batch),
                web.get("/documents", self._find),
                web.get("/books", self._report),
                web.get("/books/documents", self._list),
                web.get("/ledger", self._ledger),
                web.post("/faults", self._set_faults),
                web.delete("/faults", self._delete_faults),
            ]
        )
        return application

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _post(self, request: web.Request) -> web.Response:
        document = await _json(request)  # before any delay: a client that gives up has sent it all the same
        if refusal := await self._hindered("post"):
            return refusal
        result = self._take(document)
        self._lose_answer_maybe(request)
        return web.json_response(result, status=result["status"])

    async def _post_batch(self, request: web.Request) -> web.Response:
        documents = await _json(request)
        if refusal := await self._hindered("batch"):
            return refusal
        results = [self._take(document) for document in documents]
        self._lose_answer_maybe(request)
        return web.json_response(results)

    async def _find(self, request: web.Request) -> web.Response:
        if refusal := await self._hindered("find"):
            return refusal
        booked = self._books.find(request.query.get("reference", ""))
        if not booked:
            return web.json_response({"code": "not_found"}, status=404)
        return web.json_response({"external_ref": booked[0]["external_ref"], "count": len(booked)})

    async def _report(self, _: web.Request) -> web.Response:
        return web.json_response({**self._books.report(), "requests": self.requests})

    async def _list(self, request: web.Request) -> web.Response:
        order_id = request.query.get("order_id")
        return web.json_response(
            [
                document
                for document in self._books.documents
                if order_id is None or document.get("order_id") == order_id
            ]
        )

    async def _ledger(self, _: web.Request) -> web.Response:
        return web.json_response({"documents": self._books.documents, "findings": self._books.findings()})

    def set_faults(self, faults: Faults, *, now_s: float) -> None:
        """From `now_s` on (time of the event loop) these faults are in force and no other."""
        self._faults = faults
        self._outage_until_s = now_s + faults.outage_s
        self._postings = 0
        self._error_share = 0.0

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            faults = Faults(**await _json(request))
        except TypeError as error:
            return web.json_response({"code": "unknown_fault", "detail": str(error)}, status=400)
        self.set_faults(faults, now_s=asyncio.get_running_loop().time())
        return web.json_response(asdict(faults))

    async def _delete_faults(self, _: web.Request) -> web.Response:
        self.set_faults(Faults(), now_s=0)
        return web.Response(status=204)

    async def _hindered(self, what: str) -> web.Response | None:
        """The answer of a fault that keeps the request from being worked on; None when nothing does."""
        self.requests[what] += 1
        faults, now_s = self._faults, asyncio.get_running_loop().time()
        if now_s < self._outage_until_s:
            return web.json_response({"code": "outage"}, status=503)
        if faults.rate_limit_per_s:
            second, seen = self._second
            self._second = (int(now_s), seen + 1 if second == int(now_s) else 1)
            if self._second[1] > faults.rate_limit_per_s:
                self.requests["throttled"] += 1
                return web.json_response({"code": "throttled"}, status=429, headers={"Retry-After": "1"})
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1000)
        self._error_share += faults.error_rate
        if self._error_share >= 1:
            self._error_share -= 1
            return web.json_response({"code": "internal"}, status=500)
        return None

    def _take(self, document: Document) -> dict[str, Any]:
        """Book one document, or say why not; `status` as the single form would answer."""
        missing = [name for name in _REQUIRED if name not in document]
        if missing:
            return {"status": 400, "code": "field_missing", "detail": ", ".join(missing)}
        for prefix, code in self._faults.reject.items():
            if document["document_type"] == prefix or document["business_key"].startswith(prefix):
                return {"status": 422, "code": code, "detail": f"{document['business_key']} is not accepted"}
        if self._books.unique and self._books.find(document["reference"]):
            return {"status": 409, "code": "reference_exists", "detail": document["reference"]}
        return {"status": 201, "external_ref": self._books.book(document)}

    def _lose_answer_maybe(self, request: web.Request) -> None:
        """Drop the connection under the answer that is about to be written, if it is its turn."""
        self._postings += 1
        every = self._faults.lose_answer_every
        if every and self._postings % every == 0 and request.transport is not None:
            request.transport.abort()


async def _json(request: web.Request) -> Any:
    """The body; answers 400 when it is none."""
    try:
        return await request.json()
    except json.JSONDecodeError as error:
        refusal = json.dumps({"code": "not_json", "detail": str(error)})
        raise web.HTTPBadRequest(text=refusal, content_type="application/json") from None


def main() -> None:
    """Serve until interrupted; on the loopback address unless told otherwise."""
    parser = argparse.ArgumentParser(description="Simulated ERP")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--port", type=int, default=9103)
    parser.add_argument("--books", type=Path, help="file that keeps the books over a restart")
    parser.add_argument("--unique", action="store_true", help="refuse a reference that is booked already")
    options = parser.parse_args()
    erp = Erp(Books(options.books, unique=options.unique))
    web.run_app(erp.application(), host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
