"""The ERP is away from the first order to the last: what does not need it goes on, and when it returns it gets everything, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from test_paths import items, order

from crossdock_canonical.records import (
    ChannelStatus,
    DeliveryMethod,
    ErpDocumentPosted,
    FulfilledBy,
    LocationKind,
    OrderCancelled,
    OrderCompleted,
    OrderShipped,
    TenderState,
)
from crossdock_erp_poster.service import service as erp_poster
from crossdock_erp_poster.settings import Settings
from crossdock_simulation.backbone import REPOSITORY, Backbone
from crossdock_simulation.erp import Fate, Mishap, Sent, SimulatedErpPort, SimulatedErps
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.books import Books

ORDERS = 12
AWAY_H = 8


def erp_of(backbone: Backbone, fate: Callable[[Sent], Fate]) -> SimulatedErps:
    """Give the backbone's erp-poster its real way out, with pace, back-off and look-ups, to an ERP on the test's clock."""
    erps = SimulatedErps(backbone.clock.monotonic_s, fate=fate)
    settings = Settings()
    backbone.workers["erp-poster"].close()
    backbone.services["erp-poster"] = erp_poster(settings, port=SimulatedErpPort(erps, settings))
    backbone.workers["erp-poster"] = backbone.worker("erp-poster")
    return erps


def a_day_of_orders(backbone: Backbone) -> None:
    """Orders of every way to leave the house, an hour apart in batches of three; some are cancelled."""
    items(backbone, "A", "B")
    backbone.location("WH", kind=LocationKind.WAREHOUSE)
    backbone.location("STORE", kind=LocationKind.STORE, pickup=True)
    for sku in ("A", "B"):
        backbone.stock(sku, WH=100, STORE=100)
    for number in range(ORDERS):
        match number % 4:
            case 0:
                sent = order(number, ("A", 2, 2000), ("B", 1, 999))
            case 1:
                sent = order(number, ("B", 1, 999), state=TenderState.CAPTURED)
            case 2:
                sent = order(number, ("A", 1, 1000), method=DeliveryMethod.PICKUP, pickup_location="STORE")
            case _:
                sent = order(
                    number,
                    ("A", 1, 1000),
                    state=TenderState.MARKETPLACE,
                    channel="amazon",
                    fulfilled_by=FulfilledBy.MARKETPLACE,
                    status=ChannelStatus.SHIPPED,
                )
        backbone.send(sent)
        if number % 3 == 2:
            pass_time(backbone, minutes=AWAY_H * 60 / ORDERS * 3)


def pass_time(backbone: Backbone, *, minutes: float) -> None:
    """Let time go by, then run; requests leave at the poster's pace, which takes more rounds than most tests do."""
    backbone.clock.advance(minutes * 60)
    backbone.run(steps_max=5_000)


@pytest.mark.parametrize(
    "mishap", [Mishap.UNREACHABLE, Mishap.AWAY, Mishap.REQUEST_LOST], ids=lambda each: each.name.lower()
)
def test_an_erp_that_is_away_for_the_whole_day_delays_only_its_documents(
    backbone: Backbone, mishap: Mishap
) -> None:
    away = True
    erps = erp_of(backbone, lambda _: Fate(mishap if away else None))
    a_day_of_orders(backbone)

    completed = {each.order_id for each in backbone.published(OrderCompleted)}
    shipped = {each.order_id for each in backbone.published(OrderShipped)}
    assert len(completed) == len(shipped) == ORDERS, "every order has shipped and ended without the ERP"
    assert backbone.published(OrderCancelled) == []
    assert erps.requests.total() > ORDERS, "it was tried all the while"
    assert erps.bookings == []
    assert backbone.published(ErpDocumentPosted) == []
    returned_at = backbone.clock.now()

    away = False
    for _ in range(10):
        pass_time(backbone, minutes=2)

    booked = Counter((each.document.erp, each.document.reference) for each in erps.bookings)
    assert set(booked.values()) == {1}, "nothing is booked twice"
    posted = backbone.entries(ErpDocumentPosted)
    assert {each.body.external_ref for each in posted} == {
        each.document.external_ref for each in erps.bookings
    }
    assert min(each.meta.recorded_at for each in posted) >= returned_at
    report = Auditor(REPOSITORY, backbone.registry).audit(
        backbone.broker, Books(erps=erps.books()), expect_drained=True
    )
    assert report.ok, "\n".join(report.findings())
    documents = {check.name: check.checked for check in report.checks if check.invariant == 4}
    assert documents["every fact has its document"] == len(erps.bookings) > 3 * ORDERS
