import resource
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import structlog
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints, SavedCheckpoints
from anomaly_daemon.domain.errors import CheckpointInvalid, InputError, SettingsError
from anomaly_daemon.domain.records import Checkpoint, Partition
from anomaly_daemon.state.checkpoint import decode, digest, encode
from anomaly_daemon.telemetry.metrics import Metrics

P = Partition("readings", 3)
A = "a" * 64
EXAMPLE = Checkpoint(P, 41, A, ["pump-1", "pümp-2"], {"count": np.array([1.5, np.nan]), "ring": np.zeros((2, 4, 3), np.float32)}, b'{"open":[]}', 17)


def store(folder: Path, keep: int = 2) -> FsspecCheckpointStore:
    return FsspecCheckpointStore(str(folder), "group", keep)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_comes_back_as_it_was() -> None:
    found = decode(encode(EXAMPLE))

    assert digest(found) == digest(EXAMPLE)
    assert (found.partition, found.offset, found.entities, found.watermark_us) == (P, 41, ["pump-1", "pümp-2"], 17)


def test_a_budget_comes_back_and_changes_the_digest() -> None:
    asked = replace(EXAMPLE, budget=b'{"factor":1.5}')

    assert decode(encode(asked)).budget == asked.budget
    assert decode(encode(EXAMPLE)).budget == b""
    assert digest(asked) != digest(EXAMPLE)


@given(st.data())
def test_no_damaged_byte_goes_unnoticed(data: st.DataObject) -> None:
    content = bytearray(encode(EXAMPLE))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))

    try:
        found = decode(bytes(content))
    except CheckpointInvalid:
        return
    assert digest(found) == digest(EXAMPLE)  # a space of the head's padding


def test_a_truncated_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointInvalid):
        decode(encode(EXAMPLE)[:-3])


def test_the_newest_one_at_or_before_the_offset_is_loaded(tmp_path: Path) -> None:
    kept = store(tmp_path, keep=3)
    for offset in (10, 20, 30):
        kept.save(replace(EXAMPLE, offset=offset))

    found = kept.load(P, A, not_after=25)

    assert found is not None
    assert found.offset == 20


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for offset in (10, 20, 30):
        store(tmp_path, keep=2).save(replace(EXAMPLE, offset=offset))

    assert [path.name[:20] for path in files(tmp_path)] == [f"{20:020d}", f"{30:020d}"]


