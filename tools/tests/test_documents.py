"""`crossdock documents`: what the ERP did not take, in the order in which it has to be entered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crossdock_canonical.identity import OrderId
from crossdock_canonical.records import DocumentType, ErpDocumentFailed


def failed(order: str, kind: DocumentType, code: str, detail: str) -> ErpDocumentFailed:
    return ErpDocumentFailed(
        chain=order,
        document_type=kind,
        business_key=f"{kind.value.lower()}/{order}/1",
        version=1,
        erp="cloud",
        code=code,
        detail=detail,
        order_id=OrderId(order),
    )


def test_failed_documents_are_told_in_the_order_of_their_failing(world: Any, crossdock: Callable) -> None:
    after = failed("order-1", DocumentType.CREDIT_MEMO, "erp.predecessor_failed", "invoice/order-1/")
    world.emit("erp-poster", after, "b", day=2)
    refused = failed("order-1", DocumentType.INVOICE, "erp.rejected", "TAX: unknown")
    world.emit("erp-poster", refused, "a", day=1)
    world.emit(
        "erp-poster", failed("order-2", DocumentType.INVOICE, "erp.rejected", "TAX: unknown"), "c", day=3
    )
    rows = crossdock("documents", "--json").json
    assert [each["business_key"] for each in rows] == [
        "invoice/order-1/1",
        "credit_memo/order-1/1",
        "invoice/order-2/1",
    ]
    assert (rows[0]["code"], rows[0]["detail"], rows[0]["order_id"]) == (
        "erp.rejected",
        "TAX: unknown",
        "order-1",
    )
    said = crossdock("documents").out.splitlines()
    assert said[0].endswith("  cloud  invoice/order-1/1  erp.rejected  TAX: unknown")
    assert said[-1] == "3 documents of 2 chains failed: 1 erp.predecessor_failed, 2 erp.rejected"
    assert len(crossdock("documents", "--code", "erp.rejected", "--json").json) == 2


def test_nothing_failed(world: Any, crossdock: Callable) -> None:
    assert crossdock("documents").out == "0 documents of 0 chains failed\n"
