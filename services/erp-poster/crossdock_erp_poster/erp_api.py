"""The ERP's HTTP interface: post documents, find one by its reference.

    POST /documents                 one document       → 201 {external_ref} | 4xx {code, detail}
    POST /documents/batch           array of documents → 200 [{status, external_ref} | {status, code, detail}]
    GET  /documents?reference=R                        → 200 {external_ref} | 404

`ErpApi` speaks it for `port.py`, in its event loop; what a response means is told by `posting_results` and
`found`, which the simulator calls too. Every way in which a call can end is a value here; nothing that the
network does raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from crossdock_erp_poster.model import Outcome, PostDocument, Posted, Refused, Unavailable, UnknownOutcome

LOST = 0
AWAY = 503
_REFUSED = (400, 422)
_CONFLICT = 409
_THROTTLED = 429
_DEFAULT_RETRY_AFTER_S = 1.0
_RETRY_AFTER_MAX_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """The ERP asks for fewer requests; it has not taken the document."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class NotFound:
    """The ERP holds no document under this reference."""


PostingResult = Outcome | Throttled
Found = Posted | NotFound | Throttled | Unavailable


@dataclass(frozen=True, slots=True)
class Response:
    """What came of one request. `status` is `AWAY` when nothing was sent and `LOST` when no answer came back."""

    status: int
    body: Any
    retry_after_s: float | None = None


class ErpApi:
    """One ERP. `session` carries the connection limit and the time-out."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._documents = f"{address.rstrip('/')}/documents"

    async def post(self, calls: Sequence[PostDocument]) -> list[PostingResult]:
        """Post in one request, results in the calls' order. `UnknownOutcome` may or may not be booked."""
        if len(calls) == 1:
            response = await self._request("POST", self._documents, json=document_body(calls[0]))
        else:
            documents = [document_body(call) for call in calls]
            response = await self._request("POST", f"{self._documents}/batch", json=documents)
        return posting_results(response, len(calls))

    async def find(self, reference: str) -> Found:
        """Look a document up by its reference."""
        return found(await self._request("GET", self._documents, params={"reference": reference}))

    async def _request(self, method: str, url: str, **arguments: Any) -> Response:
        try:
            async with self._session.request(method, url, **arguments) as response:
                retry_after_s = _seconds(response.headers.get("Retry-After"))
                return Response(response.status, await response.json(content_type=None), retry_after_s)
        except aiohttp.ClientConnectorError as error:
            return Response(AWAY, {"detail": f"no connection: {error}"})
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Response(LOST, {"detail": f"answer lost: {type(error).__name__} {error}"})


def document_body(call: PostDocument) -> dict[str, Any]:
    """The document as the ERP is sent it."""
    document = call.document
    return {
        "document_type": document.document_type.value,
        "business_key": document.business_key,
        "version": document.version,
        "reference": call.reference,
        "order_id": call.order_id,
        "amount_minor": document.amount_minor,
        "currency": document.currency,
        "lines": [line.to_avro() for line in document.lines],
        "predecessor": call.predecessor,
    }


def posting_results(response: Response, documents: int) -> list[PostingResult]:
    """The result of each of so many documents; more than one went to the batch form."""
    if documents == 1:
        return [_result(response)]
    body = response.body
    if response.status == 200 and isinstance(body, list) and len(body) == documents:
        return [_result(_part(item)) for item in body]
    whole = _result(Response(LOST, body) if response.status == 200 else response)
    # A refusal of the batch as a whole says nothing about a document in it.
    if isinstance(whole, Refused):
        whole = Unavailable(f"batch refused with {whole.code}: {whole.detail}")
    return [whole] * documents


def found(response: Response) -> Found:
    """What a look-up says of the document."""
    status, body = response.status, response.body
    if status == 200 and isinstance(body, dict) and body.get("external_ref"):
        return Posted(str(body["external_ref"]), existed=True)
    if status == 404:
        return NotFound()
    if status == _THROTTLED:
        return Throttled(response.retry_after_s or _DEFAULT_RETRY_AFTER_S)
    return Unavailable(f"look-up answered {_text(response)}", response.retry_after_s)


def _result(response: Response) -> PostingResult:
    status = response.status
    fields = response.body if isinstance(response.body, dict) else {}
    if status in (200, 201) and fields.get("external_ref"):
        return Posted(str(fields["external_ref"]), existed=status == 200)
    if status in _REFUSED:
        return Refused(str(fields.get("code", f"http_{status}")), str(fields.get("detail", "")))
    if status == _THROTTLED:
        return Throttled(response.retry_after_s or _DEFAULT_RETRY_AFTER_S)
    if status == AWAY or (400 <= status < 500 and status not in (_CONFLICT, 408)):
        # The other 4xx (credentials, address) are faults of the set-up and no word about the document.
        return Unavailable(_text(response), response.retry_after_s)
    # A conflict says that the reference exists; a time-out, a 5xx or an unreadable body may have booked it.
    return UnknownOutcome(_text(response))


def _part(item: Any) -> Response:
    """The answer to one document of a batch; one that is in no known form says nothing of its document."""
    status = item.get("status") if isinstance(item, dict) else None
    return Response(status if isinstance(status, int) else LOST, item)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else min(max(0.0, float(retry_after)), _RETRY_AFTER_MAX_S)
    except ValueError:  # the date form of RFC 9110: the back-off decides instead
        return None


def _text(response: Response) -> str:
    detail = response.body.get("detail", "") if isinstance(response.body, dict) else ""
    return f"{response.status or 'nothing'} {detail}".strip()
