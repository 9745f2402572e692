"""What a replay must give, whichever log it reads: the bytes that live gave."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from anomaly_daemon import cli
from tests.end_to_end.harness import Site


def rows(path: Path) -> list[dict[str, object]]:
    """An export in a fixed order; null where nothing is known, so that rows can be compared."""
    table = pq.read_table(path).sort_by([("topic", "ascending"), ("partition", "ascending"), ("offset", "ascending")])
    return list(table.to_pylist())


def replayed_alerts(path: Path) -> list[dict[str, object]]:
    """Alerts of a replay, as `Site.alerts` gives those of live."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return sorted(found, key=lambda alert: (str(alert["incident_id"]), int(str(alert["sequence"]))))


def as_replay(alerts: list[dict[str, object]]) -> list[dict[str, object]]:
    """Live alerts but for what may differ: the mode. `detected_at` is null in both."""
    return [{**alert, "mode": "replay"} for alert in alerts]


def replay_equals_live(site: Site) -> None:
    """Run, then replay all of it, a part after a warm-up, and a part from a checkpoint, in batches of other sizes."""
    folder = site.folder
    site.run_to_end(120, "--export", str(folder / "live.parquet"))
    live, live_alerts = rows(folder / "live.parquet"), as_replay(site.alerts())
    assert len(live_alerts) > 3

    cut = ("--set", "input.batch_records_max=23")
    whole = ("--export", str(folder / "whole.parquet"), "--alerts", str(folder / "whole.jsonl"))
    assert site.replay(*whole, *cut) == 0, (folder / "replay.log").read_text()[-3000:]
    assert rows(folder / "whole.parquet") == live
    assert replayed_alerts(folder / "whole.jsonl") == live_alerts

    differs = ("diff", "-c", str(folder / "settings.yaml"), *(word for one in site.assignments for word in ("--set", one)), "--fail-on-change")
    assert cli.main([*differs, "live", str(folder / "whole.parquet")]) == 0
    assert cli.main([*differs, str(folder / "live.parquet"), str(folder / "whole.jsonl")]) == 0

    half = 90
    part = ("--from", str(half), "--warm-up", "0", "--export", str(folder / "part.parquet"), "--alerts", str(folder / "part.jsonl"))
    assert site.replay(*part, *cut) == 0, (folder / "replay.log").read_text()[-3000:]
    assert rows(folder / "part.parquet") == [row for row in live if int(str(row["offset"])) >= half]
    later = [alert for alert in live_alerts if int(alert["source_records"]["last_offset"]) >= half]  # type: ignore[index]
    assert {str(alert["incident_id"]) for alert in replayed_alerts(folder / "part.jsonl")} <= {str(alert["incident_id"]) for alert in live_alerts}
    assert all(alert in live_alerts for alert in replayed_alerts(folder / "part.jsonl"))
    assert len(later) >= len(replayed_alerts(folder / "part.jsonl")) > 0
