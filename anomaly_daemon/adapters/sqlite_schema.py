"""The embedded log's file: its schema, one connection to it, and the only place where SQLite's errors become ours.

Durability: every connection runs WAL with synchronous=FULL, so that what was committed outlives kill -9 and power loss. Against NORMAL it costs
one fsync of the WAL per transaction: measured 4.0 ms against 0.5 ms for a commit of 40 alerts, nothing beyond noise for appends of 4 000 records.
Pages of 16 KiB append a quarter faster than the default 4 KiB and keep records up to 4 kB out of overflow pages. A cache that holds a whole
transaction's pages spares writing them twice: 236 k records/s against 165 k with SQLite's default of 2 MB.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anomaly_daemon.adapters.local_folders import why_unwritable
from anomaly_daemon.domain.errors import AnomalyDaemonError, LogCorrupt, LogUnavailable, SettingsError
from anomaly_daemon.domain.ports import Clock

APPLICATION_ID = 0x414E4F4D  # "ANOM", in the file's header: `file topics.db` shows it
SCHEMA_VERSION = 4
PAGE_BYTES = 16_384
CACHE_KIB = 32_768
WAL_BYTES_MAX = 64 * 2**20
BUSY_TIMEOUT_S = 10.0
_RETRY_S = 0.02

# What tells this log from any other; a copy of the file has it too.
_NAMED = (
    "CREATE TABLE log (id TEXT NOT NULL) STRICT",
    "INSERT INTO log SELECT lower(hex(randomblob(16)))",
)
_SCHEMA = (
    *_NAMED,
    "CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    # `bytes` is the size of the retained records, kept at append so that retention by size needs no scan.
    """CREATE TABLE partitions (
        id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL REFERENCES topics, number INTEGER NOT NULL,
        earliest INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic_id, number)) STRICT""",
    """CREATE TABLE records (
        partition_id INTEGER NOT NULL, offset INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB,
        proof INTEGER, PRIMARY KEY (partition_id, offset)) STRICT, WITHOUT ROWID""",
    # `committed` counts the group's rows of that table, which a lost page would take without a word.
    "CREATE TABLE groups (name TEXT PRIMARY KEY, generation INTEGER NOT NULL, committed INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID",
    """CREATE TABLE committed (
        group_name TEXT NOT NULL, partition_id INTEGER NOT NULL, next_offset INTEGER NOT NULL, proof INTEGER,
        PRIMARY KEY (group_name, partition_id)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE members (
        group_name TEXT NOT NULL, name TEXT NOT NULL, token INTEGER NOT NULL, heartbeats INTEGER NOT NULL, topics TEXT NOT NULL,
        PRIMARY KEY (group_name, name)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ownership (
        group_name TEXT NOT NULL, partition_id INTEGER NOT NULL, target TEXT, owner TEXT, since INTEGER NOT NULL,
        PRIMARY KEY (group_name, partition_id)) STRICT, WITHOUT ROWID""",
)
_SMALL_TABLES = frozenset({"log", "topics", "partitions", "groups", "committed", "members", "ownership"})
# From one version of the schema to the next. A row of before has no proof and is believed.
_UPGRADES = {
    1: ("ALTER TABLE records ADD COLUMN proof INTEGER", "ALTER TABLE committed ADD COLUMN proof INTEGER"),
    2: (
        "ALTER TABLE groups ADD COLUMN committed INTEGER NOT NULL DEFAULT 0",
        "UPDATE groups SET committed = (SELECT count(*) FROM committed WHERE group_name = name)",
    ),
    3: _NAMED,
}

CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
LOCKED_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
UNAVAILABLE_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look at the disk and the system's log",
    sqlite3.SQLITE_CANTOPEN: "check that its folder exists and that this user may write there",
    sqlite3.SQLITE_READONLY: "give this user the right to write to the file and its folder",
    sqlite3.SQLITE_PERM: "give this user the right to write to the file and its folder",
    sqlite3.SQLITE_NOMEM: "make memory available",
    sqlite3.SQLITE_INTERRUPT: "try again",
    sqlite3.SQLITE_NOLFS: "put it on a file system with large files",
}
# Of these, what waiting does not mend when the file cannot be opened in the first place.
REFUSED_CODES = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOLFS})


def is_made(path: Path) -> bool:
    """Whether the log's file is there. Raises SettingsError where none can be; changes nothing."""
    why = why_unwritable(path.parent) or ("it is a folder" if path.is_dir() else None) or _why_read_only(path)
    if why is not None:
        raise SettingsError(f"log {path}: {why}; point `log` at a file in a folder that this user may write to, or give it the right")
    return path.exists()


def _why_read_only(path: Path) -> str | None:
    """SQLite opens what it may only read without a word, and that connection stays so even where the right is given later."""
    files = (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
    return next((f"no permission to write to {file}" for file in files if file.exists() and not os.access(file, os.W_OK)), None)


def damaged(path: Path, what: str) -> LogCorrupt:
    """What to tell of a file whose content cannot be: SQLite notices a page that is no page, not a digit that is another."""
    return LogCorrupt(
        f"log {path}: the file is damaged ({what}); stop every process that uses it, move it away together with its -wal and -shm files, "
        f"and restore a backup, or save what can be read with `sqlite3 {path} .recover`"
    )


def explained(path: Path, error: sqlite3.Error, *, is_opening: bool = False) -> AnomalyDaemonError | None:
    """Our error for one of SQLite's; None for what can only be a defect of this program."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
    if code in CORRUPT_CODES:
        return damaged(path, str(error))
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ:
        return damaged(path, "it ends too early")
    if code in LOCKED_CODES:
        return LogUnavailable(f"log {path}: another process holds it locked ({error}); end the one that does not let go (`fuser {path}` names it)")
    if code in UNAVAILABLE_REMEDIES:
        kind = SettingsError if is_opening and code in REFUSED_CODES else LogUnavailable
        return kind(f"log {path}: {error}; {UNAVAILABLE_REMEDIES[code]}")
    return None


@contextmanager
def explaining(path: Path, *, is_opening: bool = False) -> Iterator[None]:
    """Raises LogCorrupt or LogUnavailable, at opening also SettingsError, in place of SQLite's own errors."""
    try:
        yield
    except sqlite3.Error as error:
        ours = explained(path, error, is_opening=is_opening)
        if ours is None:
            raise
        raise ours from error


class LogFile:
    """One connection to the file, made with its schema when there is none. Not for two threads at once.

    Raises SettingsError for a database of something else or a place that cannot be written, LogCorrupt, LogUnavailable.
    """

    def __init__(self, path: Path, clock: Clock, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        is_made(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"log {path}: its folder cannot be made: {error}; point `log` at a place this user may write to") from error
        with explaining(path, is_opening=True):
            # Opened by whoever wires, used by the loop's thread; SQLite itself is serialized.
            self._connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(clock, busy_timeout_s)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that only read; each sees the newest commit of any process."""
        with explaining(self.path):
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection inside one write transaction: committed at the end, rolled back on any error."""
        with explaining(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._refuse_replaced()
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def changes_seen(self) -> int:
        """A number that differs after any commit through another connection."""
        self._refuse_replaced()
        with self.reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _refuse_replaced(self) -> None:
        """What is committed to a file that no longer has the name would be acknowledged, and gone."""
        try:
            is_same = os.path.samestat(self.path.stat(), self._opened)
        except FileNotFoundError:
            is_same = False
        except OSError:  # nobody can tell
            return
        if not is_same:
            raise LogCorrupt(f"log {self.path}: the file was removed or replaced while it was in use; start again, on the one that is to count")

    def _prepare(self, clock: Clock, busy_timeout_s: float) -> None:
        connection = self._connection
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._refuse_foreign()
        self._opened = self.path.stat()
        self._switch_to_wal(clock, busy_timeout_s)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        self._check_small_tables()
        if connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        with self.writing():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            upgrades = [statement for earlier in range(version, SCHEMA_VERSION) for statement in _UPGRADES.get(earlier, ())]
            for statement in upgrades if version else _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _refuse_foreign(self) -> None:
        connection = self._connection
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise SettingsError(f"log {self.path}: a SQLite file of another program; point `log` at a file of its own")
        if version > SCHEMA_VERSION:
            raise SettingsError(f"log {self.path}: written by a newer release (schema {version}, not {SCHEMA_VERSION}); upgrade anomaly-daemon")

    def _check_small_tables(self) -> None:
        """A page of one table or index in the place of another's is no error to SQLite, and its rows are what nobody wrote."""
        there = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        for table in there & _SMALL_TABLES:
            (told,) = self._connection.execute(f"PRAGMA integrity_check('{table}')").fetchone()
            if told != "ok":
                raise damaged(self.path, told)

    def _switch_to_wal(self, clock: Clock, busy_timeout_s: float) -> None:
        """Two processes that make the file at once: SQLite refuses the switch at once instead of waiting, so this waits."""
        deadline_s = clock.monotonic_s() + busy_timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in LOCKED_CODES or clock.monotonic_s() >= deadline_s:
                    raise
            clock.sleep(_RETRY_S)
