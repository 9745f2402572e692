from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_daemon.adapters.sqlite_schema import (
    APPLICATION_ID,
    CORRUPT_CODES,
    LOCKED_CODES,
    SCHEMA_VERSION,
    UNAVAILABLE_REMEDIES,
    LogFile,
    explained,
)
from anomaly_daemon.adapters.sqlite_topics import SqliteTopics
from anomaly_daemon.domain.errors import LogCorrupt, LogUnavailable, SettingsError
from anomaly_daemon.domain.records import Message
from tests.contract.logs import ManualClock

# What only a mistake in this program can bring about, and what is no error at all.
DEFECTS = {"ERROR", "INTERNAL", "ABORT", "NOTFOUND", "EMPTY", "SCHEMA", "TOOBIG", "CONSTRAINT", "MISMATCH", "MISUSE", "AUTH", "RANGE"}
NO_ERRORS = {"OK", "NOTICE", "WARNING", "ROW", "DONE", "DENY", "IGNORE"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topics.db"


def primary_codes() -> dict[str, int]:
    """SQLite's primary result codes, from the header's list: those that an exception of the module can bear."""
    names = {
        "OK", "ERROR", "INTERNAL", "PERM", "ABORT", "BUSY", "LOCKED", "NOMEM", "READONLY", "INTERRUPT", "IOERR", "CORRUPT", "NOTFOUND", "FULL",
        "CANTOPEN", "PROTOCOL", "EMPTY", "SCHEMA", "TOOBIG", "CONSTRAINT", "MISMATCH", "MISUSE", "NOLFS", "AUTH", "FORMAT", "RANGE", "NOTADB",
        "NOTICE", "WARNING", "ROW", "DONE",
    }  # fmt: skip
    return {name: getattr(sqlite3, f"SQLITE_{name}") for name in names}


def test_every_error_of_sqlite_has_a_reaction() -> None:
    ours = CORRUPT_CODES | LOCKED_CODES | set(UNAVAILABLE_REMEDIES)

    unexplained = {name for name, code in primary_codes().items() if code not in ours}

    assert unexplained - NO_ERRORS == DEFECTS


@pytest.mark.parametrize("extended", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_CORRUPT_INDEX])
def test_extended_codes_have_the_reaction_of_their_primary_one(path: Path, extended: int) -> None:
    error = sqlite3.OperationalError("told")
    error.sqlite_errorcode = extended

    assert isinstance(explained(path, error), LogUnavailable | LogCorrupt)


def test_a_defect_of_the_program_stays_sqlites_error(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), LogFile(path, ManualClock()).reading() as connection:
        connection.execute("SELECT * FROM nowhere")


def test_a_file_that_is_no_database_is_corrupt_and_the_remedy_is_told(path: Path) -> None:
    path.write_bytes(b"not a database, not at all" * 1000)

    with pytest.raises(LogCorrupt, match=r"topics\.db.*\.recover"):
        LogFile(path, ManualClock())


def test_a_damaged_page_is_corrupt(path: Path) -> None:
    topics = SqliteTopics(path, ManualClock())
    topics.create("readings", 1)
    topics.append([Message("readings", b"pump", b"x" * 200)] * 2000)
    topics.close()
    content = bytearray(path.read_bytes())
    content[16_384:] = b"\xa5" * (len(content) - 16_384)
    path.write_bytes(content)

    with pytest.raises(LogCorrupt):
        SqliteTopics(path, ManualClock()).append([Message("readings", b"pump", b"1")])


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes (name)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(SettingsError, match="another program"):
        LogFile(path, ManualClock())

    assert path.read_bytes() == before


def test_a_log_of_a_newer_release_is_refused(path: Path) -> None:
    newer = sqlite3.connect(path)
    newer.execute("CREATE TABLE topics (name)")
    newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()

    with pytest.raises(SettingsError, match="upgrade"):
        LogFile(path, ManualClock())


def test_a_lock_that_is_not_let_go_is_unavailable_after_the_bound(path: Path) -> None:
    clock = ManualClock()
    topics = SqliteTopics(path, clock, busy_timeout_s=0.05)
    topics.create("readings", 1)
    holder = LogFile(path, clock)

    with holder.writing(), pytest.raises(LogUnavailable, match="locked"):
        topics.append([Message("readings", b"pump", b"1")])

    assert topics.append([Message("readings", b"pump", b"1")]) == 1


@pytest.mark.parametrize("is_replaced", [True, False])
def test_nothing_is_committed_to_a_file_that_was_replaced_or_removed(path: Path, tmp_path: Path, is_replaced: bool) -> None:
    log = LogFile(path, ManualClock())
    LogFile(tmp_path / "backup.db", ManualClock()).close()
    if is_replaced:
        (tmp_path / "backup.db").replace(path)
    else:
        path.unlink()

    with pytest.raises(LogCorrupt, match="removed or replaced while it was in use; start again"), log.writing() as connection:
        connection.execute("INSERT INTO topics (name) VALUES ('readings')")
    with pytest.raises(LogCorrupt, match="removed or replaced"):
        log.changes_seen()

    with log.reading() as connection:
        assert connection.execute("SELECT count(*) FROM topics").fetchone() == (0,)


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    log = LogFile(path, ManualClock())

    def interrupted() -> None:
        with log.writing() as connection:
            connection.execute("INSERT INTO topics (name) VALUES ('readings')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with log.reading() as connection:
        assert connection.execute("SELECT count(*) FROM topics").fetchone() == (0,)


@pytest.mark.parametrize(("place", "told"), [("file/topics.db", "file is not a folder"), ("folder", "it is a folder")])
def test_a_place_where_no_log_can_be_is_refused_and_nothing_is_made(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for use in (lambda path: LogFile(path, ManualClock()), lambda path: SqliteTopics(path, ManualClock()).partitions(["readings"])):
        with pytest.raises(SettingsError, match=f"{told}.*point `log` at a file"):
            use(tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_PERM])
def test_what_waiting_does_not_mend_is_refused_at_opening_and_waited_for_later(path: Path, code: int) -> None:
    error = sqlite3.OperationalError("told")
    error.sqlite_errorcode = code

    assert isinstance(explained(path, error, is_opening=True), SettingsError)
    assert isinstance(explained(path, error), LogUnavailable)


def test_processes_that_make_the_file_at_once_all_get_it(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from anomaly_daemon.adapters.clock import SystemClock; "
        "from anomaly_daemon.adapters.sqlite_topics import SqliteTopics; sys.stdin.read(1); "
        f"SqliteTopics(Path({str(path)!r}), SystemClock()).create('readings', 3)"
    )
    makers = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) for _ in range(3)]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()

    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    assert SqliteTopics(path, ManualClock()).partitions(["readings"]) == {"readings": 3}
