"""What a committed batch adds to the metrics: consumed = scored + dead-lettered + dropped, counted where it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anomaly_daemon.domain.records import Batch, BatchOutput, Offset, Partition, Record
from anomaly_daemon.pipeline.pieces import runs
from anomaly_daemon.pipeline.process import Processor
from anomaly_daemon.telemetry.metrics import Metrics


def count_batch(metrics: Metrics, batch: Batch, output: BatchOutput, committed: Mapping[Partition, Offset]) -> None:
    """Count the records that this commit made final. committed: as it stood before the batch."""

    def is_new(record: Record) -> bool:
        return record.offset >= committed.get(record.partition, 0)

    # Within a partition offsets rise: where each run of one begins with a new record, all are.
    starts = [0, *(end for _, end in runs(batch.records))]
    is_all_new = all(is_new(batch.records[start]) for start in starts[:-1])

    def count_new(records: Sequence[Record]) -> int:
        return len(records) if is_all_new else sum(map(is_new, records))

    metrics.batch_records.observe(len(batch.records))
    metrics.records_consumed.inc(count_new(batch.records))
    if output.scored is not None:
        metrics.records_scored.inc(count_new(output.scored.observations.records))
        dropped = count_new(output.scored.dropped)
        if dropped:
            metrics.records_dropped.labels("entity").inc(dropped)
    for rejection in output.rejections:
        metrics.dead_letter_records.labels(rejection.reason.value).inc()
    for alert in output.alerts:
        metrics.alerts.labels(alert.transition.value).inc()


def count_state(metrics: Metrics, processor: Processor) -> None:
    """How much is held now."""
    metrics.incidents_open.set(processor.incidents_open)
    metrics.budget_z.set(processor.budget_z or 0.0)
    metrics.entities.set(processor.table.entities - processor.table.spilled)
    metrics.entities_spilled.set(processor.table.spilled)
    forgotten, suppressed = processor.take_counts()
    metrics.entities_forgotten.inc(forgotten)
    metrics.alerts_suppressed.inc(suppressed)
