"""The group consumer and the reader on Kafka (`interface` says what each call means). Built by `broker.ConfluentBroker`."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import confluent_kafka as ck
import structlog

from crossdock_eventing.broker.confluent.native import (
    ClientLog,
    from_native,
    raise_failure,
    raise_failure_of,
    record_of,
    to_native,
    translated,
)
from crossdock_eventing.broker.confluent.questions import Probe, committed_offsets
from crossdock_eventing.broker.confluent.settings import ClientSettings
from crossdock_eventing.broker.failure import BrokerRefused, BrokerUnavailable, Fenced, OffsetMissing
from crossdock_eventing.broker.interface import (
    GroupMetadata,
    OnPartitions,
    Record,
    TopicPartition,
    Watermarks,
)

log = structlog.get_logger(__name__)

_SEEK_RETRY_S: Final = 0.001
_NUDGE_S: Final = 0.5


class _Fetching:
    """What the group consumer and the reader share: draining the native client, and questions to the
    broker.
    """

    def __init__(self, conf: dict[str, Any], settings: ClientSettings, probe: Probe) -> None:
        self._conf = conf
        self._settings = settings
        self._probe = probe
        self._open()

    def _open(self) -> None:
        self._log = ClientLog()
        self._client = ck.Consumer({**self._conf, "logger": self._log})
        self._heard_s = time.monotonic()

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        # consume(n, t) waits the full t for a full batch: wait for one, then take what is here.
        first = translated(lambda: self._client.poll(timeout_s), BrokerUnavailable)
        if self._log.fatal is not None:
            # The client reports it once, among the records, and a rebalance can sweep it away; then it is silent for ever.
            raise Fenced("_FATAL", self._log.fatal)
        if first is None:
            if time.monotonic() - self._heard_s > self._settings.silence_max_s:
                self._break_silence()
            return []
        self._heard_s = time.monotonic()
        rest: list[ck.Message] = []
        if max_records > 1:
            rest = translated(lambda: self._client.consume(max_records - 1, 0.0), BrokerUnavailable)
        return [record for message in (first, *rest) if (record := record_of(message)) is not None]

    def _break_silence(self) -> None:
        """Nothing came for long: find out whether the client still has a way to the broker.

        A client that a starting broker told of no brokers forgets those it knew and is silent from then on, without an error
        (librdkafka issue 5301, open in 2.16).
        """
        self._heard_s = time.monotonic()
        assigned = self._client.assignment()
        if assigned:
            timeout_s = self._settings.query_timeout_s
            translated(
                lambda: self._client.get_watermark_offsets(assigned[0], timeout=timeout_s), BrokerUnavailable
            )

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        return self._probe.watermarks(partition)

    def _position(self, partition: TopicPartition) -> int | None:
        offset = self._client.position([to_native(partition)])[0].offset
        return offset if offset >= 0 else None

    def close(self) -> None:
        self._client.close()


class ConfluentReader(_Fetching):
    """`interface.Reader` on Kafka."""

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self._starts = dict(starts)
        self._client.assign([to_native(partition, offset) for partition, offset in starts.items()])

    def position(self, partition: TopicPartition) -> int:
        position = self._position(partition)
        return self._starts[partition] if position is None else position

    def _break_silence(self) -> None:
        """A reader goes on with a new client from where it was; the owner need not know."""
        try:
            super()._break_silence()
        except BrokerUnavailable as lost:
            log.warning("reader.renewed", code=lost.code, reason=lost.reason)
            positions = {partition: self.position(partition) for partition in self._starts}
            self._client.close()
            self._open()
            self.assign(positions)


class ConfluentConsumer(_Fetching):
    """`interface.Consumer` on Kafka."""

    def __init__(self, conf: dict[str, Any], settings: ClientSettings, probe: Probe) -> None:
        super().__init__(conf, settings, probe)
        self._incremental = settings.group_protocol == "consumer"
        self._unplaced: set[TopicPartition] = set()  # owned, not yet sought

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: OnPartitions,
        on_revoke: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        def assigned(client: ck.Consumer, native: list[ck.TopicPartition]) -> None:
            partitions = from_native(native)
            starts = self._ends(partitions)
            if self._incremental:
                client.incremental_assign(starts)
            else:
                client.assign(starts)
            client.pause(starts)
            self._unplaced.update(partitions)
            if partitions:
                on_assign(partitions)

        def gone(tell: OnPartitions) -> Callable[[ck.Consumer, list[ck.TopicPartition]], None]:
            def handler(client: ck.Consumer, native: list[ck.TopicPartition]) -> None:
                partitions = from_native(native)
                if partitions:
                    tell(partitions)
                self._unplaced.difference_update(partitions)
                if self._incremental:
                    client.incremental_unassign(native)
                else:
                    client.unassign()

            return handler

        self._client.subscribe(
            list(topics), on_assign=assigned, on_revoke=gone(on_revoke), on_lost=gone(on_lost)
        )

    def _ends(self, partitions: Sequence[TopicPartition]) -> list[ck.TopicPartition]:
        """Where newly assigned partitions wait, paused, to be sought: at the number their log ends with now.

        Left to itself the client would look up the committed offset, and a partition it finds without one, or
        with one outside the log, can never be sought again. Given a symbolic start (OFFSET_END) it would look
        that up, and an answer that comes after the seek overrides it: 8 of 50 times, records were skipped.
        """
        asked = [to_native(partition, ck.OFFSET_END) for partition in partitions]
        if not asked:
            return []
        # Not worth another try: a poll that failed half-way through an assignment cannot be repeated.
        ends = translated(
            lambda: self._client.offsets_for_times(asked, timeout=self._settings.query_timeout_s),
            BrokerRefused,
        )
        for end in ends:
            if end.error is not None:
                raise_failure(end.error, BrokerRefused)
        return ends

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._client.pause([to_native(partition) for partition in partitions])

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        nowhere = self._unplaced.intersection(partitions)
        if nowhere:
            raise OffsetMissing("_NO_OFFSET", f"resumed without a start: {sorted(nowhere)}")
        self._client.resume([to_native(partition) for partition in partitions])
        # A client that fetches nothing looks only once a second for what it may fetch; an answer from the leaders makes it look
        # now. Restarts, recoveries and rebalances so take a second less. If they do not answer, it will look in its own time.
        if partitions:
            with suppress(ck.KafkaException):
                asked = [to_native(partition, ck.OFFSET_END) for partition in partitions]
                self._client.offsets_for_times(asked, timeout=_NUDGE_S)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        deadline = time.monotonic() + self._settings.query_timeout_s
        while True:
            try:
                self._client.seek(to_native(partition, offset))
                break
            except ck.KafkaException as error:
                # For about a millisecond after the assignment it cannot seek yet, and offers no event.
                starting = error.args[0].name() == "_STATE" and partition in self.assignment()
                if not starting or time.monotonic() > deadline:
                    raise_failure_of(error, BrokerUnavailable)
                time.sleep(_SEEK_RETRY_S)
        self._unplaced.discard(partition)

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        if not partitions:
            return {}
        asked = [to_native(partition) for partition in partitions]
        answers = committed_offsets(self._client, asked, self._settings.query_timeout_s)
        return {
            TopicPartition(answer.topic, answer.partition): answer.offset if answer.offset >= 0 else None
            for answer in answers
        }

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(from_native(self._client.assignment()))

    def position(self, partition: TopicPartition) -> int | None:
        return self._position(partition)

    def group_metadata(self) -> GroupMetadata:
        return self._client.consumer_group_metadata()
