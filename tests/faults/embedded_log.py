"""The embedded log and the checkpoints beside it while their file, their disk or their neighbours misbehave."""

from __future__ import annotations

import itertools
import random
import resource
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from anomaly_daemon.domain.errors import AnomalyDaemonError, LogCorrupt
from anomaly_daemon.domain.records import Message, Record
from tests.end_to_end.harness import Site, end, kill, make_site, wait_until
from tests.faults.logs import heard
from tests.faults.mutation import harmed
from tests.faults.serving import serve
from tests.faults.verdict import Verdict
from tests.small import stream

_PAGE = 16_384
_LARGE_BATCHES = "input.batch_records_max=64"
RECORDS = stream(7, 12, 1500, with_bad=True)


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """Every scenario, each in a folder of its own."""
    scenarios: list[Callable[[Path], Verdict]] = [
        two_daemons,
        one_name_twice,
        reader_with_a_lock,
        writer_with_a_lock,
        full_disk,
        backup_restored,
        one_folder_for_two_logs,
        lambda folder: damaged_pages(folder, 500 if is_full else 40, random.Random(seed)),
        lambda folder: damaged_between_lives(folder, 500 if is_full else 40, random.Random(seed)),
        lambda folder: damaged_under_way(folder, 300 if is_full else 40, random.Random(seed)),
        lambda folder: torn_tail(folder, 200 if is_full else 20, random.Random(seed)),
    ]
    for scenario in scenarios:
        with tempfile.TemporaryDirectory() as name:
            yield scenario(Path(name))


def a_site(folder: Path, name: str, records: list[Record] = RECORDS, *assignments: str, partitions: int = 4) -> Site:
    """A site on an embedded log of its own."""
    return make_site(folder / name, f"sqlite:///{folder / name}/topics.db", records, partitions=partitions, assignments=assignments)


def compared(broken: str, times: int, harmed_site: Site, unharmed: Site, told: str, *failures: str) -> Verdict:
    """The verdict over what two sites published, and over whether anything was told as a traceback."""
    found = list(failures)
    if harmed_site.alerts() != unharmed.alerts():
        found.append(f"{len(harmed_site.alerts())} alerts, {len(unharmed.alerts())} unharmed, or other ones")
    if harmed_site.dead_letters() != unharmed.dead_letters():
        found.append(f"{len(harmed_site.dead_letters())} dead letters, {len(unharmed.dead_letters())} unharmed, or other ones")
    if "Traceback" in harmed_site.log():
        found.append(f"a traceback was shown: {harmed_site.log_tail()}")
    return Verdict(broken, times, tuple(found), f"{len(unharmed.alerts())} alerts, {len(unharmed.dead_letters())} dead letters equal; {told}")


def two_daemons(folder: Path) -> Verdict:
    """Two members of a group on one file; one of them dies by kill -9 twice and comes back."""
    unharmed = a_site(folder, "unharmed")
    unharmed.run_to_end()
    site = a_site(folder, "shared", RECORDS, "kafka.session_timeout=3s")
    other = Site(site.folder, (*site.assignments, "input.member=two"))
    first = site.daemon()
    for _ in range(2):
        second = other.daemon()
        told = len(site.log())
        wait_until(second, lambda: "partition_recovered" in site.log()[told:], site)  # noqa: B023 - called at once
        kill(second)
    second = other.daemon()
    wait_until(first, lambda: is_done(site), site)
    end(first)
    end(second)
    return compared("two daemons on one file, one killed -9", 2, site, unharmed, f"{site.events().count('partitions_changed')} rebalances")


def one_name_twice(folder: Path) -> Verdict:
    """A second daemon under the name of the first takes its place; the first says so and ends."""
    site = a_site(folder, "site")
    first = site.daemon()
    wait_until(first, lambda: "partition_recovered" in site.log(), site)
    second = site.daemon()
    first.join(120)
    wait_until(second, lambda: is_done(site), site)
    end(second)
    unharmed = a_site(folder, "unharmed")
    unharmed.run_to_end()
    failures = [] if first.exitcode == 1 else [f"the first ended with {first.exitcode}"]
    if "give each instance its own `input.member`" not in site.log():
        failures.append("the remedy was not told")
    return compared("two daemons under one name", 1, site, unharmed, "the first was fenced, exit 1", *failures)


