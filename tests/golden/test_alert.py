from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from anomaly_daemon.domain.records import Alert, FeatureReading, Transition
from anomaly_daemon.incidents.alerts import alert_message
from anomaly_daemon.incidents.notices import Notice, notice_alert, silence_notice
from anomaly_daemon.incidents.silence import Heard, SilenceTurn
from tests.alert_cases import CONTEXT, READINGS, SECOND_US, START_US, alert, closed, opened, validate

SILENT = SilenceTurn("silent", "pump-3", 0, START_US + 720 * SECOND_US, Heard(START_US, 41))
OUT_OF_RANGE = Notice(
    transition=Transition.OPENED,
    kind="data_quality",
    track="quality",
    incident_id="8c3f0a1b2c3d4e5f",
    sequence=1,
    entity="pump-7",
    offset=1042,
    time_us=START_US,
    since_us=START_US,
    starts_at_us=START_US,
    ends_at_us=None,
    first_offset=1042,
    last_offset=1042,
    observations=4,
    message="pump-7: pressure 17 cannot be: it lies outside 0 to 16.",
    reasons=("out_of_range: 3 of 4 records",),
    features=(FeatureReading("pressure", 17.0, None, 0.0, 16.0, 1.0, False),),
)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("alert_opened", alert(opened(suppressed=1, suppression_rule="cooldown 10m"))),
        ("alert_closed", alert(closed())),
        ("alert_silence", notice_alert(silence_notice(SILENT, 99, "plant", READINGS), CONTEXT, READINGS)),
        ("alert_data_quality", notice_alert(OUT_OF_RANGE, CONTEXT, READINGS)),
    ],
)
def test_published_alert_reads_as_the_golden_one(name: str, published: Alert) -> None:
    message = alert_message(published, "alerts", None)

    validate(published.body)
    assert msgspec.json.format(message.value or b"", indent=2).decode() + "\n" == Path(__file__).with_name(f"{name}.json").read_text()
