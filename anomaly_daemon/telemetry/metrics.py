"""Every metric, declared once. Names and units follow Prometheus; an entity is never a label.

Counters of records move when a batch is committed, so that consumed = scored + dead-lettered + dropped at any moment.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from anomaly_daemon.domain.records import Reason, Transition

PREFIX: Final = "anomaly_daemon_"
_COUNTED_TYPES: Final = ("counter", "gauge")
_RECORDS_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 2048, 4096, 16384, 65536)
_SECONDS_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        # Records whose offsets were committed; those gone through again in a recovery are not counted twice.
        self.records_consumed = self._counter("records_consumed", "Records whose offsets were committed.")
        # Of these: judged.
        self.records_scored = self._counter("records_scored", "Records that were judged.")
        # Of these: rejected, original bytes in the dead-letter topic.
        self.dead_letter_records = self._counter("dead_letter_records", "Records rejected to the dead-letter topic.", "reason")
        # Of these: left out by a rule of the settings.
        self.records_dropped = self._counter("records_dropped", "Records left out by a rule of the settings.", "reason")
        # Not among these: gone before they were read, because the daemon was away for longer than the topic keeps them.
        self.records_lost = self._counter("records_lost", "Records that retention deleted before they were read.")

        # Alerts published, by what they announce.
        self.alerts = self._counter("alerts", "Alerts published.", "transition")
        # Incidents that would have opened during a cooldown.
        self.alerts_suppressed = self._counter("alerts_suppressed", "Incidents that a cooldown kept from opening.")
        # Open incidents of the partitions at hand.
        self.incidents_open = self._gauge("incidents_open", "Incidents that are open.")
        # Where threshold.alerts_per_day has brought z, mean over the partitions at hand; 0 where it is not set.
        self.budget_z = self._gauge("budget_z", "The z that meets the alerts per day asked for; 0 where none are.")

        # Transactions: alerts, dead letters and offsets in one.
        self.commits = self._counter("commits", "Commits that succeeded.")
        # Each is followed by a recovery.
        self.commit_failures = self._counter("commit_failures", "Commits that failed or whose outcome is unknown.")
        # Partitions restored, at start and after every failure or rebalance.
        self.recoveries = self._counter("recoveries", "Partitions restored from a checkpoint or the log.")
        # Checkpoints that are on disk.
        self.checkpoints = self._counter("checkpoints", "Checkpoints written.")
        # Each only makes a restart longer; going on like this, something is wrong with checkpoints.url.
        self.checkpoint_failures = self._counter("checkpoint_failures", "Checkpoints that could not be written.")

        # How full batches are: near the cap all the time means that the daemon is the bottleneck.
        self.batch_records = Histogram(PREFIX + "batch_records", "Records of a batch.", registry=self.registry, buckets=_RECORDS_BUCKETS)
        # Where the time goes.
        self.stage_seconds = Histogram(
            PREFIX + "stage_seconds", "Time of a stage per batch.", ["stage"], registry=self.registry, buckets=_SECONDS_BUCKETS
        )

        # Entities in memory.
        self.entities = self._gauge("entities", "Entities in memory.")
        # Entities on disk, which come back as they were.
        self.entities_spilled = self._gauge("entities_spilled", "Entities spilled to disk.")
        # Entities beyond entities_max: when they come back they start anew.
        self.entities_forgotten = self._counter("entities_forgotten", "Entities forgotten for want of room.")

        # The results are the same, the speed is not: micro-batches are halved, entities spill sooner.
        self.memory_shortages = self._counter("memory_shortages", "Times the device had no memory for a micro-batch or for more entities.")

        # 0 after a settings file that was refused: the old settings are in force.
        self.config_last_reload_successful = self._gauge("config_last_reload_successful", "Whether the last reload of the settings was taken.")
        # 0 while nothing was reloaded.
        self.config_last_reload_success_timestamp_seconds = self._gauge(
            "config_last_reload_success_timestamp_seconds", "When a reload of the settings was last taken, seconds since 1970 UTC."
        )
        # What is running.
        build = Info(PREFIX + "build", "Versions.", registry=self.registry)

        # Closed sets stand at 0 from the start, so that a first increase is seen as one.
        for reason in Reason:
            self.dead_letter_records.labels(reason.value)
        for transition in Transition:
            self.alerts.labels(transition.value)
        self.config_reloaded(is_successful=True)
        build.info({"version": version("anomaly-daemon"), "python": platform.python_version()})

    def config_reloaded(self, is_successful: bool, now_us: int = 0) -> None:
        """Take note of a reload; now_us: of one that was taken."""
        self.config_last_reload_successful.set(is_successful)
        if now_us:
            self.config_last_reload_success_timestamp_seconds.set(now_us / 1e6)

    def facts(self) -> dict[str, float]:
        """Every counter and gauge by its name without prefix and `_total`, summed over its labels: for the closing log line."""
        facts: dict[str, float] = {}
        for family in self.registry.collect():
            if family.type in _COUNTED_TYPES:
                total = float(sum(sample.value for sample in family.samples if not sample.name.endswith("_created")))
                facts[family.name.removeprefix(PREFIX)] = int(total) if total.is_integer() else total
        return facts

    @staticmethod
    def by_label(counter: Counter) -> dict[str, int]:
        """What a counter with one label stands at, by that label; nothing that stands at 0."""
        samples = [sample for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")]
        return {next(iter(sample.labels.values())): int(sample.value) for sample in samples if sample.value}

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(PREFIX + name, meaning, registry=self.registry)
