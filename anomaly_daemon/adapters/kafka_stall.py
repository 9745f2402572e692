"""Notices a partition that silently stops bringing records, a fault of the client (its issues 3106 and 3131)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anomaly_daemon.domain.records import Offset, Partition

_LOOKS_MIN = 3
_BUSY_FACTOR = 10


@dataclass(slots=True)
class _Standstill:
    position: Offset
    since_s: float
    looks: int = 0
    dry_looks: int = 0


class StallWatch:
    """Remembers how long each partition has stood still below its end."""

    def __init__(self, stall_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._still: dict[Partition, _Standstill] = {}

    def stalled(self, now_s: float, positions: Mapping[Partition, Offset], ends: Mapping[Partition, Offset], is_dry: bool) -> Partition | None:
        """A partition that is behind and has not moved for too long, seen so at several looks; None where all is well.

        is_dry: the last poll brought less than it could, so nothing fetched was waiting. While others fill every poll a
        partition may wait its turn for long, so it is given ten times as long. Partitions not named are forgotten.
        """
        self._still = {partition: self._still[partition] for partition in positions if partition in self._still}
        for partition, position in positions.items():
            still = self._still.get(partition)
            if position >= ends[partition]:
                self._still.pop(partition, None)
            elif still is None or still.position != position:
                self._still[partition] = _Standstill(position, now_s)
            else:
                still.looks += 1
                still.dry_looks += is_dry
                if self._is_stalled(still, now_s - still.since_s):
                    return partition
        return None

    def _is_stalled(self, still: _Standstill, still_s: float) -> bool:
        if still.dry_looks >= _LOOKS_MIN:
            return still_s >= self._stall_timeout_s
        return still.looks >= _LOOKS_MIN and still_s >= self._stall_timeout_s * _BUSY_FACTOR
