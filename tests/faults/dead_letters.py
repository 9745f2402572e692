"""Dead letters: what cannot be written is not passed over, and what was written comes back once it is mended."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path

from anomaly_daemon import wiring
from anomaly_daemon.cli import main
from anomaly_daemon.domain.records import Record
from tests.end_to_end.harness import Site, kill, make_site, wait_until
from tests.faults.bad_input import without_offsets
from tests.faults.embedded_log import committed_offsets
from tests.faults.serving import serve
from tests.faults.verdict import Verdict
from tests.small import stream

_PARTITIONS = 4
_QUOTED = stream(5, 8, 900)


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """Each in a folder of its own."""
    for scenario in (missing_topic, mended_records, mended_settings):
        with tempfile.TemporaryDirectory() as name:
            yield scenario(Path(name))


def missing_topic(folder: Path) -> Verdict:
    """The dead-letter topic goes away under a live daemon: it stops before the first record that belongs there, names it, and loses none."""
    good = stream(5, 8, 400)
    site = make_site(folder / "site", f"sqlite:///{folder}/topics.db", good[:300], partitions=1)
    topic, failures = site.settings.output.dead_letter_topic, []
    process = site.daemon()
    wait_until(process, lambda: committed_offsets(folder / "topics.db") == 300, site)
    with closing(sqlite3.connect(folder / "topics.db", timeout=30, isolation_level=None)) as connection:
        connection.execute("DELETE FROM partitions WHERE topic_id = (SELECT id FROM topics WHERE name = ?)", (topic,))
        connection.execute("DELETE FROM topics WHERE name = ?", (topic,))
    site.append([b"{broken"])
    site.fill(good[300:])
    process.join(120)
    if process.exitcode != 2:
        failures.append(f"it ended with {process.exitcode}")
        kill(process)
    if f"no topic {topic}" not in site.log() or "Traceback" in site.log():
        failures.append(f"not told which topic is missing: {site.log_tail()}")
    if committed_offsets(folder / "topics.db") > 300:
        failures.append("offsets were committed beyond the record that could not be dead-lettered")
    site.run_to_end()  # makes the topic again
    if [(key, value) for key, value, _ in site.dead_letters()] != [(None, b"{broken")]:
        failures.append("the record is not in the dead letters now")
    return Verdict("the dead-letter topic taken away from a live daemon", 1, tuple(failures), "stopped with exit 2 before the record, went on after")


def mended_records(folder: Path, bootstrap: str | None = None) -> Verdict:
    """Numbers sent in quotes: dumped, mended in the file, loaded, judged; partition and time as they had been.

    bootstrap: on a broker, whose twin is on an embedded log.
    """
    name = f"faults-{uuid.uuid4().hex[:12]}"
    quoted = [_with_value(one, _spoiled(one)) for one in _QUOTED[600:]]
    site = _site(folder, "site", [*_QUOTED[:600], *quoted], group=name, log=bootstrap and f"kafka://{bootstrap}")
    serve(site)
    rejected = len(site.dead_letters())
    _bring_back(site, folder / "dead-letters.jsonl", lambda text: text.replace('\\"flow\\": \\"1.5\\"', '\\"flow\\": 1.5'))
    serve(site)
    twin = _site(folder, "twin", [*_QUOTED[:600], *(_with_value(one, _mended(one)) for one in _QUOTED[600:])], group=name)
    serve(twin)
    failures = _differences(_told(site), _told(twin))
    if (rejected, len(site.dead_letters())) != (len(quoted), len(quoted)):
        failures.append(f"{rejected} dead letters, then {len(site.dead_letters())}, of {len(quoted)} spoiled records")
    return Verdict(
        f"records with numbers in quotes, mended and loaded again{' through Kafka' if bootstrap else ''}",
        rejected,
        tuple(failures),
        f"{len(twin.alerts())} alerts as if never spoiled",
    )


def mended_settings(folder: Path) -> Verdict:
    """Times taken for milliseconds: nothing could be judged; the setting mended, all dead letters loaded as they are.

    Under the mended settings the rejected records themselves are part of the state, silently, for the topic still holds them; what was loaded comes
    after them: as to a daemon that had judged them and then saw all once more.
    """
    site = _site(folder, "site", _QUOTED, "record.time={path: time, format: ms}")
    serve(site)
    rejected, alerts = len(site.dead_letters()), len(site.alerts())
    mended = Site(site.folder, site.assignments[:-1])
    _bring_back(mended, folder / "dead-letters.jsonl", lambda text: text)
    serve(mended)
    twin = _site(folder, "twin", _QUOTED)
    serve(twin)
    first = _told(twin)
    twin.fill(_QUOTED)
    serve(twin)
    failures = _differences(_told(mended), _without(_told(twin), first))
    if (rejected, alerts) != (len(_QUOTED), 0):
        failures.append(f"{rejected} dead letters and {alerts} alerts before the setting was mended")
    return Verdict(
        "a wrong time format, mended; all dead letters loaded again",
        rejected,
        tuple(failures),
        f"{len(mended.alerts())} alerts as of records that came twice",
    )


def _site(folder: Path, name: str, records: Sequence[Record], *assignments: str, group: str = "detector", log: str | None = None) -> Site:
    """Four partitions of readings, but one of dead letters: what comes back must find its partition. log: an embedded one by default."""
    log, topic = log or f"sqlite:///{folder}/{name}.db", f"{group}.readings"
    site = make_site(folder / name, log, (), partitions=1, topic=f"{group}.elsewhere", group=group, assignments=("input.batch_records_max=256",))
    site = Site(site.folder, (*site.assignments, f"input.topics=[{topic}]", f"topics.partitions={_PARTITIONS}", *assignments))
    with closing(wiring.open_topics(site.settings)) as topics:
        topics.create(topic, _PARTITIONS)
    site.fill(records)
    return site


def _bring_back(site: Site, file: Path, mend: Callable[[str], str]) -> None:
    """As a person would: dump, edit, load."""
    common = ["-c", str(site.folder / "settings.yaml"), *(word for one in site.assignments for word in ("--set", one))]
    with redirect_stdout(StringIO()):
        assert main(["dump", *common, "--topic", site.settings.output.dead_letter_topic, "--output", str(file)]) == 0
        file.write_text(mend(file.read_text()))
        assert main(["load", *common, "--topic", site.settings.input.topics[0], str(file)]) == 0


def _differences(found: list[str], wanted: list[str]) -> list[str]:
    """Between what two sites announced, but for what names offsets."""
    return [] if found == wanted and wanted else [f"{len(found)} alerts, {len(wanted)} of records that never were dead letters, or other ones"]


def _without(told: list[str], before: list[str]) -> list[str]:
    return sorted((Counter(told) - Counter(before)).elements())


def _told(site: Site) -> list[str]:
    bodies = [without_offsets(alert) for alert in site.alerts()]
    return sorted(json.dumps(body, sort_keys=True) for body in bodies)


def _spoiled(one: Record) -> bytes:
    return json.dumps(json.loads(one.value or b"") | {"flow": "1.5"}).encode()


def _mended(one: Record) -> bytes:
    return json.dumps(json.loads(one.value or b"") | {"flow": 1.5}).encode()


def _with_value(one: Record, value: bytes) -> Record:
    return Record(one.partition, one.offset, one.timestamp_ms, one.key, value)
