from __future__ import annotations

import argparse
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.cli import main
from anomaly_daemon.commands.incidents import render_worst, show, worst
from anomaly_daemon.commands.published import Incidents, Wanted, read_incidents
from anomaly_daemon.domain.errors import LogUnavailable
from anomaly_daemon.domain.records import Batch, Bounds, ChangeKind, Message, Offset, Partition, PartitionChange, Record, WindowPoint
from anomaly_daemon.incidents.alerts import Explanation, alert_message
from anomaly_daemon.incidents.incident import Turn
from anomaly_daemon.incidents.notices import notice_alert, silence_notice
from anomaly_daemon.incidents.silence import Event, Heard, SilenceTurn
from tests.alert_cases import CONTEXT, EXPLANATION, READINGS, SECOND_US, START_US, alert, closed, judged, opened, updated

NOW_US = 1_767_225_600_000_000


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The verb sets up logging to this test's standard error, which is closed after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def published(turn: Turn, detected_at_us: int | None = NOW_US, explanation: Explanation = EXPLANATION) -> Message:
    return alert_message(alert(turn, explanation), "alerts", detected_at_us)


class AlertsTopic:
    """A source over messages in memory, dealt out to the partitions in turn; a poll that would wait for ever is a Ctrl-C.

    step:          records a poll.
    empty_offsets: offsets after the last record that hold none, as a transaction's marker does.
    """

    def __init__(
        self, messages: Sequence[Message], later: Sequence[Message] = (), partitions: int = 2, step: int = 2, empty_offsets: int = 0
    ) -> None:
        self._partitions = [Partition("alerts", number) for number in range(partitions)]
        self._records: dict[Partition, list[Record]] = {partition: [] for partition in self._partitions}
        self._later, self._step, self._empty_offsets = list(later), step, empty_offsets
        self._append(messages)
        self._positions: dict[Partition, Offset] = {}
        self._is_assigned = False

    def _append(self, messages: Sequence[Message]) -> None:
        for position, message in enumerate(messages):
            partition = self._partitions[position % len(self._partitions)]
            log = self._records[partition]
            log.append(Record(partition, len(log), 0, message.key, message.value, message.headers))

    def poll(self, timeout_s: float) -> Batch:  # noqa: ARG002 - the seam's argument; nothing here waits
        if not self._is_assigned:
            self._is_assigned = True
            return Batch(changes=(PartitionChange(ChangeKind.ASSIGNED, tuple(self._partitions)),))
        for partition, position in self._positions.items():
            records = self._records[partition][position : position + self._step]
            if records:
                self._positions[partition] += len(records)
                return Batch(records)
        if self._later:
            self._append(self._later)
            self._later = []
            return Batch()
        raise KeyboardInterrupt

    def lose(self) -> None:
        """The connection broke: every partition comes anew."""
        self._is_assigned, self._positions = False, {}

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:  # noqa: ARG002 - the seam's argument
        return {}

    def bounds(self, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
        return {partition: Bounds(0, len(self._records[partition]) + self._empty_offsets) for partition in partitions}

    def offsets_at(self, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, Offset]:  # noqa: ARG002 - the seam's argument
        return dict.fromkeys(partitions, 0)

    def positions(self) -> dict[Partition, Offset]:
        return {
            partition: position + (self._empty_offsets if position == len(self._records[partition]) else 0)
            for partition, position in self._positions.items()
        }

    def seek(self, partition: Partition, offset: Offset) -> None:
        self._positions[partition] = offset

    def close(self) -> None: ...


class SilentTopic(AlertsTopic):
    """Promises a record that never comes."""

    def poll(self, timeout_s: float) -> Batch:
        return super().poll(timeout_s) if not self._is_assigned else Batch()


def shown(source: AlertsTopic, form: str = "table", wanted: Wanted | None = None, columns: int = 200, **options: object) -> str:
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    chosen = argparse.Namespace(**{"format": form, "follow": False, "limit": 1000, "plot": False, **options})
    assert show(source, "alerts", wanted or Wanted(), chosen, console) == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lasting(entity: str, incident_id: str, start_s: int = 0) -> list[Turn]:
    """An incident of five minutes, from opening to close."""
    starts_at_us = START_US + start_s * SECOND_US
    same = {"entity": entity, "incident_id": incident_id, "starts_at_us": starts_at_us}
    return [
        opened(**same, at=judged(start_s)),
        updated(**same, at=judged(start_s + 300)),
        closed(**same, at=judged(start_s + 320, anomaly_score=0.2), ends_at_us=starts_at_us + 310 * SECOND_US),
    ]


THREE = [
    *(published(turn) for turn in lasting("pump-8", "b" * 16, start_s=60)),
    published(opened(entity="pump-7", incident_id="a" * 16)),
    *(published(turn) for turn in lasting("valve-1", "c" * 16, start_s=3600)),
]


def test_table_has_one_row_per_incident_by_start() -> None:
    lines = [line for line in shown(AlertsTopic(THREE)).splitlines() if line.startswith("│ 2024-01-01")]

    assert [line.split("│")[3].strip() for line in lines] == ["pump-7", "pump-8", "valve-1"]
    assert [line.split("│")[2].strip() for line in lines] == ["open", "2024-01-01 00:06:10", "2024-01-01 01:05:10"]
    assert [line.split("│")[7].strip() for line in lines] == ["4", "324", "324"]


def test_narrow_terminal_shows_every_field_uncut() -> None:
    lines = shown(AlertsTopic(THREE), columns=80).splitlines()

    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    row = [line for line in lines if "2024-01-01 00:06:10" in line or "0.831, 324" in line]
    assert [line.split("│")[1].strip() for line in row] == ["2024-01-01 00:06:10", "0.831, 324", "0.831, 324"]
    assert [line.split("│")[2].strip() for line in row] == ["high collective", "pressure", "pressure"]


def test_row_of_a_closed_incident_still_says_what_happened() -> None:
    text = shown(AlertsTopic([published(turn) for turn in lasting("pump-8", "b" * 16)]), columns=260)

    assert "pressure 4.2 where 3.1 was expected (2.8 to 3.4), the largest of 2 unusual features" in text
    assert "normal again after 255 anomalous of 324 observations" in text


def test_row_of_a_silence_that_is_over_says_how_it_ended() -> None:
    turns: list[tuple[Event, int]] = [("silent", 5), ("returned", 12)]
    notices = [
        silence_notice(SilenceTurn(event, "pump-3", 0, START_US + minutes * 60 * SECOND_US, Heard(START_US, 41)), 99, "plant", READINGS)
        for event, minutes in turns
    ]

    text = shown(AlertsTopic([alert_message(notice_alert(one, CONTEXT, READINGS), "alerts", None) for one in notices]))

    assert [words in text for words in ("silent for 5 min", "back after 12 min of silence.")] == [True, True]


def test_json_is_the_latest_alert_of_each_incident_without_detected_at() -> None:
    lines = [json.loads(line) for line in shown(AlertsTopic(THREE), "json").splitlines()]

    assert [(line["entity"], line["sequence"], line["status"]) for line in lines] == [
        ("pump-7", 1, "firing"),
        ("pump-8", 3, "resolved"),
        ("valve-1", 3, "resolved"),
    ]
    assert all("detected_at" not in line for line in lines)


def test_json_does_not_depend_on_partitions_batches_and_publication_time() -> None:
    again = [published(turn, None) for turn in [*lasting("valve-1", "c" * 16, 3600), opened(incident_id="a" * 16), *lasting("pump-8", "b" * 16, 60)]]

    assert shown(AlertsTopic(again, partitions=1, step=100), "json") == shown(AlertsTopic(THREE, partitions=3, step=1), "json")


def test_reading_stops_at_the_end_although_the_last_offsets_hold_no_record() -> None:
    assert len(read_incidents(AlertsTopic(THREE, empty_offsets=1)).by_id) == 3


def test_log_that_falls_silent_before_the_end_is_an_error_not_a_short_list() -> None:
    with pytest.raises(LogUnavailable, match="before the end of the topic"):
        read_incidents(SilentTopic(THREE))


def test_empty_topic_says_so() -> None:
    assert shown(AlertsTopic([])) == "No incidents in topic alerts.\n"
    assert shown(AlertsTopic([]), "json") == ""


def test_filters_leave_only_what_was_asked_for() -> None:
    def entities(wanted: Wanted) -> list[str]:
        return [json.loads(line)["entity"] for line in shown(AlertsTopic(THREE), "json", wanted).splitlines()]

    assert entities(Wanted(is_open_only=True)) == ["pump-7"]
    assert entities(Wanted(matches=lambda entity: entity.startswith("valve"))) == ["valve-1"]
    assert entities(Wanted(not_before=datetime(2024, 1, 1, 1, tzinfo=UTC))) == ["pump-7", "valve-1"]
    assert shown(AlertsTopic(THREE), wanted=Wanted(matches=lambda _: False)) == "None of the 3 incidents in topic alerts fits.\n"


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        b"",
        b"\xff\xff",
        b"[]",
        b'{"schema_version": "1.0"}',
        (published(opened()).value or b"").replace(b'"1.0"', b'"2.0"', 1),
        (published(opened()).value or b"")[:-20],
        (published(opened()).value or b"").replace(b".250Z", b".250"),
        (published(opened()).value or b"").replace(b'"actual":[3.1,', b'"actual":['),
    ],
)
def test_foreign_and_damaged_records_are_passed_over_and_told(foreign: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(AlertsTopic([Message("alerts", None, foreign), *THREE]), "json")

    assert text == shown(AlertsTopic(THREE), "json")
    assert capsys.readouterr().err == "alerts: 1 records are no alerts of schema 1.0 and were passed over\n"


def test_the_newest_incidents_are_kept_when_there_are_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    many = [published(opened(incident_id=f"{start_s:016x}", starts_at_us=START_US + start_s * SECOND_US)) for start_s in range(20)]

    lines = shown(AlertsTopic(many), "json", limit=3).splitlines()

    assert [json.loads(line)["incident_id"] for line in lines] == [f"{start_s:016x}" for start_s in (17, 18, 19)]
    assert "17 older incidents are left out; --limit shows more" in capsys.readouterr().err


@pytest.mark.parametrize("partitions", [1, 3])
def test_incidents_left_out_are_counted_once_however_many_alerts_each_has(partitions: int, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [lasting("pump-8", f"{number:016x}", start_s=number) for number in range(21)]
    many = [published(one[part]) for part in range(3) for one in turns]

    lines = shown(AlertsTopic(many, partitions=partitions), "json", limit=3).splitlines()

    assert [(json.loads(line)["incident_id"], json.loads(line)["status"]) for line in lines] == [
        (f"{number:016x}", "resolved") for number in (18, 19, 20)
    ]
    assert "18 older incidents are left out" in capsys.readouterr().err


def test_follow_prints_each_alert_as_it_comes_until_interrupted() -> None:
    source = AlertsTopic([], later=[published(turn) for turn in lasting("pump-8", "b" * 16)], partitions=1)

    lines = shown(source, follow=True).splitlines()

    assert lines[0] == "No incidents in topic alerts."
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "2024-01-01 00:00:00 high     pump-8",
        "2024-01-01 00:05:00 high     pump-8, still anomalous after 304 observations",
        "2024-01-01 00:05:20 high     pump-8",
    ]


def test_followed_json_is_one_alert_a_line() -> None:
    source = AlertsTopic([], later=[published(turn) for turn in lasting("pump-8", "b" * 16)], partitions=1)

    assert [json.loads(line)["sequence"] for line in shown(source, "json", follow=True).splitlines()] == [1, 2, 3]


def test_partition_that_comes_anew_goes_on_where_it_was() -> None:
    class Breaking(AlertsTopic):
        has_broken = False

        def poll(self, timeout_s: float) -> Batch:
            if self._later and not self.has_broken and self._positions and all(self._positions.values()):
                self.has_broken = True
                self.lose()
            return super().poll(timeout_s)

    source = Breaking(THREE, later=[published(opened(incident_id="d" * 16))], partitions=2)

    followed = shown(source, "json", follow=True).splitlines()

    assert source.has_broken
    assert [json.loads(line)["incident_id"][0] for line in followed] == ["a", "b", "c", "d"]


def test_names_cannot_steer_the_terminal() -> None:
    text = shown(AlertsTopic([published(opened(entity="\x1b[2Jpump[red]\n7"))]), plot=True)

    assert "\x1b" not in text
    assert "�[2Jpump[red]�7" in text


def test_worst_is_the_most_severe_then_the_highest_scoring() -> None:
    incidents = Incidents(10)
    cases = {"a": ("low", 13, 0.99), "b": ("high", 17, 0.8), "c": ("high", 17, 0.9)}
    for position, (letter, (severity, number, score)) in enumerate(cases.items()):
        message = published(opened(incident_id=letter * 16, severity=severity, severity_number=number, peak_score=score))
        incidents.add(Record(Partition("alerts", 0), position, 0, message.key, message.value))

    assert worst(incidents.listed(Wanted())).latest.incident_id == "c" * 16


def plotted(window: Sequence[WindowPoint]) -> list[str]:
    message = published(opened(), explanation=replace(EXPLANATION, window=tuple(window)))
    incidents = Incidents(10)
    incidents.add(Record(Partition("alerts", 0), 0, 0, message.key, message.value))
    return render_worst(worst(incidents.listed(Wanted()))).splitlines()


def points(actual: Sequence[float | None], rebuilt: Sequence[float | None]) -> list[WindowPoint]:
    steps = range(len(actual) - 1, -1, -1)
    return [WindowPoint(step, (one, 0.0, 0.0), (other, 0.0, 0.0)) for step, one, other in zip(steps, actual, rebuilt, strict=True)]


def test_plot_shows_the_leading_feature_rise_from_its_reconstruction() -> None:
    lines = plotted(points([1.0] * 11 + [4.0] * 5, [1.0] * 12 + [None] * 4))

    assert len(lines) == 12
    assert max(map(len, lines)) <= 78
    assert "pump-7: pressure" in lines[0]
    assert [sum(line.count("●") for line in half) for half in (lines[1:5], lines[5:10])] == [5, 11]
    assert not any("·" in line for line in lines[1:5])
    assert lines[-2].split() == ["-15", "0"]


@pytest.mark.parametrize("actual", [[1.0, 1.0], [0.0], [None, 1.5e-6], [-1e300, 1e300], [1e-9, 2e-9]])
def test_plot_takes_any_numbers(actual: list[float | None]) -> None:
    lines = plotted(points(actual, [None] * len(actual)))

    assert len(lines) == 12
    assert sum(line.count("●") for line in lines[1:]) == sum(value is not None for value in actual)


def test_alert_without_a_window_says_so_instead_of_a_plot() -> None:
    assert plotted([]) == ["pump-7: the alert shows no window to draw"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "yesterday"], "--from yesterday: write an ISO 8601 time"),
        (["--limit", "0"], "--limit 0"),
        ([], "no topic alerts; nothing was published there"),
    ],
)
def test_wrong_arguments_and_a_missing_topic_are_told_with_the_remedy(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["incidents", "--set", f"log=sqlite:///{tmp_path}/topics.db", *arguments])

    assert code == 2
    assert said in capsys.readouterr().err


def test_verb_lists_what_the_embedded_log_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topics = SqliteTopics(tmp_path / "topics.db", SystemClock())
    topics.create("alerts", 2)
    topics.append(THREE)
    topics.close()
    common = ["incidents", "--set", f"log=sqlite:///{tmp_path}/topics.db"]

    assert main([*common, "--format", "json", "--from", "2024-01-01T01:00", "--entity", "valve-*"]) == 0
    assert [json.loads(line)["entity"] for line in capsys.readouterr().out.splitlines()] == ["valve-1"]
    assert main([*common, "--plot"]) == 0
    text = capsys.readouterr().out
    assert all(entity in text for entity in ("pump-7", "pump-8", "valve-1"))
    assert "● actual" in text
