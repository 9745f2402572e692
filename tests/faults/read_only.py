"""Folders, files and disks that the daemon can no longer write to: told with the remedy, nothing acknowledged that is not there."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.end_to_end.harness import Site, kill, start
from tests.faults.embedded_log import RECORDS, a_site, committed_offsets, compared, end, is_done, wait_until
from tests.faults.serving import serve
from tests.faults.verdict import Verdict

_DEADLINE_S = 120.0
_DISK_BYTES = 64 << 20
_LEFT_BYTES = 1 << 20
_RECORDS = RECORDS[:900]


class NotHereError(Exception):
    """This machine does not let a test break what it is to break; the text says why."""


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """Each in a folder of its own."""
    scenarios: list[Callable[[Path], Verdict]] = [
        checkpoint_folder,
        log_at_start,
        log_under_way,
        disk_under_way,
        full_disk_of_the_log,
        full_disk_of_checkpoints,
    ]
    for scenario in scenarios:
        with tempfile.TemporaryDirectory() as name:
            try:
                yield scenario(Path(name))
            except NotHereError as reason:
                yield Verdict(f"{scenario.__name__}: {reason}", 0)


def checkpoint_folder(folder: Path) -> Verdict:
    """Checkpoints cannot be written: told, and everything is judged and committed; once they can be, one is written."""
    site, unharmed = a_site(folder, "site", _RECORDS), _unharmed(folder)
    checkpoints = site.folder / "checkpoints"
    checkpoints.mkdir()
    with _read_only(checkpoints):
        failures = _ended(_daemon(site, "--until-end"), site)
        if any(checkpoints.iterdir()):
            failures.append("the folder was not read-only: something was written there")
    return _without_checkpoints("a read-only folder of checkpoints", site, unharmed, *failures)


def _without_checkpoints(broken: str, site: Site, unharmed: Site, *failures: str) -> Verdict:
    """Whether a life that could save none told it, and the next one saves what it should."""
    found = list(failures)
    told = Counter(site.events())["checkpoint_failed"]
    if not told or "a restart takes longer" not in site.log():
        found.append(f"not told that checkpoints fail, and what of it: {site.log_tail()}")
    if not is_done(site):
        found.append("not everything was committed")
    found += _ended(_daemon(site, "--until-end"), site)
    if site.state() != unharmed.state():
        found.append("the state that was written once it could be is another")
    return compared(broken, 1, site, unharmed, f"checkpoint_failed {told} times", *found)


def log_at_start(folder: Path) -> Verdict:
    """Its file, its folder, both: refused with the remedy and nothing changed."""
    site, unharmed = a_site(folder, "site", _RECORDS), _unharmed(folder)
    log = site.folder / "topics.db"
    before, failures = log.read_bytes(), []
    for places in ([log], [site.folder], [log, site.folder]):
        with _read_only(*places):
            failures += _refused(site)
        if log.read_bytes() != before:
            failures.append(f"the log changed though {places} could not be written")
    failures += _ended(_daemon(site, "--until-end"), site)
    return compared("a log that is read-only at the start", 3, site, unharmed, "exit code 2, nothing changed", *failures)


def log_under_way(folder: Path) -> Verdict:
    """The right to write is taken: who has the log open goes on, whoever opens it is refused until it may again."""
    site, unharmed = a_site(folder, "site", _RECORDS), _unharmed(folder)
    process = _daemon(site)
    wait_until(process, lambda: "partition_recovered" in site.log(), site)
    with _read_only(*site.folder.glob("topics.db*"), site.folder):
        wait_until(process, lambda: is_done(site), site)
        kill(process)
        failures = _refused(site)
    site.append([b"{broken"])
    unharmed.append([b"{broken"])
    failures += _ended(_daemon(site, "--until-end"), site)
    serve(unharmed)
    return compared("a log whose right to write is taken under way, kill -9", 1, site, unharmed, "went on; refused when opened anew", *failures)


def disk_under_way(folder: Path) -> Verdict:
    """The kernel makes the disk read-only, as after an error of the disk: waited for and said; after a mount all that was committed is there."""
    unharmed = _unharmed(folder)
    with _disk(folder / "disk.image", folder / "site"):
        # What the daemon says shall not be on the disk that fails.
        (folder / "site" / "daemon.log").symlink_to(folder / "daemon.log")
        site = a_site(folder, "site", _RECORDS)
        log = site.folder / "topics.db"
        _as_root("sync", "--file-system", str(site.folder))  # settings and model: nobody promises that they are on disk
        process = _daemon(site)
        wait_until(process, lambda: committed_offsets(log) > 300, site)
        committed = committed_offsets(log)
        _as_root("mount", "-o", "remount,abort", str(site.folder))
        wait_until(process, lambda: site.events().count("log_unavailable") > 1, site)
        end(process)
        failures = [] if process.exitcode == 0 else [f"told to leave, it ended with {process.exitcode}: {site.log_tail()}"]
        _as_root("umount", str(site.folder))
        _as_root("mount", "-o", "loop", str(folder / "disk.image"), str(site.folder))
        if committed_offsets(log) < committed:
            failures.append(f"{committed} records were committed, {committed_offsets(log)} are after the mount")
        failures += _ended(_daemon(site, "--until-end"), site)
        return compared("a disk that the kernel makes read-only under way", 1, site, unharmed, f"at {committed} records, waited for", *failures)


def full_disk_of_the_log(folder: Path) -> Verdict:
    """No room is left on the disk: waited for and said with the remedy; once there is some, all goes on."""
    unharmed = _unharmed(folder)
    with _disk(folder / "disk.image", folder / "site"):
        (folder / "site" / "daemon.log").symlink_to(folder / "daemon.log")
        site = a_site(folder, "site", _RECORDS)
        with _filled(site.folder, left_bytes=_LEFT_BYTES):
            process = _daemon(site)
            wait_until(process, lambda: "make room on its disk" in site.log(), site)
            failures = ["all was committed on a full disk"] if is_done(site) else []
        wait_until(process, lambda: is_done(site), site)
        end(process)
        return compared("a full disk under the log, then room again", 1, site, unharmed, "waited for", *failures)


def full_disk_of_checkpoints(folder: Path) -> Verdict:
    """No room for checkpoints alone: told, and everything is judged and committed; once there is some, one is written."""
    site, unharmed = a_site(folder, "site", _RECORDS), _unharmed(folder)
    checkpoints = site.folder / "checkpoints"
    with _disk(folder / "disk.image", checkpoints):
        with _filled(checkpoints, left_bytes=0):
            failures = _ended(_daemon(site, "--until-end"), site)
        return _without_checkpoints("a full disk under the checkpoints, then room again", site, unharmed, *failures)


def _unharmed(folder: Path) -> Site:
    """What became of the same records where nothing was read-only."""
    site = a_site(folder, "unharmed", _RECORDS, "input.batch_records_max=64")
    serve(site)
    return site


def _daemon(site: Site, *arguments: str) -> BaseProcess:
    return start("tests.faults.unprivileged", site.command("run", *arguments), site.folder / "daemon.log")


def _ended(process: BaseProcess, site: Site, exit_code: int = 0) -> list[str]:
    """What is wrong with how it ended."""
    process.join(_DEADLINE_S)
    found = process.exitcode
    kill(process)
    return [] if found == exit_code else [f"it ended with {found}, not {exit_code}: {site.log_tail()}"]


def _refused(site: Site) -> list[str]:
    """What is wrong with how a daemon that may not write to its log says so."""
    said = len(site.log())
    failures = _ended(_daemon(site), site, exit_code=2)
    told = site.log()[said:]
    if not all(part in told for part in (f"log {site.folder}/topics.db", "no permission to write", "or give it the right")) or "Traceback" in told:
        failures.append(f"not told what may not be written, and what to do: {told}")
    return failures


@contextmanager
def _read_only(*places: Path) -> Iterator[None]:
    """Nobody may write there, but for a root that makes use of its rights."""
    modes = {place: place.stat().st_mode for place in places}
    for place, mode in modes.items():
        place.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for place, mode in modes.items():
            if place.exists():
                place.chmod(mode)


@contextmanager
def _disk(image: Path, place: Path) -> Iterator[None]:
    """An ext4 of its own, mounted there. Raises NotHereError."""
    if os.geteuid() != 0:
        raise NotHereError("only root may mount a disk")
    image.touch()
    os.truncate(image, _DISK_BYTES)
    place.mkdir()
    _as_root("mkfs.ext4", "-q", str(image))
    _as_root("mount", "-o", "loop", str(image), str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=False, capture_output=True, timeout=_DEADLINE_S)


@contextmanager
def _filled(place: Path, left_bytes: int) -> Iterator[None]:
    """That disk takes no more than about so much."""
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 512):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
        file.truncate(file.tell() - left_bytes)
        os.fsync(file.fileno())
    try:
        yield
    finally:
        (place / "filler").unlink()


def _as_root(*command: str) -> None:
    """Raises NotHereError where this machine does not have it or does not allow it."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DEADLINE_S)
    except FileNotFoundError:
        raise NotHereError(f"there is no {command[0]}") from None
    except subprocess.CalledProcessError as error:
        raise NotHereError(f"{' '.join(command)}: {error.stderr.strip()}") from None
