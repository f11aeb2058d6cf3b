"""Shopify's webhook signature: base64 of HMAC-SHA256 over the raw body. Checked before anything is parsed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


def is_signed(body: bytes, given: str, secrets: Sequence[bytes]) -> bool:
    """Whether one of the secrets made the signature; all are tried, each compared in constant time."""
    presented = given.encode("utf-8", "surrogateescape")
    found = False
    for secret in secrets:
        expected = base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest())
        found |= hmac.compare_digest(expected, presented)
    return found
