"""The published available-to-sell, in memory: what `GET /availability` answers from. Fed by `availability_reader`."""

from __future__ import annotations

from crossdock_canonical.records import SalableStock


class AvailabilityTable:
    """Latest row of every (sku, channel). A version that goes back is not taken: the newer word stands."""

    def __init__(self) -> None:
        self._rows: dict[str, SalableStock] = {}
        self._skus: dict[str, int] = {}
        self.caught_up = False

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: str, row: SalableStock) -> None:
        known = self._rows.get(key)
        if known is None:
            self._skus[row.sku] = self._skus.get(row.sku, 0) + 1
        elif row.version < known.version:
            return
        self._rows[key] = row

    def delete(self, key: str) -> None:
        """A tombstone: the row is gone."""
        known = self._rows.pop(key, None)
        if known is not None:
            left = self._skus[known.sku] - 1
            if left:
                self._skus[known.sku] = left
            else:
                del self._skus[known.sku]

    def find(self, sku: str, channel: str) -> SalableStock | None:
        return self._rows.get(f"{sku}|{channel}")

    def knows(self, sku: str) -> bool:
        """Whether any channel has a row of the sku."""
        return sku in self._skus
