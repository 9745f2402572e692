"""How a harness that is run by hand ends when it is told to: by way of its blocks, which close what they opened."""

from __future__ import annotations

import multiprocessing
import os
import signal

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def end_when_told() -> None:
    """From now on SIGTERM and SIGINT kill the daemons that were started and end the program with 128 + the signal."""
    for number in _NUMBERS:
        signal.signal(number, _end)


def _end(number: int, _: object) -> None:
    # Once: `timeout` tells twice, and the second must not disturb the closing. Not SIG_IGN, which children inherit.
    for one in _NUMBERS:
        signal.signal(one, lambda *_: None)
    os.write(2, f"\n{signal.Signals(number).name}: removing what was made, then ending\n".encode())
    for process in multiprocessing.active_children():
        process.kill()
    raise SystemExit(128 + number)
