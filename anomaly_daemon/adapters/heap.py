"""The C library's heap under a process that lives for months: one for all threads, and what is free in it goes back to the system.

glibc's; where the C library is another, nothing is done.
"""

from __future__ import annotations

import ctypes
from typing import Final

_LIBC: Final = ctypes.CDLL(None)
_M_ARENA_MAX: Final = -8


def share_one() -> None:
    """No heap for each thread: what one frees is of use to all. To be called before there are threads; Python's lock has them take turns anyway."""
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """What lies free to the system. Takes some ms for some hundred MiB."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
