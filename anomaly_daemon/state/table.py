"""Entity → slot → columns: a bounded table whose overflow spills to disk and comes back as it was.

Two bounds. `resident_max` slots are in memory, over all partitions; beyond it the entities touched least recently
spill, which no result can show. `entities_max` entities are remembered per partition; beyond it the least recently
seen one is forgotten: that depends on the partition's log alone, never on where batches are cut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_daemon.domain.columns import Column
from anomaly_daemon.domain.records import Checkpoint, Partition
from anomaly_daemon.state.checkpoint import check_fits
from anomaly_daemon.state.holders import Holders
from anomaly_daemon.state.snapshot import Snapshot
from anomaly_daemon.state.spill import SpillFile

Rows = dict[str, Tensor]
HostRows = dict[str, NDArray[Any]]
_FIRST_CAPACITY = 1024
_EVICT_SHARE = 16


class Table:
    """The columns of every entity, declared by their users, owned here."""

    def __init__(self, columns: Sequence[Column], *, resident_max: int, entities_max: int, device: str, spill: Path) -> None:
        names = [column.name for column in columns]
        if len(set(names)) != len(names):
            raise ValueError(f"two columns share a name: {sorted(names)}")
        self.columns = {column.name: column for column in columns}
        self._forgotten: list[tuple[int, str]] = []
        self._snapshots: dict[Partition, Snapshot] = {}
        self._resident_max, self._entities_max, self._device = resident_max, entities_max, device
        self._slabs: dict[str, Tensor] = {}
        self._owned: dict[Partition, OrderedDict[str, int]] = {}
        self._partitions: list[Partition] = []
        self._number: dict[Partition, int] = {}
        self._slots, self._rows, self._free = Holders(), Holders(), list[int]()
        self._touches = self._began = self._refused = 0
        self._spill = SpillFile(spill, sum(column.bytes_per_entity for column in columns))
        self._grow(min(_FIRST_CAPACITY, resident_max))

    @property
    def bytes_per_entity(self) -> int:
        """Memory of one entity over all columns."""
        return sum(column.bytes_per_entity for column in self.columns.values())

    @property
    def entities(self) -> int:
        """Entities remembered, resident or spilled, over all partitions."""
        return sum(len(owned) for owned in self._owned.values())

    @property
    def spilled(self) -> int:
        """Entities on disk."""
        return self._spill.used

    @property
    def resident_max(self) -> int:
        """Entities in memory at most: as set, or as many as the device had memory for."""
        return self._resident_max

    def take_refused(self) -> int:
        """How often since the last call the device had no memory for more entities."""
        refused, self._refused = self._refused, 0
        return refused

    def slab(self, name: str) -> Tensor:
        """The whole column, [capacity, …]: for writes at chosen slots."""
        return self._slabs[name]

    def begin(self) -> None:
        """Start a micro-batch: slots admitted from now on stay resident until the next `begin`."""
        self._began = self._touches

    def admit(self, partition: Partition, entities: Sequence[str]) -> NDArray[np.int64]:
        """Slots of the entities of consecutive records, marked as just seen.

        Shorter than `entities` when the next one can only be admitted once the micro-batch so far is done.
        """
        owned = self._owned.setdefault(partition, OrderedDict())
        found = [owned.get(entity, -1) for entity in entities]
        if min(found, default=0) >= 0:
            for entity in entities:
                owned.move_to_end(entity)
            slots = np.array(found, np.int64)
            self._slots.touched[slots] = self._touches + np.arange(len(slots))
            self._touches += len(slots)
            self._keep(slots)
            return slots
        return self._admit_missing(partition, owned, entities)

    def take_forgotten(self) -> list[tuple[int, str]]:
        """Entities forgotten in the last `admit`, because its partition was full, each with the place in it of the one that it made room for."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def _admit_missing(self, partition: Partition, owned: OrderedDict[str, int], entities: Sequence[str]) -> NDArray[np.int64]:
        number = self._number_of(partition)
        slots: list[int] = []
        fresh: list[int] = []
        restored: list[tuple[int, int]] = []
        for entity in entities:
            slot = owned.get(entity)
            if slot is None or slot < 0:
                if slot is None and not self._make_room(partition, owned, len(slots)):
                    break
                place = self._take_slot()
                if place is None:
                    break
                if slot is None:
                    fresh.append(place)
                else:
                    restored.append((place, -1 - slot))
                owned[entity] = slot = place
                self._slots.put(place, number, entity, 0)
            owned.move_to_end(entity)
            self._slots.touched[slot] = self._touch()
            slots.append(slot)
        self._keep(np.array(slots, np.int64))
        self._fill(fresh)
        if restored:
            rows = [row for _, row in restored]
            self._write([place for place, _ in restored], self._split(self._spill.read(rows)))
            self._let_go(rows)
        return np.array(slots, np.int64)

    def _make_room(self, partition: Partition, owned: OrderedDict[str, int], place: int) -> bool:
        """Forget the least recently seen entity when the partition is full; False when the micro-batch still needs it."""
        if len(owned) < self._entities_max:
            return True
        entity, slot = next(iter(owned.items()))
        if slot >= 0 and self._slots.touched[slot] >= self._began:
            return False
        self.forget(partition, entity)
        self._forgotten.append((place, entity))
        return True

    def _take_slot(self) -> int | None:
        """A slot that nobody has; None when every slot is needed by the micro-batch at hand."""
        if not self._free:
            capacity = len(self._slots)
            if capacity < self._resident_max:
                self._grow_if_possible(min(2 * capacity, self._resident_max))
            if not self._free:
                self._evict(max(1, capacity // _EVICT_SHARE))
        return self._free.pop() if self._free else None

    def _evict(self, count: int) -> None:
        """Spill the resident entities touched least recently, none of the micro-batch at hand."""
        victims = self._slots.oldest(count, self._began)
        if not victims:
            return
        self._keep(np.array(victims, np.int64))
        rows = self._spill.put(self._pack(victims))
        self._rows.grow(self._spill.capacity)
        for slot, row, entity in zip(victims, rows, self._slots.named(victims), strict=True):
            partition = int(self._slots.partition[slot])
            self._owned[self._partitions[partition]][entity] = -1 - row
            self._rows.put(row, partition, entity, int(self._slots.touched[slot]))
            self._release(slot)

    def _release(self, slot: int) -> None:
        self._slots.free(slot)
        self._free.append(slot)

    def _touch(self) -> int:
        """The moment of the next touch."""
        self._touches += 1
        return self._touches - 1

    def _number_of(self, partition: Partition) -> int:
        if partition not in self._number:
            self._number[partition] = len(self._partitions)
            self._partitions.append(partition)
        return self._number[partition]

    def _grow_if_possible(self, capacity: int) -> None:
        """More slots, or from now on no more than there are where the device has no memory for them: entities then spill sooner."""
        try:
            self._grow(capacity)
        except torch.OutOfMemoryError:
            self._resident_max = len(self._slots)
            self._refused += 1

    def _grow(self, capacity: int) -> None:
        held = len(self._slots)
        grown: dict[str, Tensor] = {}
        for name, column in self.columns.items():
            dtype = getattr(torch, column.dtype)
            slab = torch.empty((capacity, *column.shape), dtype=dtype, device="cpu" if column.is_host else self._device)
            if held:
                slab[:held] = self._slabs[name]
            grown[name] = slab
        self._slabs = grown
        self._slots.grow(capacity)
        self._free = list(range(capacity - 1, held - 1, -1)) + self._free

    def _fill(self, slots: Sequence[int]) -> None:
        """Give new entities what each column starts with."""
        if not slots:
            return
        for name, column in self.columns.items():
            slab = self._slabs[name]
            start = torch.as_tensor(np.array(column.fill), dtype=slab.dtype, device=slab.device)
            slab[torch.as_tensor(np.array(slots, np.int64), device=slab.device)] = start

    def reset(self, slots: NDArray[np.int64]) -> None:
        """Start these entities anew."""
        self._fill(slots.tolist())

    def gather(self, slots: NDArray[np.int64], names: Sequence[str]) -> Rows:
        """Copies of device columns, [len(slots), …] each, contiguous."""
        index = torch.from_numpy(slots).to(self._device)
        return {name: self._slabs[name].index_select(0, index) for name in names}

    def scatter(self, slots: NDArray[np.int64], rows: Rows, names: Sequence[str]) -> None:
        """Write gathered device columns back."""
        index = torch.from_numpy(slots).to(self._device)
        for name in names:
            self._slabs[name].index_copy_(0, index, rows[name])

    def gather_host(self, slots: NDArray[np.int64]) -> HostRows:
        """Copies of every host column."""
        return {name: self._slabs[name].numpy()[slots] for name, column in self.columns.items() if column.is_host}

    def scatter_host(self, slots: NDArray[np.int64], rows: HostRows) -> None:
        """Write gathered host columns back."""
        for name, values in rows.items():
            self._slabs[name].numpy()[slots] = values

    def forget(self, partition: Partition, entity: str) -> None:
        """Drop one entity."""
        slot = self._owned[partition].pop(entity)
        if slot >= 0:
            self._keep(np.array([slot], np.int64))
            self._release(slot)
        else:
            self._let_go([-1 - slot])

    def drop(self, partition: Partition) -> None:
        """Drop every entity of a partition, and the snapshot under way of it."""
        self.close_snapshot(partition)
        places = list(self._owned.pop(partition, {}).values())
        for slot in places:
            if slot >= 0:
                self._release(slot)
        self._let_go([-1 - place for place in places if place < 0])

    def open_snapshot(self, partition: Partition) -> Snapshot:
        """A partition as it stands now, to be copied while the table goes on, until `close_snapshot`."""
        number = self._number_of(partition)
        slots, rows = self._slots.of(number), self._rows.of(number)
        order = np.argsort(np.concatenate([self._slots.touched[slots], self._rows.touched[rows]]))
        snapshot = self._snapshots[partition] = Snapshot(np.concatenate([slots, -1 - rows])[order], self.columns.values(), self._read)
        return snapshot

    def close_snapshot(self, partition: Partition) -> None:
        """Rows may change again without being copied; nothing where none is open."""
        self._snapshots.pop(partition, None)

    def _read(self, places: NDArray[np.int64]) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Entities and copies of all their columns, wherever the rows are."""
        is_resident = places >= 0
        slots, rows = places[is_resident].tolist(), (-1 - places[~is_resident]).tolist()
        if not rows:
            return self._slots.named(slots), {name: self._chosen(name, places) for name in self.columns}
        entities = np.empty(len(places), object)
        entities[is_resident], entities[~is_resident] = self._slots.named(slots), self._rows.named(rows)
        packed = np.empty((len(places), self.bytes_per_entity), np.uint8)
        packed[is_resident], packed[~is_resident] = self._pack(slots), self._spill.read(rows)
        return entities.tolist(), self._split(packed)

    def _keep(self, slots: NDArray[np.int64]) -> None:
        """Rows about to change go into the snapshots that still want them."""
        for snapshot in self._snapshots.values():
            snapshot.keep_slots(slots)

    def _let_go(self, rows: Sequence[int]) -> None:
        """Rows of the spill file that nobody holds any longer."""
        for snapshot in self._snapshots.values():
            snapshot.keep_spilled(rows)
        for row in rows:
            self._rows.free(row)
        self._spill.drop(rows)

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointInvalid for one that `install` could not take."""
        check_fits(checkpoint, self.columns, self._entities_max)

    def install(self, partition: Partition, entities: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> None:
        """Take over what a snapshot gave, in place of whatever the partition had."""
        self.drop(partition)
        owned = self._owned[partition] = OrderedDict()
        self.begin()
        number = self._number_of(partition)
        resident = min(len(entities), self._resident_max - (len(self._slots) - len(self._free)))
        # The most recently seen become resident, the others wait on disk.
        spilled_count = len(entities) - max(resident, 0)
        rows = self._spill.put(self._join({name: values[:spilled_count] for name, values in columns.items()}))
        self._rows.grow(self._spill.capacity)
        for entity, row in zip(entities[:spilled_count], rows, strict=True):
            owned[entity] = -1 - row
            self._rows.put(row, number, entity, self._touch())
        places = []
        for entity in entities[spilled_count:]:
            place = self._take_slot()
            assert place is not None
            owned[entity] = place
            self._slots.put(place, number, entity, self._touch())
            places.append(place)
        self._write(places, {name: np.array(columns[name][spilled_count:], column.dtype) for name, column in self.columns.items()})

    def close(self) -> None:
        """Remove the spill file."""
        self._spill.close()

    def _pack(self, slots: Sequence[int]) -> NDArray[np.uint8]:
        """Rows of bytes, all columns side by side."""
        index = np.array(slots, np.int64)
        return np.concatenate([_as_bytes(self._chosen(name, index), column) for name, column in self.columns.items()], axis=1)

    def _chosen(self, name: str, slots: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of one column at these slots."""
        slab = self._slabs[name]
        chosen: NDArray[Any] = slab.index_select(0, torch.as_tensor(slots, device=slab.device)).cpu().numpy()
        return chosen

    def _write(self, slots: Sequence[int], columns: Mapping[str, NDArray[Any]]) -> None:
        if not slots:
            return
        for name, values in columns.items():
            slab = self._slabs[name]
            slab.index_copy_(0, torch.as_tensor(np.array(slots, np.int64), device=slab.device), torch.from_numpy(values).to(slab.device))

    def _split(self, packed: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        columns, first = {}, 0
        for name, column in self.columns.items():
            last = first + column.bytes_per_entity
            columns[name] = np.array(packed[:, first:last], order="C").view(column.dtype).reshape(len(packed), *column.shape)
            first = last
        return columns

    def _join(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        return np.concatenate([_as_bytes(columns[name], column) for name, column in self.columns.items()], axis=1)


def _as_bytes(values: NDArray[Any], column: Column) -> NDArray[np.uint8]:
    """One row of bytes per entity."""
    return np.frombuffer(np.ascontiguousarray(values, dtype=column.dtype).tobytes(), np.uint8).reshape(len(values), column.bytes_per_entity)
