"""Appending to the embedded log inside a transaction: which partition, which offset, which row. Used by topics and sink alike."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anomaly_daemon.adapters.sqlite_proofs import record_proof
from anomaly_daemon.adapters.sqlite_schema import damaged
from anomaly_daemon.adapters.topic_names import missing_topics
from anomaly_daemon.domain.errors import TopicError
from anomaly_daemon.domain.ports import Clock
from anomaly_daemon.domain.records import Headers, Message

RECORD_OVERHEAD_BYTES = 24  # what a row weighs beside key, value and headers, for retention by size
_KEYS_REMEMBERED = 65_536

_encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(Headers).decode


@functools.lru_cache(maxsize=_KEYS_REMEMBERED)
def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, unsigned 32 bits (org.apache.kafka.common.utils.Utils.murmur2): both logs place an entity alike."""
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * mixer & mask
        word = (word ^ word >> 24) * mixer & mask
        hashed = (hashed * mixer & mask) ^ word
    if whole < len(key):
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * mixer & mask
    hashed = (hashed ^ hashed >> 13) * mixer & mask
    return hashed ^ hashed >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's default partitioner puts this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@dataclass(slots=True)
class _Tail:
    """The growing end of one partition during an append."""

    partition_id: int
    next_offset: int
    grown_bytes: int = 0


class Appender:
    """Writes messages through the caller's transaction; remembers only whose turn it is among messages without a key."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._turns: dict[str, int] = {}

    def append(self, connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
        """Append in order. Raises TopicError where a topic or partition is missing; the caller then rolls back."""
        now_ms = self._clock.now_us() // 1000
        topics: dict[str, list[_Tail]] = {}
        rows = []
        for message in messages:
            tails = topics.get(message.topic)
            if tails is None:
                tails = topics[message.topic] = self._tails(connection, message.topic)
            tail = tails[self._choose(message, len(tails))]
            key, value = message.key, message.value
            headers = _encode_headers(message.headers) if message.headers else None
            timestamp_ms = now_ms if message.timestamp_ms is None else message.timestamp_ms
            proof = record_proof(timestamp_ms, key, value, headers)
            rows.append((tail.partition_id, tail.next_offset, timestamp_ms, key, value, headers, proof))
            tail.next_offset += 1
            tail.grown_bytes += RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + len(headers or b"")
        try:
            connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise damaged(self._path, f"a partition's end is not behind its last record: {error}") from error
        connection.executemany(
            "UPDATE partitions SET next = ?, bytes = bytes + ? WHERE id = ?",
            [(tail.next_offset, tail.grown_bytes, tail.partition_id) for tails in topics.values() for tail in tails if tail.grown_bytes],
        )

    def _choose(self, message: Message, partitions: int) -> int:
        number = message.partition_number
        if number is None:
            if message.key is not None:
                return partition_of(message.key, partitions)
            number = self._turns[message.topic] = (self._turns.get(message.topic, -1) + 1) % partitions
        elif not 0 <= number < partitions:
            raise TopicError(
                f"log {self._path}: topic {message.topic} has no partition {number}, only 0 to {partitions - 1}; make it with more partitions"
            )
        return number

    def _tails(self, connection: sqlite3.Connection, topic: str) -> list[_Tail]:
        rows = connection.execute(
            "SELECT p.id, p.next FROM partitions p JOIN topics t ON t.id = p.topic_id WHERE t.name = ? ORDER BY p.number", (topic,)
        ).fetchall()
        if not rows:
            raise missing_topics(f"log {self._path}", [topic], (name for (name,) in connection.execute("SELECT name FROM topics")))
        return [_Tail(partition_id, next_offset) for partition_id, next_offset in rows]