def test_what_a_kill_left_unfinished_goes_with_the_next_one_and_a_full_disk_leaves_no_half(tmp_path: Path) -> None:
    store(tmp_path).save(EXAMPLE)
    files(tmp_path)[0].with_name(f"{30:020d}-{'c' * 16}.safetensors.part").write_bytes(b"half")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store(tmp_path).save(replace(EXAMPLE, offset=50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name[:20] for path in tmp_path.rglob("*.part")] == [f"{30:020d}"]

    store(tmp_path).save(replace(EXAMPLE, offset=60))

    assert list(tmp_path.rglob("*.part")) == []


def test_those_ahead_of_a_log_that_went_back_are_forgotten_and_told(tmp_path: Path) -> None:
    for offset in (10, 20, 30):
        store(tmp_path, keep=3).save(replace(EXAMPLE, offset=offset))
    background = BackgroundCheckpoints(store(tmp_path))

    with structlog.testing.capture_logs() as logged:
        found = background.load(P, A, not_after=15)
    background.close()

    assert found is not None
    assert (found.offset, len(files(tmp_path))) == (10, 1)
    (told,) = [line for line in logged if line["event"] == "checkpoints_forgotten"]
    assert (told["committed"], len(told["files"])) == (15, 2)


def test_a_damaged_one_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    for offset in (10, 20):
        store(tmp_path).save(replace(EXAMPLE, offset=offset))
    files(tmp_path)[-1].write_bytes(b"not a checkpoint")

    found = store(tmp_path).load(P, A, not_after=99)

    assert found is not None
    assert found.offset == 10


def test_each_group_and_topic_has_a_folder_of_its_own_within_that_of_the_store(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a%2Fb", "..", "%2E%2E", "grüße", "x" * 249, "x" * 248, "ü" * 240]
    for name in names:
        one = FsspecCheckpointStore(str(tmp_path / "groups"), name, 2)
        one.save(replace(EXAMPLE, offset=len(name)))
        found = one.load(P, A, 999)
        assert found is not None
        assert found.offset == len(name)

    assert len(list((tmp_path / "groups").iterdir())) == len(names)
    assert [one.name for one in tmp_path.iterdir()] == ["groups"]


def test_one_of_another_fingerprint_is_not_used(tmp_path: Path) -> None:
    store(tmp_path).save(EXAMPLE)

    with structlog.testing.capture_logs() as said:
        assert store(tmp_path).load(P, "b" * 64, not_after=99) is None

    assert [(line["event"], line["log_level"]) for line in said] == [("checkpoint_passed_over", "warning")]
    assert "never be closed" in said[0]["remedy"]


def test_a_renamed_one_is_not_used(tmp_path: Path) -> None:
    store(tmp_path).save(EXAMPLE)
    path = files(tmp_path)[0]
    path.rename(path.with_name(path.name.replace(f"{41:020d}", f"{7:020d}")))

    assert store(tmp_path).load(P, A, not_after=99) is None


def test_what_was_handed_to_the_background_is_there_and_counted_after_a_flush(tmp_path: Path) -> None:
    metrics = Metrics()
    background = BackgroundCheckpoints(store(tmp_path), metrics)

    assert background.save(EXAMPLE)
    background.flush(10)
    background.close()

    assert store(tmp_path).load(P, A, not_after=41) is not None
    assert (metrics.facts()["checkpoints"], metrics.facts()["checkpoint_failures"]) == (1, 0)


def test_one_ahead_of_what_is_committed_is_gone_once_that_offset_is_reached_again(tmp_path: Path) -> None:
    store(tmp_path).save(replace(EXAMPLE, offset=100))
    background = BackgroundCheckpoints(store(tmp_path))

    # The topic was made anew: its group begins again, and what passes offset 100 is another record.
    assert background.load(P, A, not_after=0) is None
    background.save(EXAMPLE)
    found = background.load(P, A, not_after=200)
    background.close()

    assert found is not None
    assert found.offset == EXAMPLE.offset
    assert store(tmp_path).load(P, A, not_after=0) is None


def test_a_checkpoint_that_could_not_be_written_is_counted_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    metrics = Metrics()
    background = BackgroundCheckpoints(store(tmp_path / "file"), metrics)

    background.save(EXAMPLE)
    background.flush(10)
    background.close()

    assert (metrics.facts()["checkpoints"], metrics.facts()["checkpoint_failures"]) == (0, 1)


class Refusing(MemoryFileSystem):  # type: ignore[misc]
    """A file system that raises a kind of its own and quotes where it was asked to go."""

    protocol = "refusing"

    def exists(self, path: str, **_: object) -> bool:
        raise RuntimeError(f"{path}: denied")

    info = makedirs = exists


class Hanging(MemoryFileSystem):  # type: ignore[misc]
    """A file system that does not answer before it is let go."""

    protocol = "hanging"
    store, pseudo_dirs = {}, [""]
    is_free = threading.Event()

    def exists(self, path: str, **options: object) -> bool:
        self.is_free.wait(60)
        return bool(super().exists(path, **options))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.is_free.wait(60)
        super().makedirs(path, exist_ok)


def hanging() -> FsspecCheckpointStore:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    Hanging.is_free.clear()
    return FsspecCheckpointStore("hanging://pumps", "group", 2)


def test_a_store_that_hangs_is_waited_for_once_and_used_again_when_it_answers() -> None:
    background, two = BackgroundCheckpoints(hanging(), timeout_s=0.3), Partition("readings", 1)
    background.save(EXAMPLE)
    began_s = time.monotonic()

    with structlog.testing.capture_logs() as logged:
        assert background.load(P, A, not_after=99) is None
        first_s = time.monotonic() - began_s
        assert background.load(two, A, not_after=99) is None
    with pytest.raises(OSError, match="not asked again before it does"):
        background.load_rules(P)
    with pytest.raises(OSError, match="not asked again before it does"):
        background.save_rules(P, [(0, "rules")])
    assert not background.save(EXAMPLE)
    assert 0.3 <= first_s < 10
    assert time.monotonic() - began_s - first_s < 0.3
    assert [(line["event"], line["partition"]) for line in logged] == [("checkpoints_unreadable", str(P)), ("checkpoints_unreadable", str(two))]

    Hanging.is_free.set()
    background.flush(10)
    while (found := background.load(P, A, not_after=99)) is None:  # what was asked first may still be under way
        time.sleep(0.01)
    assert found.offset == EXAMPLE.offset
    assert background.load_rules(P) == []
    background.close()


def test_a_recovery_that_no_longer_waits_removes_nothing_when_the_store_answers() -> None:
    kept = hanging()
    Hanging.is_free.set()
    kept.save(EXAMPLE)
    Hanging.is_free.clear()
    background = BackgroundCheckpoints(kept, timeout_s=0.2)

    assert background.load(P, A, not_after=EXAMPLE.offset - 1) is None
    Hanging.is_free.set()
    while (found := background.load(P, A, not_after=EXAMPLE.offset)) is None:
        time.sleep(0.01)
    background.close()

    assert found.offset == EXAMPLE.offset


def test_a_replay_waits_for_a_store_that_hangs_no_longer_than_told() -> None:
    saved = SavedCheckpoints(hanging(), timeout_s=0.2)

    with pytest.raises(InputError, match=r"--start-from checkpoint: the store has not answered for 0\.2 s; .*--warm-up"):
        saved.load(P, A, not_after=99)
    Hanging.is_free.set()


def test_a_process_ends_though_its_store_hangs() -> None:
    program = """
from tests.unit.test_checkpoint import EXAMPLE, BackgroundCheckpoints, hanging
background = BackgroundCheckpoints(hanging())
background.save(EXAMPLE)
background.flush(0.1)
background.close()
"""

    subprocess.run([sys.executable, "-c", program], timeout=40, check=True)


def test_no_password_of_the_url_is_told_and_no_foreign_error_escapes() -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    kept = FsspecCheckpointStore("refusing://key:hun/ter2@bucket/pumps", "group", 2)

    with structlog.testing.capture_logs() as logged:
        assert kept.load(P, A, not_after=99) is None
    with pytest.raises(OSError, match="denied") as unwritten:
        kept.save(EXAMPLE)
    with pytest.raises(SettingsError, match=r"checkpoints\.url: refusing://\*\*\*@bucket/pumps: .*may this user") as refused:
        kept.examine()

    assert logged[0]["event"] == "checkpoints_unreadable"
    assert "ter2" not in f"{logged} {unwritten.value} {refused.value}"


@pytest.mark.parametrize("url", ["unheard-of://key:hunter2@bucket", "ftp://key:hunter2@127.0.0.1:1/pumps"])
def test_a_file_system_that_is_unknown_or_away_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"checkpoints\.url: .*use a folder") as refused:
        FsspecCheckpointStore(url, "group", 2)

    assert "hunter2" not in str(refused.value)
