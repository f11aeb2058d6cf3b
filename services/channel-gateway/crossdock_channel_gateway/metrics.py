"""What the gateway counts. The names are a contract: dashboards and alerts use them."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MetricName = Literal[
    "crossdock_gateway_deliveries_total",  # requests by source and outcome (accepted, ignored, refused, unavailable)
    "crossdock_gateway_records_total",  # acknowledged records by type
    "crossdock_gateway_acknowledged_seconds",  # from request to the broker's acknowledgement, by source
    "crossdock_gateway_outbound_total",  # outbound records by type and outcome
    "crossdock_gateway_outbound_retries_total",  # calls repeated because a system was away or its answer was lost
    "crossdock_gateway_outbound_blocked_total",  # calls that only a person can unblock (expired token), by system and status
    "crossdock_gateway_outbound_waiting",  # outbound records taken from the broker and not yet settled
    "crossdock_gateway_availability_rows",  # rows of the availability table
]
METRIC_NAMES: tuple[str, ...] = get_args(MetricName)

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)


def _name(name: MetricName) -> str:
    return name


class Metrics:
    """Counters of one gateway instance."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deliveries = Counter(
            _name("crossdock_gateway_deliveries_total"),
            "Requests",
            ["source", "outcome"],
            registry=self.registry,
        )
        self.records = Counter(
            _name("crossdock_gateway_records_total"), "Acknowledged records", ["type"], registry=self.registry
        )
        self.acknowledged = Histogram(
            _name("crossdock_gateway_acknowledged_seconds"),
            "Request to acknowledgement",
            ["source"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.outbound = Counter(
            _name("crossdock_gateway_outbound_total"),
            "Outbound records",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.retries = Counter(
            _name("crossdock_gateway_outbound_retries_total"),
            "Repeated calls",
            ["type"],
            registry=self.registry,
        )
        self.blocked = Counter(
            _name("crossdock_gateway_outbound_blocked_total"),
            "Calls refused on the way there",
            ["system", "status"],
            registry=self.registry,
        )
        self.waiting = Gauge(_name("crossdock_gateway_outbound_waiting"), "Unsettled", registry=self.registry)
        self.availability = Gauge(
            _name("crossdock_gateway_availability_rows"), "Availability rows", registry=self.registry
        )
