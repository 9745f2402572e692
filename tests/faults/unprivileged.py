"""`anomaly-daemon` as a user whom the permissions of files bind: root gives up its right to pass over them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from anomaly_daemon import cli

_CAPABILITY_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2


def main(arguments: Sequence[str]) -> int:
    """Run one verb; returns its exit code. Before any other thread of this process began: each has rights of its own."""
    if os.geteuid() == 0:
        _bind_by_permissions()
    return cli.main(arguments)


def _bind_by_permissions() -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of capabilities below 32 and above
    if libc.capget(head, sets) == 0:
        for place in range(3):
            sets[place] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
        if libc.capset(head, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "the rights of root cannot be given up")
