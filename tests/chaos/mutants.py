"""Planted defects: each turns the product into one that loses, repeats or forgets, and the harness must say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from anomaly_daemon.adapters.kafka_group import Lease
from anomaly_daemon.adapters.kafka_sink import KafkaSink, _Transaction
from anomaly_daemon.adapters.kafka_source import KafkaSource
from anomaly_daemon.domain.records import BatchOutput
from anomaly_daemon.pipeline.loop import Loop


def offsets_before_alerts() -> None:
    """Offsets in a transaction of their own, then the messages: a kill in between loses alerts."""
    run = _Transaction.run

    def run_apart(transaction: _Transaction) -> None:
        producer, output, lease = transaction._producer, transaction._output, transaction._lease
        if lease is not None:
            run(_Transaction(producer, replace(output, messages=()), lease))
        if output.messages:
            run(_Transaction(producer, output, None))

    _Transaction.run = run_apart  # type: ignore[method-assign, assignment]


def metadata_at_commit() -> None:
    """Whatever membership there is when the batch is committed, anew where it was lost: what was read under an old one is not fenced."""
    sources: list[KafkaSource] = []
    make, commit = KafkaSource.__init__, KafkaSink.commit

    def make_and_keep(source: KafkaSource, *arguments: Any, **options: Any) -> None:
        make(source, *arguments, **options)
        sources[:] = [source]

    def commit_anyhow(sink: KafkaSink, output: BatchOutput) -> None:
        consumer = sources[0]._connected()
        # As clients do that join again by themselves.
        while consumer.group_metadata().generation_id < 0:
            consumer.poll(timeout_ms=100)
        commit(sink, replace(output, lease=Lease.of(sources[0].member)))

    KafkaSource.__init__ = make_and_keep  # type: ignore[method-assign, assignment]
    KafkaSink.commit = commit_anyhow  # type: ignore[method-assign, assignment]


def checkpoint_ahead_of_commit() -> None:
    """The state of a batch is saved, as that of the offset before it, ahead of its commit: a kill in between judges records twice."""
    commit = Loop._commit

    def save_and_commit(loop: Loop, output: BatchOutput) -> None:
        for partition in output.next_offsets:
            loop._saving.save_now(partition, loop._committed[partition])
        loop._checkpoints.flush(10.0)
        commit(loop, output)

    Loop._commit = save_and_commit  # type: ignore[method-assign, assignment]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect, and the scenario that has to find it with so many faults."""

    plant: Callable[[], None]
    scenario: str
    faults: int


MUTANTS = {
    "offsets_before_alerts": Mutant(offsets_before_alerts, "kills", 12),
    "metadata_at_commit": Mutant(metadata_at_commit, "zombies", 4),
    "checkpoint_ahead_of_commit": Mutant(checkpoint_ahead_of_commit, "kills", 12),
}