def reader_with_a_lock(folder: Path) -> Verdict:
    """A reader that keeps its transaction open: writers go on, the WAL grows, and shrinks once the reader has left."""
    site, unharmed = a_site(folder, "read"), a_site(folder, "unharmed")
    with closing(sqlite3.connect(site.folder / "topics.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        site.run_to_end()
        grown = (site.folder / "topics.db-wal").stat().st_size
    unharmed.run_to_end()
    return compared("a reader that holds its lock for the whole run", 1, site, unharmed, f"WAL {grown / 2**20:.1f} MiB meanwhile")


def writer_with_a_lock(folder: Path) -> Verdict:
    """A writer that keeps its lock beyond the busy timeout of ten seconds: waited for, said, and gone on from."""
    site, unharmed = a_site(folder, "locked"), a_site(folder, "unharmed")
    process = site.daemon()
    wait_until(process, lambda: "partition_recovered" in site.log(), site)
    with closing(sqlite3.connect(site.folder / "topics.db", timeout=60, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        wait_until(process, lambda: "log_unavailable" in site.events(), site)
        writer.execute("ROLLBACK")
    wait_until(process, lambda: is_done(site), site)
    end(process)
    unharmed.run_to_end()
    failures = [] if "another process holds it locked" in site.log() else ["who holds it was not told"]
    return compared("a writer that holds its lock for longer than ten seconds", 1, site, unharmed, "waited for", *failures)


def full_disk(folder: Path) -> Verdict:
    """No file of a live daemon may grow any more, by its limit on file sizes; after a while it may again."""
    site, unharmed = a_site(folder, "full"), a_site(folder, "unharmed")
    process = site.daemon()
    wait_until(process, lambda: "partition_recovered" in site.log(), site)
    assert process.pid is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    said = (site.folder / "daemon.log").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (said + 100_000, before[1]))
    wait_until(process, lambda: "log_unavailable" in site.events(), site)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    wait_until(process, lambda: is_done(site), site)
    end(process)
    unharmed.run_to_end()
    events = Counter(site.events())
    told = f"log_unavailable {events['log_unavailable']} times, checkpoint_failed {events['checkpoint_failed']}"
    left = [path.name for path in (site.folder / "checkpoints").rglob("*.part")]
    failures = [f"halves of checkpoints were left: {left}"] if left else []
    return compared("files that may not grow, then may again", 1, site, unharmed, told, *failures)


def backup_restored(folder: Path) -> Verdict:
    """A backup of the log is put back, and what comes then differs: checkpoints of the lost time must not be taken for it."""
    early, lost, kept = RECORDS[:600], RECORDS[600:900], RECORDS[900:1500]
    site, unharmed = a_site(folder, "restored", early, partitions=1), a_site(folder, "unharmed", [*early, *kept], partitions=1)
    backup = folder / "backup.db"
    site.run_to_end()
    shutil.copy(site.folder / "topics.db", backup)
    site.fill(lost)
    site.run_to_end()
    for path in site.folder.glob("topics.db*"):
        path.unlink()
    shutil.copy(backup, site.folder / "topics.db")
    site.fill(kept)
    seldom = Site(site.folder, (*site.assignments, "checkpoints.every=1h"))
    process = seldom.daemon()
    wait_until(process, lambda: committed_offsets(site.folder / "topics.db") > 950, site)
    kill(process)
    site.run_to_end()
    unharmed.run_to_end()
    states = [] if site.state() == unharmed.state() else ["the state is another than that of the log as it stands"]
    return compared("a backup of the log put back, other records after it, kill -9", 1, site, unharmed, "state equal", *states)


def one_folder_for_two_logs(folder: Path) -> Verdict:
    """Another log's group of the same name saves into the same folder: neither takes the other's state for its own, or away."""
    site, unharmed = (a_site(folder, name, RECORDS[:600], partitions=1) for name in ("ours", "unharmed"))
    others = a_site(folder, "others", RECORDS[900:1300], f"checkpoints.url={site.folder}/checkpoints", partitions=1)
    for life in (site, others, unharmed):
        life.run_to_end()
    for life in (site, unharmed):
        life.fill(RECORDS[600:900])
        life.run_to_end()
    said = {"checkpoints_forgotten", "state_rebuilt_from_log", "checkpoint_refused"} & {*site.events(), *others.events()}
    return compared("a folder of checkpoints shared with another log", 1, site, unharmed, "alerts equal", *(f"it said {event}" for event in said))


def damaged_pages(folder: Path, times: int, dice: random.Random) -> Verdict:
    """Pages of the log's file damaged while nobody uses it: said, or without effect; never another result, never a traceback."""
    site, unharmed = (a_site(folder, name, RECORDS[:300], _LARGE_BATCHES) for name in ("damaged", "unharmed"))
    serve(unharmed)
    return _harmed_often("pages of the log damaged while it was not used", site, unharmed, times, lambda content: _damaged(dice, content))


def damaged_between_lives(folder: Path, times: int, dice: random.Random) -> Verdict:
    """The same between two lives: what was committed, said and saved is there to be damaged too."""
    site, unharmed = (a_site(folder, name, RECORDS[:count], _LARGE_BATCHES) for name, count in (("damaged", 200), ("unharmed", 300)))
    serve(unharmed)
    serve(site, checkpoint_every_s=0.0)
    site.fill(RECORDS[200:300])
    kept = shutil.copytree(site.folder / "checkpoints", folder / "kept")
    broken = "pages of the log damaged between two lives"
    return _harmed_often(broken, site, unharmed, times, lambda content: _damaged(dice, content), checkpoints=kept)


def damaged_under_way(folder: Path, times: int, dice: random.Random) -> Verdict:
    """The same, or its write-ahead log, under a daemon that reads and commits meanwhile; then another life."""
    site, unharmed = (a_site(folder, name, RECORDS[:300], "input.batch_records_max=8") for name in ("damaged", "unharmed"))
    serve(unharmed)

    def two_lives(site: Site) -> None:
        commits = itertools.count()
        harmed_at = dice.randrange(24)

        def harm() -> None:
            if next(commits) == harmed_at:
                path = dice.choice([path for path in site.folder.glob("topics.db*") if path.suffix != ".db-shm" and path.stat().st_size > _PAGE])
                _overwrite(path, _damaged(dice, path.read_bytes()))

        with suppress(LogCorrupt):
            serve(site, after_commit=harm)
        serve(site)

    return _harmed_often("pages of the log damaged under a daemon", site, unharmed, times, lambda content: content, serving=two_lives)


def _overwrite(path: Path, content: bytes) -> None:
    """In place, for whoever has it open."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def torn_tail(folder: Path, times: int, dice: random.Random) -> Verdict:
    """The end of the write-ahead log torn off or garbled after kill -9: what it held is gone as a whole, and judged again."""
    site, unharmed = (a_site(folder, name, RECORDS[:300], _LARGE_BATCHES) for name in ("torn", "unharmed"))
    serve(unharmed)
    # A connection that never closes keeps the write-ahead log from being merged into the file at the end, as kill -9 does.
    with closing(sqlite3.connect(site.folder / "topics.db", isolation_level=None)) as reader:
        reader.execute("SELECT count(*) FROM records").fetchone()
        serve(site)
        wal = (site.folder / "topics.db-wal").read_bytes()
        file = (site.folder / "topics.db").read_bytes()
    broken = "the end of the write-ahead log torn off or garbled"
    return _harmed_often(broken, site, unharmed, times, lambda content: _torn(dice, content), files={"topics.db": file, "topics.db-wal": wal})


def _harmed_often(
    broken: str,
    site: Site,
    unharmed: Site,
    times: int,
    harm: Callable[[bytes], bytes],
    *,
    files: dict[str, bytes] | None = None,
    checkpoints: Path | None = None,
    serving: Callable[[Site], None] = serve,
) -> Verdict:
    """Harm the last of the files, serve to the end, look; put all back, checkpoints too where there are some."""
    files = files or {"topics.db": (site.folder / "topics.db").read_bytes()}
    wanted = (unharmed.alerts(), unharmed.dead_letters(), unharmed.read("readings"))
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(times):
        for path in site.folder.glob("topics.db*"):
            path.unlink()
        shutil.rmtree(site.folder / "checkpoints", ignore_errors=True)
        if checkpoints is not None:
            shutil.copytree(checkpoints, site.folder / "checkpoints")
        *others, (name, content) = files.items()
        for other, whole in others:
            (site.folder / other).write_bytes(whole)
        (site.folder / name).write_bytes(harm(content))
        try:
            outcomes[_outcome(site, serving, wanted)] += 1
        except Exception as error:
            failures.append(f"harm {number}: {type(error).__name__}: {error}")
    return Verdict(broken, times, tuple(failures), ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items())))


def _outcome(site: Site, serving: Callable[[Site], None], wanted: tuple[object, object, list[Record]]) -> str:
    """Refused by name, or the result of the records that the log still holds."""
    with heard():
        try:
            serving(site)
            found = (site.alerts(), site.dead_letters(), site.read("readings"))
        except LogCorrupt as error:
            return _refused(site, error, "refused as damaged")
        except AnomalyDaemonError as error:
            return _refused(site, error, f"refused as {type(error).__name__}")
    if found[:2] == wanted[:2] and _contents(found[2]) == _contents(wanted[2]):
        return "without effect"
    assert _contents(found[2]) != _contents(wanted[2]), "the same records, and another result"
    return _outcome_of_fewer(site, found)


def _refused(site: Site, error: Exception, word: str) -> str:
    assert str(site.folder / "topics.db") in str(error), f"does not name the file: {error}"
    return word


def _contents(records: list[Record]) -> list[tuple[object, ...]]:
    """Without the time at which they were appended."""
    return [(record.partition, record.offset, record.key, record.value) for record in records]


def _outcome_of_fewer(site: Site, found: tuple[object, object, list[Record]]) -> str:
    """Whole transactions at the log's end were lost, input too: then the result is that of the input that is left."""
    with tempfile.TemporaryDirectory() as name:
        again = a_site(Path(name), "again", [], _LARGE_BATCHES)
        again.send(Message("readings", one.key, one.value, one.headers, one.timestamp_ms, one.partition.number) for one in found[2])
        serve(again)
        assert (again.alerts(), again.dead_letters()) == found[:2], "not the result of the records that are left"
    return "judged what is left"


def _damaged(dice: random.Random, content: bytes) -> bytes:
    """A bit, a sector or a page of the file, or a lost end."""
    page = _PAGE * dice.randrange(len(content) // _PAGE)
    match dice.randrange(6):
        case 0:
            return content[:page] + dice.randbytes(_PAGE) + content[page + _PAGE :]
        case 1:
            return content[:page] + bytes(_PAGE) + content[page + _PAGE :]
        case 2:
            sector = page + 512 * dice.randrange(_PAGE // 512)
            return content[:sector] + dice.randbytes(512) + content[sector + 512 :]
        case 3:
            other = _PAGE * dice.randrange(len(content) // _PAGE)
            return content[:page] + content[other : other + _PAGE] + content[page + _PAGE :]
        case 4:
            return content[: max(page, 100)]
        case _:
            place = dice.randrange(len(content))
            return content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]


def _torn(dice: random.Random, content: bytes) -> bytes:
    """Cut off at any byte, or garbled from there on."""
    place = dice.randrange(32, len(content))
    match dice.randrange(3):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + dice.randbytes(min(len(content) - place, dice.choice((4, 4096, 100_000)))) + content[place + 100_000 :]
        case _:
            return content[:place] + harmed(dice, content[place:])


def is_done(site: Site) -> bool:
    """Whether the group has committed the whole input."""
    with closing(sqlite3.connect(site.folder / "topics.db", timeout=30)) as connection:
        behind = connection.execute(
            """SELECT count(*) FROM partitions p JOIN topics t ON t.id = p.topic_id LEFT JOIN committed c ON c.partition_id = p.id
            WHERE t.name = 'readings' AND p.next > 0 AND coalesce(c.next_offset, 0) < p.next"""
        ).fetchone()[0]
    return int(behind) == 0


def committed_offsets(log: Path) -> int:
    """The sum of all offsets that any group committed."""
    with closing(sqlite3.connect(log, timeout=30)) as connection:
        return int(connection.execute("SELECT coalesce(sum(next_offset), 0) FROM committed").fetchone()[0])
