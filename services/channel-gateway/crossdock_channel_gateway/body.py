"""Reads request bodies within limits: a body over the limit is refused as soon as that is known, and never held in full."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from typing import BinaryIO, cast

from starlette.requests import ClientDisconnect, Request

from crossdock_channel_gateway.problem import Refused, malformed

_SPOOL_MEMORY_BYTES = 1024 * 1024


def _refuse_declared(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> Refused:
    return Refused(413, "The body is too large", detail=f"at most {limit} bytes are read")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises Refused(413)."""
    _refuse_declared(request, limit)
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
    except ClientDisconnect:
        raise malformed("the connection closed before the body ended") from None
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Spooled:
    """A body on disk (in memory while small), and its digest."""

    file: BinaryIO
    sha256: str
    size: int


async def spool_body(request: Request, limit: int) -> Spooled:
    """The whole body in a temporary file that vanishes when closed. Raises Refused(413)."""
    _refuse_declared(request, limit)
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY_BYTES))  # noqa: SIM115 - handed over
    digest = hashlib.sha256()
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            digest.update(part)
            file.write(part)
    except ClientDisconnect:
        file.close()
        raise malformed("the connection closed before the body ended") from None
    except Refused:
        file.close()
        raise
    file.seek(0)
    return Spooled(file, digest.hexdigest(), size)
