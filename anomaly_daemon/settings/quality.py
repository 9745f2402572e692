"""When a record is at fault as a record, whatever its values say."""

from __future__ import annotations

from pydantic import Field

from anomaly_daemon.settings.section import Section
from anomaly_daemon.settings.values import Duration, LimitOrNone, spelled


class Quality(Section):
    """Faults of records; each limit that is none is not watched. What a sensor can show stands at the feature: `possible`."""

    clock_ahead: Duration | None = spelled(
        "5m",
        "clock_skew: event time later than the record's own timestamp by more than this, where a field tells it. Such a record moves no watermark.",
    )
    late: Duration | None = Field(
        None, description="late: event time behind the partition's watermark by more than this. For topics whose entities report side by side."
    )
    stuck_after: LimitOrNone = Field(
        None,
        description=(
            "stuck: a reading (kinds number, asinh, log, unless context) repeats its value exactly for longer than this, and ten times at least. "
            "Watched after warm-up, and only where the entity's reading changes and never stood that long before: no constants, no setpoints."
        ),
    )
