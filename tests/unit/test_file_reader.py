from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_daemon.adapters import file_source
from anomaly_daemon.adapters.file_columns import NO_COLUMNS, RowColumns
from anomaly_daemon.adapters.file_names import InputFile, find_files
from anomaly_daemon.adapters.file_reader import ReaderProcess
from anomaly_daemon.adapters.file_source import FileSource
from anomaly_daemon.adapters.file_turns import Turn, Turns
from anomaly_daemon.domain.errors import InputError, StopAtOnce
from anomaly_daemon.domain.records import Record

ROWS = 3000
AWKWARD = ["a\nb", "a\r\nb", 'a"b', "é", "", "\x0b\x0c\x1c\x85\u2028"]


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def written(folder: Path) -> list[InputFile]:
    """Every kind of file, rows that do not fit and text that could be taken for the end of a line, and a gzip file cut short."""
    texts = [AWKWARD[row % len(AWKWARD)] for row in range(ROWS)]
    cells = "".join(f'{row},"{text.replace(chr(34), 2 * chr(34))}"\n' for row, text in enumerate(texts))
    lines = [json.dumps({"id": row, "text": text}, ensure_ascii=False).encode() for row, text in enumerate(texts)]
    (folder / "a.csv").write_bytes(f'id,text\n{cells}no row\r5,"open\n1,2,3\n'.encode() + b"\xff,\x0c\n")
    (folder / "b.csv").write_text("id,text\n" + "".join(f"{row},x\n" for row in range(ROWS)))
    (folder / "c.csv.gz").write_bytes(gzip.compress((folder / "a.csv").read_bytes()))
    packed = gzip.compress(b"\n".join(os.urandom(16).hex().encode() for _ in range(ROWS)))
    (folder / "d.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "e.jsonl").write_bytes(b"\r\n".join([*lines, b"{broken", b"\xff\xfe\r{}", b"\x0b"]))
    pq.write_table(pa.table({"id": list(range(ROWS)), "text": texts}), folder / "f.parquet", row_group_size=700)
    return find_files([str(folder)])


def turns(reader: Turns | ReaderProcess) -> list[Turn]:
    found = []
    while (turn := reader.take()) != Turn():
        found.append(turn)
    return found


def rows(found: list[Turn], file: int) -> list[tuple[int, bytes]]:
    shares = [share for turn in found for share in turn.shares if share.file == file]
    return [(share.first + place, value) for share in shares for place, value in enumerate(share.values)]


@pytest.mark.parametrize(("columns", "rows_max"), [(NO_COLUMNS, 700), (RowColumns(key="id"), 7)])
def test_another_process_reads_the_same_turns(tmp_path: Path, columns: RowColumns, rows_max: int) -> None:
    files = written(tmp_path)
    with closing(Turns(files, columns, rows_max)) as here, closing(ReaderProcess(files, columns, rows_max)) as there:
        for reader in (here, there):
            for file, _ in enumerate(files):
                reader.seek(file, 100 * file)
        found = turns(there)

        assert found == turns(here)

    assert len({share.file for turn in found for share in turn.shares}) == 6
    (failure,) = [failure for turn in found for failure in turn.failures]
    assert f"d.jsonl.gz: row {rows(found, 3)[-1][0] + 1}: the gzip file is damaged or cut short" in failure.why


def test_a_seek_leaves_out_what_was_read_ahead_of_that_file_and_of_no_other(tmp_path: Path) -> None:
    files = written(tmp_path)
    with closing(Turns(files, NO_COLUMNS, 300)) as here, closing(ReaderProcess(files, NO_COLUMNS, 300)) as there:
        for file, _ in enumerate(files):
            here.seek(file, 0)
            there.seek(file, 0)
        whole = turns(here)
        begun = [there.take(), there.take()]
        for file, row in ((0, 50), (1, ROWS), (3, 7), (5, 2000), (5, 1500)):
            there.seek(file, row)
        rest = turns(there)

        for file, start in ((0, 50), (1, ROWS), (3, 7), (5, 1500)):
            assert rows(rest, file) == rows(whole, file)[start:]
        for file in (2, 4):
            assert rows(begun + rest, file) == rows(whole, file)
        there.seek(4, ROWS)  # after all have ended
        assert rows(turns(there), 4) == rows(whole, 4)[ROWS:]


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FileSource, FileSource]:
    """Two sources on the same files, the second with a process that is up."""
    written(tmp_path)
    here = FileSource(str(tmp_path), batch_records_max=300)
    here.poll(0)
    monkeypatch.setattr(file_source, "READER_BYTES_MIN", 0)
    there = FileSource(str(tmp_path), batch_records_max=300)
    for partition in there.poll(0).changes[0].partitions:
        here.seek(partition, 0)
        there.seek(partition, 0)
    assert there._process is not None
    until(there._process.is_ready)
    return here, there


def batches(source: FileSource) -> list[tuple[list[Record], object] | str]:
    """Records and positions of each poll, or why it failed."""
    found: list[tuple[list[Record], object] | str] = []
    while True:
        try:
            batch = source.poll(0)
        except InputError as error:
            found.append(str(error))
            continue
        if not batch.records:
            return found
        found.append((list(batch.records), source.positions()))


def test_a_source_brings_the_same_batches_whoever_reads_and_a_failure_behind_all_rows_before_it(reading: tuple[FileSource, FileSource]) -> None:
    here, there = reading
    with closing(here), closing(there):
        found = batches(there)

        assert there._reader is there._process
        assert found == batches(here)

    (failed,) = [place for place, one in enumerate(found) if isinstance(one, str)]
    given = [record.offset for batch in found[:failed] for record in batch[0] if isinstance(record, Record) and record.key == b"d"]
    assert f"row {len(given)}:" in str(found[failed])


def readers() -> list[psutil.Process]:
    """Processes that read for this one; tests before may have left others, such as a server to fork from."""
    return [child for child in psutil.Process().children() if "anomaly_daemon.adapters.file_reader" in child.cmdline()]


def test_a_closed_source_has_ended_its_process_whatever_it_was_at_and_brings_nothing(reading: tuple[FileSource, FileSource]) -> None:
    here, there = reading
    here.close()
    there.poll(0)
    there.poll(0)

    there.close()
    there.close()

    assert readers() == []
    assert list(there.poll(0).records) == []


def test_a_process_that_was_killed_is_told_with_the_remedy(reading: tuple[FileSource, FileSource]) -> None:
    here, there = reading
    here.close()
    (process,) = readers()
    with closing(there):
        process.send_signal(signal.SIGKILL)

        with pytest.raises(StopAtOnce, match=r"a\.csv and 5 files more: the process that reads was ended by SIGKILL; check the memory left"):
            batches(there)


def test_the_last_line_that_a_crashed_process_said_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"[" + bytes(50 * 2**20))
    reader = ReaderProcess(find_files([str(tmp_path)]), NO_COLUMNS, 10)
    with closing(reader):
        until(reader.is_ready)
        (process,) = readers()
        limit = process.memory_info().vms + 8 * 2**20
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        reader.seek(0, 0)

        with pytest.raises(StopAtOnce, match=r"a\.jsonl: the process that reads ended with exit code 1: MemoryError; check the memory left"):
            reader.take()


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))

    with pytest.raises(StopAtOnce, match=r"a\.csv: no process to read in can be started: No such file"):
        ReaderProcess([InputFile(tmp_path / "a.csv", "a")], NO_COLUMNS, 10)


