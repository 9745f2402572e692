from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

_HEAPS = """
import ctypes, threading
from anomaly_daemon.adapters import heap
{call}
libc, hold = ctypes.CDLL(None), threading.Barrier(5)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
libc.fopen.argtypes, libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_char_p] * 2, [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
def work():
    libc.malloc(1000)
    hold.wait()
    hold.wait()
for _ in range(4):
    threading.Thread(target=work).start()
hold.wait()
stream = libc.fopen(b"heaps.xml", b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
hold.wait()
print(open("heaps.xml").read().count("<heap nr="))
"""
_FREED = """
from pathlib import Path
from anomaly_daemon.adapters import heap
def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
blocks = [bytes(4000) for _ in range(50_000)]
kept = blocks[::500]
del blocks
before = resident_mib()
heap.give_back()
print(before - resident_mib())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: nothing is done")


def said(program: str, folder: Path) -> float:
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=folder, text=True).stdout)


def test_threads_share_one_heap(tmp_path: Path) -> None:
    assert said(_HEAPS.format(call=""), tmp_path) > 1
    assert said(_HEAPS.format(call="heap.share_one()"), tmp_path) == 1


def test_what_lies_free_goes_back_to_the_system(tmp_path: Path) -> None:
    assert said(_FREED, tmp_path) > 100
