"""Identifiers as distinct types, and the ids that are computed rather than drawn.

Edges and cores import this. Nothing here reads a clock or a random source: the same input always has the same id, which
is what makes redelivery and replay recognisable everywhere.
"""

from typing import NewType
from uuid import NAMESPACE_URL, uuid5

OrderId = NewType("OrderId", str)
Sku = NewType("Sku", str)
LocationId = NewType("LocationId", str)
LineId = NewType("LineId", str)

_NAMESPACE = uuid5(NAMESPACE_URL, "urn:crossdock")
_SEPARATOR = (
    "\x1f"  # ASCII unit separator: cannot occur in an identifier, so ("a", "bc") and ("ab", "c") differ.
)


def deterministic_id(*parts: str) -> str:
    """UUIDv5 over the parts, in order, as text."""
    return str(uuid5(_NAMESPACE, _SEPARATOR.join(parts)))


def order_id(*, channel: str, shop: str, marketplace: str = "", external_id: str) -> OrderId:
    """Return the id that every service and every edge computes for one channel order.

    For a till sale `shop` is the store and `external_id` is `<register>/<business date>/<receipt>`.
    """
    return OrderId(deterministic_id("order", channel, shop, marketplace, external_id))


def settlement_id(*, channel: str, shop: str, external_id: str) -> str:
    """Return `<channel>/<shop>/<external id>`, the key of one settlement or payout."""
    return f"{channel}/{shop}/{external_id}"
