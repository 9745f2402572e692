"""`incidents`: lists or follows what was published, one row per incident, read back from the alerts topic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_daemon.commands.published import Incident, Incidents, PublishedAlert, Wanted
from anomaly_daemon.domain.entity import EntityMatcher
from anomaly_daemon.domain.errors import InputError, TopicError
from anomaly_daemon.domain.ports import Source
from anomaly_daemon.pipeline.topic_reader import TopicReader
from anomaly_daemon.settings import load
from anomaly_daemon.telemetry import logging

PIPE_COLUMNS, WIDE_COLUMNS = 200, 150
PLOT_COLUMNS, PLOT_LINES, PLOT_NAME_MAX = 78, 12, 44
SEVERITY_STYLES = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}


def run(options: argparse.Namespace) -> int:
    """List, and follow where asked."""
    from anomaly_daemon.wiring import open_source, open_topics

    settings = load(options.config, options.assignments)
    logging.configure("warning", options.log_format or settings.logging.format)
    if options.limit < 1:
        raise InputError(f"--limit {options.limit}: list at least one")
    wanted = Wanted(EntityMatcher(options.entity).compiled().match, options.is_open_only, _parse_time(options.not_before))
    topic = settings.output.alerts_topic
    topics = open_topics(settings)
    try:
        if topic not in topics.partitions([topic]):
            raise TopicError(f"{settings.log}: no topic {topic}; nothing was published there, or output.alerts_topic names another")
    finally:
        topics.close()
    source = open_source(settings, topics=(topic,))
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    try:
        return show(source, topic, wanted, options, console)
    finally:
        source.close()


def show(source: Source, topic: str, wanted: Wanted, options: argparse.Namespace, console: Console) -> int:
    """Print what the topic holds now; then, where `options.follow`, what comes, until interrupted."""
    reader, incidents = TopicReader(source), Incidents(options.limit)
    for record in chain.from_iterable(reader.to_end()):
        incidents.add(record)
    listed = incidents.listed(wanted)
    if options.format == "json":
        for incident in listed:
            print(as_json_line(incident.latest_value), file=console.file)
    else:
        _print_listed(listed, incidents, topic, console, is_plotted=options.plot)
    if incidents.foreign:
        print(f"{topic}: {incidents.foreign} records are no alerts of schema 1.0 and were passed over", file=sys.stderr)
    if incidents.left_out:
        print(f"{topic}: {incidents.left_out} older incidents are left out; --limit shows more", file=sys.stderr)
    try:
        while options.follow:
            _print_next(reader, incidents, wanted, options.format, console)
    except KeyboardInterrupt:
        return 0
    return 0


def as_json_line(value: bytes) -> str:
    """An alert as published but for `detected_at`, the one field in which another run over the same records differs."""
    body = msgspec.json.decode(value)
    body.pop("detected_at", None)
    return msgspec.json.encode(body).decode()


def as_table(incidents: Sequence[Incident], columns: int) -> Table:
    """One row per incident; leading feature and sentence are those of its strongest alert, under it how it ended.

    columns: of the terminal; in a narrow one what belongs together shares a cell, a line each.
    """
    table = Table(caption="times in UTC", caption_justify="left", show_lines=columns < WIDE_COLUMNS)
    if columns < WIDE_COLUMNS:
        for heading in ("started\nended\npeak, records", "entity\nseverity, kind\nleading"):
            table.add_column(heading, overflow="fold")
        table.add_column("what happened", ratio=1)
    else:
        for heading in ("started", "ended", "entity", "severity", "kind"):
            table.add_column(heading)
        for heading in ("peak", "records"):
            table.add_column(heading, justify="right")
        table.add_column("leading")
        table.add_column("what happened", ratio=1)
    for incident in incidents:
        started, ended, entity, severity, kind, peak, records, leading, sentence = cells = _cells(incident)
        if columns < WIDE_COLUMNS:
            when = _lines(started, ended, Text(", ").join(cell for cell in (peak, records) if cell))
            cells = (when, _lines(entity, Text.assemble(severity, " ", kind), leading), sentence)
        table.add_row(*cells)
    return table


def _cells(incident: Incident) -> tuple[Text, ...]:
    """Started, ended, entity, severity, kind, peak score, observations, leading feature, sentences."""
    latest, strongest = incident.latest, incident.strongest
    leading = "" if strongest.leading is None else strongest.features[strongest.leading].feature
    return (
        Text(_time(latest.starts_at)),
        Text("open" if latest.ends_at is None else _time(latest.ends_at)),
        printable(latest.entity),
        Text(latest.severity, style=SEVERITY_STYLES[latest.severity]),
        printable(latest.kind),
        Text("" if latest.peak is None else f"{latest.peak.anomaly_score:.3f}"),
        Text("" if latest.observations is None else str(latest.observations)),
        printable(leading),
        _lines(*map(_sentence, [strongest] if latest is strongest or latest.status == "firing" else [strongest, latest])),
    )


def _sentence(alert: PublishedAlert) -> Text:
    return printable(alert.explanation.message.removeprefix(f"{alert.entity}: "))


def _lines(*cells: Text) -> Text:
    return Text("\n").join(cells)


def worst(incidents: Sequence[Incident]) -> Incident:
    """The most severe of those that have a score, of these the one with the highest, of these the first; the first of all where none has."""
    return max(incidents, key=lambda one: (one.latest.peak is not None, one.latest.severity_number, _peak(one.latest)))


def _peak(alert: PublishedAlert) -> float:
    return 0.0 if alert.peak is None else alert.peak.anomaly_score


def render_worst(incident: Incident) -> str:
    """A plot of the leading feature in the window of the incident's strongest alert, actual against reconstructed; no colours."""
    import plotext

    alert = incident.strongest
    column = alert.leading
    actual, rebuilt = ([], []) if column is None else _series(alert, column)
    if column is None or not actual:
        return f"{plain(alert.entity)}: the alert shows no window to draw"
    figure = plotext.figure
    figure.clear()
    figure.plot_size(PLOT_COLUMNS, PLOT_LINES)
    for points, marker, is_line in ((rebuilt, "·", True), (actual, "●", False)):
        if points:
            figure.draw(figure.signal(*map(list, zip(*points, strict=True)), marker=marker).lines(is_line))
    values = [value for _, value in actual + rebuilt]
    margin = 0.05 * (max(values) - min(values)) or 0.5 * abs(values[0]) or 1.0
    low, high = min(values) - margin, max(values) + margin
    ticks = [low, (low + high) / 2, high]
    figure.ruler("y").lim(low, high).ticks(ticks, [f"{tick:.4g}" for tick in ticks])
    first = min(position for position, _ in actual + rebuilt)
    figure.ruler("x").ticks([first, 0], [str(first), "0"])
    name = plain(f"{alert.entity}: {alert.features[column].feature}")
    figure.title(f"{name if len(name) <= PLOT_NAME_MAX else name[: PLOT_NAME_MAX - 1] + '…'}   ● actual  · reconstructed")
    figure.label("observations before the alert's own", "x")
    return "\n".join(line.rstrip() for line in figure.build().string(colorless=True).splitlines())


