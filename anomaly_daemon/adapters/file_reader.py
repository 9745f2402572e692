"""Files read in a process of their own: parsing holds the interpreter's lock, so a thread beside the engine would bring nothing.

`python -m anomaly_daemon.adapters.file_reader FOLDER` is that process: it reads relative to FOLDER, gets an order and then seeks, each of
which asks for one turn, on standard input, and writes turns to standard output. It ends with its standard input, so with whoever started it.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from signal import Signals
from typing import IO

import msgspec

from anomaly_daemon.adapters.file_columns import RowColumns
from anomaly_daemon.adapters.file_names import InputFile, bare_suffix
from anomaly_daemon.adapters.file_turns import Turn, Turns, read_message, read_turn, write_message, write_turn
from anomaly_daemon.domain.errors import StopAtOnce

_PACKAGE_PARENT = Path(__file__).parents[2]
_END_TIMEOUT_S = 5.0
_STDERR_BYTES_MAX = 2000
_PIPE_BYTES = 2**20  # most turns whole, so that to take one is no more than to copy it: in 64 KiB pieces it takes twice as long


class _Order(msgspec.Struct, frozen=True):
    """What is to be read; see Turns."""

    files: list[tuple[bytes, str, str | None]]
    columns: RowColumns
    rows_max: int


class ReaderProcess:
    """`Turns` in a process of their own, one turn ahead: what a seek leaves of it is given out first.

    Raises StopAtOnce where the process cannot be started, and from `take` where it ended by itself.
    """

    def __init__(self, files: Sequence[InputFile], columns: RowColumns, rows_max: int) -> None:
        self._files = files
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            # From the package's parent folder, which -m makes the first to import from: the current one may hold a csv.py.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "anomaly_daemon.adapters.file_reader", os.getcwd()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=_PACKAGE_PARENT,
                start_new_session=True,  # Ctrl-C at the terminal is for us alone
            )
        except OSError as error:
            self._errors.close()
            raise StopAtOnce(f"{self._where()}: no process to read in can be started: {error.strerror}; check the limits on processes") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._turns: IO[bytes] = self._process.stdout
        with suppress(OSError, AttributeError):  # where it is not allowed, or not Linux
            fcntl.fcntl(self._turns, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._is_greeted = self._is_asked = False
        self._sought: dict[int, int] = {}
        try:
            self._ask(msgspec.msgpack.encode(_Order([(os.fsencode(file.path), file.name, file.suffix) for file in files], columns, rows_max)))
        except BaseException:
            self.close()
            raise

    def is_ready(self) -> bool:
        """Whether it is up, so that `take` waits for rows alone; or has ended."""
        poll = select.poll()
        poll.register(self._turns, select.POLLIN)
        return self._is_greeted or bool(poll.poll(0))

    def seek(self, file: int, row: int) -> None:
        """Make `row` the next one of this file."""
        self._sought[file] = row

    def read_ahead(self) -> None:
        """Ask for the next turn, unless that was done."""
        if not self._is_greeted:
            self._answer()
            self._is_greeted = True
        if not self._is_asked:
            self._ask(msgspec.msgpack.encode(list(self._sought.items())))
            self._sought = {}
            self._is_asked = True

    def take(self) -> Turn:
        """The next turn. What was read of a file before it was sought is left out."""
        while True:
            self.read_ahead()
            turn, sought = self._answer(), self._sought
            self._is_asked = False
            if sought or turn.shares or turn.failures:
                self.read_ahead()
            if sought:
                turn = turn.without(sought)
            if turn.shares or turn.failures or not self._is_asked:
                return turn

    def close(self) -> None:
        """End the process, whatever it is at; may be called twice."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        with suppress(BrokenPipeError):
            self._requests.close()
        self._turns.close()
        self._errors.close()

    def _ask(self, request: bytes) -> None:
        try:
            write_message(self._requests, request)
            self._requests.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _answer(self) -> Turn:
        turn = read_turn(self._turns)
        if turn is None:
            raise self._ended()
        return turn

    def _ended(self) -> StopAtOnce:
        """How it ended, and the last that it said."""
        try:
            code = self._process.wait(_END_TIMEOUT_S)
            how = f"was ended by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "fell silent"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _STDERR_BYTES_MAX))
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return StopAtOnce(f"{self._where()}: the process that reads {how}{': '.join(['', *said])}; check the memory left and the file, and run again")

    def _where(self) -> str:
        more = f" and {len(self._files) - 1} files more" if len(self._files) > 1 else ""
        return f"{self._files[0].path}{more}"


def main() -> None:
    """Serve one order, a turn at a time, until nobody asks any more."""
    os.chdir(sys.argv[1])
    requests, turns = sys.stdin.buffer, sys.stdout.buffer
    encoded = read_message(requests)
    if encoded is None:
        return
    order = msgspec.msgpack.decode(encoded, type=_Order)
    files = [InputFile(Path(os.fsdecode(path)), name, suffix) for path, name, suffix in order.files]
    if any((file.suffix or bare_suffix(file.path)) == ".parquet" for file in files):
        sys.modules["pandas"] = None  # type: ignore[assignment]  # pyarrow would import it where it is installed: a second, for nothing
        import pyarrow.parquet  # now, while nobody waits for a turn

        pyarrow.set_cpu_count(1)
    with closing(Turns(files, order.columns, order.rows_max)) as reading, suppress(BrokenPipeError):
        write_turn(turns, Turn())
        turns.flush()
        while (encoded := read_message(requests)) is not None:
            for file, row in msgspec.msgpack.decode(encoded, type=list[tuple[int, int]]):
                reading.seek(file, row)
            write_turn(turns, reading.take())
            turns.flush()


if __name__ == "__main__":
    main()
