"""The local disk of a simulated instance: RocksDB's crash semantics in memory.

A batch is atomic. A killed process loses nothing that it wrote, since the write-ahead log is in the machine's page cache by
then; a machine that loses power loses the last batches that were not yet synced; a replaced volume loses everything, and one
restored from a snapshot everything since. So a disk is its batches in order, of which a fault may take away a tail.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossdock_eventing.keyvalue import Changes, MemoryKeyValue
from crossdock_simulation.gate import Gate


class Disk:
    """The batches written to one store. It outlives the processes that open it."""

    def __init__(self) -> None:
        self.batches: list[dict[bytes, bytes | None]] = []

    def lose(self, batches: int) -> None:
        """Lose the last `batches` of them, as a power cut or an old snapshot does."""
        if batches:
            del self.batches[-batches:]

    def delete(self) -> None:
        """The directory is gone."""
        self.batches.clear()


class SimulatedStore:
    """`KeyValue` over a disk, for one process. Every write passes the process's gate, so it can die before or after one."""

    def __init__(self, disk: Disk, gate: Gate) -> None:
        self._disk = disk
        self._gate = gate
        self._values = MemoryKeyValue()
        for batch in disk.batches:
            self._values.write(batch)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def write(self, changes: Changes) -> None:
        self._gate.before("write")
        self._disk.batches.append(dict(changes))
        self._values.write(changes)
        self._gate.after("write")

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._values.scan(start, end)

    def wipe(self) -> None:
        self._disk.delete()
        self._values.wipe()

    def close(self) -> None:
        """Nothing to release."""
