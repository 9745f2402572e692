from __future__ import annotations

from pathlib import Path

import msgspec

from anomaly_daemon.incidents.alerts import alert_message
from tests.alert_cases import alert, opened

GOLDEN = Path(__file__).with_name("alert_opened.json")


def test_published_alert_reads_as_the_golden_one() -> None:
    message = alert_message(alert(opened(suppressed=1, suppression_rule="cooldown 10m")), "alerts", None)

    assert msgspec.json.format(message.value or b"", indent=2).decode() + "\n" == GOLDEN.read_text()