def _series(alert: PublishedAlert, column: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Actual and reconstructed points of a feature, each with its position before the alert's record, 0 or less."""
    actual = [(-point.steps_back, value) for point in alert.window if (value := point.actual[column]) is not None]
    rebuilt = [(-point.steps_back, value) for point in alert.window if (value := point.reconstructed[column]) is not None]
    return actual, rebuilt


def _print_listed(listed: Sequence[Incident], incidents: Incidents, topic: str, console: Console, *, is_plotted: bool) -> None:
    if not listed:
        known = len(incidents.by_id)
        console.print(f"None of the {known} incidents in topic {topic} fits." if known else f"No incidents in topic {topic}.")
        return
    console.print(as_table(listed, console.width))
    if is_plotted:
        console.print(Text(render_worst(worst(listed))))


def _print_next(reader: TopicReader, incidents: Incidents, wanted: Wanted, form: str, console: Console) -> None:
    """The alerts of one poll, one line each."""
    for record in reader.poll():
        alert = incidents.add(record)
        if alert is None or not wanted.fits(alert):
            continue
        if form == "json":
            print(as_json_line(record.value or b""), file=console.file, flush=True)
        else:
            style = SEVERITY_STYLES[alert.severity]
            words = Text(f"{alert.severity:8}", style=style)
            console.print(Text(_time(alert.data_end_time)), words, printable(alert.explanation.message), soft_wrap=True)


def _parse_time(text: str | None) -> datetime | None:
    """An ISO 8601 time, UTC unless it says otherwise. Raises InputError."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--from {text}: write an ISO 8601 time, such as 2024-01-31 or 2024-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str) -> Text:
    """A name out of a record, for a table: no control characters, no markup."""
    return Text(plain(text))


def plain(text: str) -> str:
    """Without control characters: a name out of a record must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
