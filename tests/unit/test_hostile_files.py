"""A folder of checkpoints or a model that somebody else wrote is data, never code, and never more than memory holds."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.domain.errors import ArtifactError, CheckpointInvalid
from anomaly_daemon.domain.records import Checkpoint, Partition
from anomaly_daemon.model import artifact as artifacts
from anomaly_daemon.settings import live_part, with_live_part
from anomaly_daemon.state.checkpoint import FORMAT, decode, encode
from tests.small import artifact, processor, settings, snapshot

P = Partition("readings", 0)
F = "a" * 64
BYTES_MAX = 1 << 20
HUGE = 1 << 40
GOOD = Checkpoint(P, 10, F, ["pump-1"], {"count": np.array([1.5])}, b"{}", 17)


class Bomb:
    """What a pickle can do: anything."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("harmed",)


def bare(tensors: dict[str, bytes], **head: str) -> bytes:
    """A checkpoint with a right digest and whatever else."""
    told = {"topic": "readings", "partition": "0", "offset": "20", "fingerprint": F, "watermark_us": "", "format": FORMAT} | head
    from anomaly_daemon.state import checkpoint as module

    held = {name: np.frombuffer(content, np.uint8) for name, content in tensors.items()}
    layout: dict[str, object] = {"__metadata__": told | {"digest": module._digest(told, held)}}
    first = 0
    for name, content in tensors.items():
        layout[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [first, first + len(content)]}
        first += len(content)
    header = json.dumps(layout).encode()
    return struct.pack("<Q", len(header)) + header + b"".join(tensors.values())


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


