from __future__ import annotations

from prometheus_client import generate_latest

from anomaly_daemon.domain.records import Reason
from anomaly_daemon.telemetry.metrics import PREFIX, Metrics


def test_facts_sum_a_counter_over_its_labels() -> None:
    metrics = Metrics()

    metrics.records_consumed.inc(5)
    metrics.records_scored.inc(2)
    metrics.dead_letter_records.labels(Reason.SCHEMA.value).inc()
    metrics.dead_letter_records.labels(Reason.TOMBSTONE.value).inc()
    metrics.records_dropped.labels("late").inc()

    facts = metrics.facts()
    assert facts["records_consumed"] == facts["records_scored"] + facts["dead_letter_records"] + facts["records_dropped"] == 5


def test_whole_numbers_are_told_as_such() -> None:
    metrics = Metrics()
    metrics.records_consumed.inc(5)

    assert all(isinstance(fact, int) for fact in metrics.facts().values())


def test_facts_leave_out_histograms_and_creation_times() -> None:
    metrics = Metrics()
    metrics.batch_records.observe(3)

    assert set(metrics.facts()) == {
        "records_consumed",
        "records_scored",
        "dead_letter_records",
        "records_dropped",
        "records_lost",
        "alerts",
        "alerts_suppressed",
        "incidents_open",
        "budget_z",
        "commits",
        "commit_failures",
        "recoveries",
        "checkpoints",
        "checkpoint_failures",
        "entities",
        "entities_spilled",
        "entities_forgotten",
        "memory_shortages",
        "config_last_reload_success_timestamp_seconds",
        "config_last_reload_successful",
    }


def test_every_reason_stands_at_zero_from_the_start() -> None:
    shown = generate_latest(Metrics().registry).decode()

    for reason in Reason:
        assert f'{PREFIX}dead_letter_records_total{{reason="{reason.value}"}} 0.0' in shown


def test_every_metric_carries_the_prefix_and_none_has_an_entity_label() -> None:
    for family in Metrics().registry.collect():
        assert family.name.startswith(PREFIX)
        assert all("entity" not in sample.labels for sample in family.samples)


def test_a_refused_reload_is_seen_until_the_next_good_one() -> None:
    metrics = Metrics()

    metrics.config_reloaded(is_successful=False)
    assert metrics.facts()["config_last_reload_successful"] == 0
    metrics.config_reloaded(is_successful=True)
    assert metrics.facts()["config_last_reload_successful"] == 1


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.commits.inc()

    assert second.facts()["commits"] == 0
