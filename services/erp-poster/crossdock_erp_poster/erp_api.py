"""The ERP's HTTP interface: post documents, find one by its reference. Called by `port.py`, in its event
loop.

    POST /documents                 one document       → 201 {external_ref} | 4xx {code, detail}
    POST /documents/batch           array of documents → 200 [{status, external_ref} | {status, code, detail}]
    GET  /documents?reference=R                        → 200 {external_ref} | 404

Every way in which a call can end is a value here; nothing that the network does raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from crossdock_erp_poster.model import Outcome, PostDocument, Posted, Refused, Unavailable, UnknownOutcome

_REFUSED = (400, 422)
_CONFLICT = 409
_THROTTLED = 429
_AWAY = 503
_DEFAULT_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """The ERP asks for fewer requests; it has not taken the document."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class NotFound:
    """The ERP holds no document under this reference."""


class ErpApi:
    """One ERP. `session` carries the connection limit and the time-out."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._documents = f"{address.rstrip('/')}/documents"

    async def post(self, calls: Sequence[PostDocument]) -> list[Outcome | Throttled]:
        """Post in one request, results in the calls' order. `UnknownOutcome` may or may not be booked."""
        if len(calls) == 1:
            status, retry_after_s, body = await self._request("POST", self._documents, json=_body(calls[0]))
            return [_result(status, retry_after_s, body)]
        status, retry_after_s, body = await self._request(
            "POST", f"{self._documents}/batch", json=[_body(call) for call in calls]
        )
        if status == 200 and isinstance(body, list) and len(body) == len(calls):
            return [_result(item.get("status", 0), None, item) for item in body]
        whole = _result(0 if status == 200 else status, retry_after_s, body)
        # A refusal of the batch as a whole says nothing about a document in it.
        if isinstance(whole, Refused):
            whole = Unavailable(f"batch refused with {whole.code}: {whole.detail}")
        return [whole] * len(calls)

    async def find(self, reference: str) -> Posted | NotFound | Throttled | Unavailable:
        """Look a document up by its reference."""
        status, retry_after_s, body = await self._request(
            "GET", self._documents, params={"reference": reference}
        )
        if status == 200 and isinstance(body, dict) and body.get("external_ref"):
            return Posted(str(body["external_ref"]), existed=True)
        if status == 404:
            return NotFound()
        if status == _THROTTLED:
            return Throttled(retry_after_s or _DEFAULT_RETRY_AFTER_S)
        return Unavailable(f"look-up answered {_text(status, body)}", retry_after_s)

    async def _request(self, method: str, url: str, **arguments: Any) -> tuple[int, float | None, Any]:
        """Status, Retry-After and body. Status 503 when nothing was sent, 0 when the answer was lost."""
        try:
            async with self._session.request(method, url, **arguments) as response:
                retry_after_s = _seconds(response.headers.get("Retry-After"))
                return response.status, retry_after_s, await response.json(content_type=None)
        except aiohttp.ClientConnectorError as error:
            return _AWAY, None, {"detail": f"no connection: {error}"}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return 0, None, {"detail": f"answer lost: {type(error).__name__} {error}"}


def _result(status: int, retry_after_s: float | None, body: Any) -> Outcome | Throttled:
    fields = body if isinstance(body, dict) else {}
    if status in (200, 201) and fields.get("external_ref"):
        return Posted(str(fields["external_ref"]), existed=status == 200)
    if status in _REFUSED:
        return Refused(str(fields.get("code", f"http_{status}")), str(fields.get("detail", "")))
    if status == _THROTTLED:
        return Throttled(retry_after_s or _DEFAULT_RETRY_AFTER_S)
    if status == _AWAY or (400 <= status < 500 and status not in (_CONFLICT, 408)):
        # The other 4xx (credentials, address) are faults of the set-up and no word about the document.
        return Unavailable(_text(status, body), retry_after_s)
    # A conflict says that the reference exists; a time-out, a 5xx or an unreadable body may have booked it.
    return UnknownOutcome(_text(status, body))


def _body(call: PostDocument) -> dict[str, Any]:
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


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:  # the date form of RFC 9110: the back-off decides instead
        return None


def _text(status: int, body: Any) -> str:
    detail = body.get("detail", "") if isinstance(body, dict) else ""
    return f"{status or 'nothing'} {detail}".strip()