_HOLDER = """
import sys, time
from anomaly_daemon.adapters.file_columns import NO_COLUMNS
from anomaly_daemon.adapters.file_names import find_files
from anomaly_daemon.adapters.file_reader import ReaderProcess
reader = ReaderProcess(find_files(sys.argv[1:]), NO_COLUMNS, 100_000)
reader.seek(0, 0)
reader.read_ahead()
print(reader._process.pid, flush=True)
time.sleep(60)
"""


def test_the_process_ends_with_whoever_started_it_though_its_pipe_is_full(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(50_000 * (b"x" * 99 + b"\n"))
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        reader = psutil.Process(int(holder.stdout.readline()))
        holder.kill()

    until(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE)


def test_a_folder_with_modules_named_like_those_of_python_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "csv.py").write_text("raise SystemExit(7)")
    (tmp_path / "a.csv").write_text("v\n1\n")
    monkeypatch.chdir(tmp_path)
    with closing(ReaderProcess([InputFile(Path("a.csv"), "a")], NO_COLUMNS, 10)) as reader:
        reader.seek(0, 0)

        assert rows(turns(reader), 0) == [(0, b'{"v":1}')]


@pytest.mark.parametrize(("name", "is_apart"), [("small.csv", False), ("large.csv", True), ("large.jsonl", False), ("large.jsonl.gz", True)])
def test_a_process_is_started_for_much_that_has_to_be_parsed_or_unpacked(tmp_path: Path, name: str, is_apart: bool) -> None:
    size = file_source.READER_BYTES_MIN + 1
    content = b"v\n" + (b"1\n" if name.startswith("small") else os.urandom(size // 2).hex().encode())
    (tmp_path / name).write_bytes(gzip.compress(content + b"\n" + os.urandom(size).replace(b"\n", b"x"), 1) if name.endswith(".gz") else content)

    with closing(FileSource(str(tmp_path / name))) as source:
        source.poll(0)

        assert (source._process is not None) == is_apart
        until(lambda: len(readers()) == is_apart)  # one that has just begun has no command line for a moment
