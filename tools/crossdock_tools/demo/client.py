"""The demo's side of the wire: sends a request until the gateway has answered for good, and reads the simulators' books."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from crossdock_tools.demo.scenario import Request

_RETRY_S = 0.3
_GIVE_UP_S = 90.0


class Unexpected(Exception):
    """The gateway answered otherwise than the scenario says."""


class GatewayClient:
    """Sends like a channel does: a lost connection and a 5xx are tried again, with the very same bytes.

    tick: called between tries, so that the caller can keep its processes alive.
    """

    def __init__(self, url: str, tick: Callable[[], None]) -> None:
        self._http = httpx.Client(base_url=url, timeout=10.0)
        self._tick = tick
        self.sent = 0
        self.refused = 0
        self.retried = 0

    def send(self, request: Request) -> dict[str, Any]:
        """The answer's body. Raises Unexpected for another status than the scenario's."""
        response = self._answer(request)
        self.sent += 1
        self.refused += 400 <= response.status_code < 500
        expected = request.refused or 202
        if response.status_code != expected:
            raise Unexpected(
                f"{request.path}: {response.status_code} instead of {expected}: {response.text[:500]}"
            )
        body = response.json()
        assert isinstance(body, dict)
        return body

    def _answer(self, request: Request) -> httpx.Response:
        deadline = time.monotonic() + _GIVE_UP_S
        while True:
            self._tick()
            try:
                response = self._http.post(request.path, content=request.body, headers=request.headers)
                if response.status_code < 500:
                    return response
                trouble = f"{response.status_code}: {response.text[:200]}"
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise Unexpected(f"{request.path}: still failing after {_GIVE_UP_S:.0f} s: {trouble}")
            self.retried += 1
            time.sleep(_RETRY_S)

    def close(self) -> None:
        self._http.close()


def read_json(url: str) -> dict[str, Any]:
    """GET a JSON object. Raises httpx.HTTPError."""
    response = httpx.get(url, timeout=10.0)
    response.raise_for_status()
    body = response.json()
    assert isinstance(body, dict)
    return body


def write_json(url: str, body: dict[str, Any]) -> None:
    """POST a JSON object. Raises httpx.HTTPError."""
    httpx.post(url, json=body, timeout=10.0).raise_for_status()
