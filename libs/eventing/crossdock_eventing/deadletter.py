"""The dead-letter record: original bytes and key untouched, the reason in headers that other tools read too.

Header names and encodings are those of Spring Kafka's DeadLetterPublishingRecoverer (partition int32, offset and timestamp
int64, big-endian; the rest UTF-8), which kafbat and others display, plus three of our own.
"""

from __future__ import annotations

import struct
import traceback

from crossdock_eventing.broker.interface import Headers, Record

ERROR_CODE = "crossdock-error-code"
ATTEMPT = "crossdock-attempt"
PARKED_BY = "crossdock-parked-by"

_MESSAGE_BYTES_MAX = 2_000
_STACK_BYTES_MAX = 8_000


def dead_letter_headers(
    record: Record, *, code: str, detail: str, error: BaseException | None, group: str, attempt: int = 1
) -> Headers:
    """The headers of a record that `group` gave up on, after those it already had."""
    fqcn = (
        f"{type(error).__module__}.{type(error).__qualname__}" if error is not None else "crossdock.Rejected"
    )
    stack = "".join(traceback.format_exception(error)) if error is not None else ""
    return (
        *record.headers,
        ("kafka_dlt-original-topic", record.topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", record.partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", record.offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", record.timestamp_ms)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", group.encode()),
        ("kafka_dlt-exception-fqcn", fqcn.encode()),
        ("kafka_dlt-exception-message", _clipped(f"{code}: {detail}", _MESSAGE_BYTES_MAX)),
        ("kafka_dlt-exception-stacktrace", _clipped(stack, _STACK_BYTES_MAX)),
        (ERROR_CODE, code.encode()),
        (ATTEMPT, str(attempt).encode()),
        (PARKED_BY, group.encode()),
    )


def _clipped(text: str, size: int) -> bytes:
    return text.encode()[:size].decode(errors="ignore").encode()