ENTITIES, INCIDENTS = b'["pump-1"]', b"{}"
HARMS: dict[str, Callable[[Path], object]] = {
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to another file": lambda path: path.symlink_to("/etc/passwd"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe that nobody writes to": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a terabyte of nothing": sparse,
    "a header of a terabyte": lambda path: path.write_bytes(struct.pack("<Q", HUGE) + b"{}"),
    "a tensor of a terabyte": lambda path: path.write_bytes(
        struct.pack("<Q", 64) + json.dumps({"a": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}).ljust(64).encode()
    ),
    "brackets without end in its header": lambda path: path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
    "brackets without end in its entities": lambda path: path.write_bytes(bare({"entities": b"[" * 100_000, "incidents": INCIDENTS})),
    "entities that are no list": lambda path: path.write_bytes(bare({"entities": b"7", "incidents": INCIDENTS})),
    "entities that are no text": lambda path: path.write_bytes(bare({"entities": b"[7]", "incidents": INCIDENTS})),
    "a time beyond all clocks": lambda path: path.write_bytes(bare({"entities": ENTITIES, "incidents": INCIDENTS}, watermark_us="9" * 30)),
    "an offset beyond all digits": lambda path: path.write_bytes(bare({"entities": ENTITIES, "incidents": INCIDENTS}, offset="9" * 5000)),
    "the name of another topic": lambda path: path.write_bytes(bare({"entities": ENTITIES, "incidents": INCIDENTS}, topic="../../etc")),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_hostile_checkpoint_is_refused_with_a_reason_and_an_older_one_is_used(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FsspecCheckpointStore(str(tmp_path / "checkpoints"), "group", 2, BYTES_MAX)
    store.save(GOOD)
    HARMS[harm](tmp_path / "checkpoints" / "group" / "readings-0" / f"{20:020d}-{F[:16]}.safetensors")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with structlog.testing.capture_logs() as logged:
        found = store.load(P, F, not_after=99)

    assert found is not None
    assert found.offset == 10
    assert [event["event"] for event in logged] == ["checkpoint_refused"]
    assert logged[0]["error"]
    assert not (tmp_path / "harmed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 << 10


def test_what_is_no_file_is_never_removed_and_does_not_hinder_saving(tmp_path: Path) -> None:
    store = FsspecCheckpointStore(str(tmp_path), "group", 1, BYTES_MAX)
    store.save(GOOD)
    for offset in (1, 2, 3):
        (tmp_path / "group" / "readings-0" / f"{offset:020d}-{F[:16]}.safetensors").mkdir()

    store.save(replace(GOOD, offset=30))

    found = store.load(P, F, not_after=99)
    assert found is not None
    assert found.offset == 30


def test_files_of_higher_offsets_do_not_cost_a_new_checkpoint_its_place(tmp_path: Path) -> None:
    """As of a topic that was deleted and made anew: every new checkpoint was removed as it was written."""
    store = FsspecCheckpointStore(str(tmp_path), "group", 2, BYTES_MAX)
    for offset in (900, 901):
        store.save(replace(GOOD, offset=offset))

    for offset in (10, 20, 30):
        store.save(replace(GOOD, offset=offset))

    found = store.load(P, F, not_after=35)
    assert found is not None
    assert found.offset == 30
    assert sorted(int(path.name[:20]) for path in tmp_path.rglob("*.safetensors")) == [20, 30, 900, 901]


@pytest.mark.parametrize("name", [f"{20:020d}-{F[:16]}.safetensors.part", "rules.json.part"])
def test_a_link_laid_where_a_file_is_written_leads_nowhere(name: str, tmp_path: Path) -> None:
    store = FsspecCheckpointStore(str(tmp_path / "checkpoints"), "group", 2)
    store.save(GOOD)
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "checkpoints" / "group" / "readings-0" / name).symlink_to(tmp_path / "precious")

    store.save(replace(GOOD, offset=20))
    store.save_rules(P, [(0, "{}")])

    assert (tmp_path / "precious").read_text() == "kept"
    assert store.load_rules(P) == [(0, "{}")]


@pytest.mark.parametrize("group", ["..", ".", "../../elsewhere", "/etc"])
def test_no_name_of_a_group_leads_out_of_the_folder(group: str, tmp_path: Path) -> None:
    FsspecCheckpointStore(str(tmp_path / "checkpoints"), group, 2).save(GOOD)

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert len(list((tmp_path / "checkpoints").glob("*/readings-0/*.safetensors"))) == 1


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\x80\x04.", b'[["0", 1]]', b"7", pickle.dumps(Bomb())])
def test_hostile_rules_are_refused_with_a_reason(content: bytes, tmp_path: Path) -> None:
    store = FsspecCheckpointStore(str(tmp_path), "group", 2)
    store.save_rules(P, [])
    (tmp_path / "group" / "readings-0" / "rules.json").write_bytes(content)

    with structlog.testing.capture_logs() as logged:
        assert store.load_rules(P) == []

    assert [event["event"] for event in logged] == ["rules_refused"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"threshold": []}', '{"threshold": {"z": 1e999999, "level": "x"}}', "7"])
def test_a_hostile_text_of_rules_is_none_that_this_version_knows(text: str) -> None:
    assert with_live_part(settings(), live_part(settings(), 1))[1] == 1

    with pytest.raises(ValueError, match=r"not the rules of a daemon|could not convert"):
        with_live_part(settings(), text)


def test_a_checkpoint_that_the_table_cannot_hold_is_refused_before_anything_changes() -> None:
    built, fingerprint = processor()
    built.begin(P)
    own = snapshot(built, P, 10, fingerprint)
    columns = {name: np.zeros((1, *column.shape), column.dtype) for name, column in built.table.columns.items()}
    whole = replace(own, entities=["pump-1"], columns=columns)
    first, *others = columns

    for harmed in (
        replace(whole, entities=["pump-1", "pump-1"], columns={name: np.repeat(values, 2, 0) for name, values in columns.items()}),
        replace(whole, entities=["pump-1", "pump-2"]),
        replace(whole, columns={name: columns[name] for name in others}),
        replace(whole, columns=columns | {"more": np.zeros(1)}),
        replace(whole, columns=columns | {first: columns[first].astype(np.uint16)}),
    ):
        with pytest.raises(CheckpointInvalid):
            built.restore(decode(encode(harmed)) if first not in harmed.columns or harmed.columns[first].dtype != np.uint16 else harmed)
    built.restore(decode(encode(whole)))

    assert snapshot(built, P, 10, fingerprint).entities == ["pump-1"]
    built.close()


def test_the_bound_of_a_checkpoint_is_far_beyond_a_full_one(tmp_path: Path) -> None:
    bounded = settings("engine.entities_max=100", f"checkpoints.url={tmp_path}")
    built, _, _ = wiring.build_processor(bounded, artifact())
    name = "x" * bounded.record.entity_bytes_max
    columns = {column: np.zeros((100, *one.shape), one.dtype) for column, one in built.table.columns.items()}
    full = Checkpoint(P, 10, F, [f"{name[:-4]}{number:04d}" for number in range(100)], columns, b"x" * 100_000, 17)
    store = wiring.open_checkpoints(bounded, built, "one-log")
    built.close()

    store.save(full)

    assert store.load(P, F, not_after=10) is not None


def manifest(folder: Path, **changes: object) -> None:
    path = folder / artifacts.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def in_place(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    path = next(folder.glob(name))
    path.unlink()
    make(path)


ARTIFACT_HARMS: dict[str, Callable[[Path], object]] = {
    "a pickle as weights": lambda folder: in_place(folder, "weights-*", lambda path: path.write_bytes(pickle.dumps(Bomb()))),
    "a device as weights": lambda folder: in_place(folder, "weights-*", lambda path: path.symlink_to("/dev/zero")),
    "a pipe as manifest": lambda folder: in_place(folder, "manifest.json", lambda path: os.mkfifo(path)),
    "a terabyte as weights": lambda folder: in_place(folder, "weights-*", sparse),
    "brackets without end": lambda folder: (folder / "manifest.json").write_bytes(b'{"schema_version": ' + b"[" * 100_000),
    "weights of another folder": lambda folder: manifest(folder, weights="../weights.safetensors"),
    "weights by an absolute path": lambda folder: manifest(folder, weights="/etc/passwd"),
    "the folder above as weights": lambda folder: manifest(folder, weights=".."),
    "a network wider than memory": lambda folder: manifest(folder, shape={"features": 3, "hidden": 10**9, "code": 4, "layers": 1}),
    "layers without end": lambda folder: manifest(folder, shape={"features": 3, "hidden": 8, "code": 4, "layers": 10**9}),
}


@pytest.mark.parametrize("harm", ARTIFACT_HARMS)
def test_a_hostile_model_is_refused_with_the_file_at_fault(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts.save(artifact(), tmp_path / "model")
    ARTIFACT_HARMS[harm](tmp_path / "model")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ArtifactError, match="run `anomaly-daemon train`"):
        artifacts.load(tmp_path / "model")

    assert not (tmp_path / "harmed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 << 10
