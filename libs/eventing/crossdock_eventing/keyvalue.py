"""Ordered bytes on local disk (RocksDB) or in memory: all that a task's store needs of a database.

The log is the truth; this is a cache of it that survives a restart. A batch is atomic: a crash leaves all of it or none.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from rocksdict import Options, Rdict, WriteBatch

Changes = Mapping[bytes, bytes | None]


class KeyValue(Protocol):
    """An ordered map of bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def write(self, changes: Changes) -> None:
        """Put every key, or delete it where the value is None, atomically."""

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < end, in key order."""

    def wipe(self) -> None:
        """Delete everything."""

    def close(self) -> None: ...


class RocksKeyValue:
    """RocksDB in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(16 * 1024 * 1024)
        self._db = Rdict(str(self._directory), options)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def write(self, changes: Changes) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._db.write(batch)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._db.items(from_key=start):
            assert isinstance(key, bytes), "raw mode has bytes only"
            if key >= end:
                return
            yield key, value

    def wipe(self) -> None:
        self._db.close()
        shutil.rmtree(self._directory)
        self._open()

    def close(self) -> None:
        self._db.close()


class MemoryKeyValue:
    """The same in memory. It outlives the worker that used it, as a disk does."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def write(self, changes: Changes) -> None:
        for key, value in changes.items():
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        first, last = bisect_left(self._keys, start), bisect_left(self._keys, end)
        for key in self._keys[first:last]:
            yield key, self._values[key]

    def wipe(self) -> None:
        self._values.clear()
        self._keys.clear()

    def close(self) -> None:
        """Nothing to release."""
