"""Files that were harmed on disk: each is refused by name and with a reason, or is as good as it was."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from anomaly_daemon import settings as settings_of
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.cli import main
from anomaly_daemon.domain.errors import ArtifactError, SettingsError
from anomaly_daemon.domain.records import Batch
from anomaly_daemon.model import artifact as artifacts
from anomaly_daemon.state.checkpoint import digest
from tests.faults.logs import heard
from tests.faults.mutation import harmed
from tests.faults.verdict import Verdict
from tests.small import P, artifact, processor, snapshot, stream

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_REFUSED, _EQUAL = "refused", "equal"


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """Every kind of file that the daemon trusts."""
    times = 1000 if is_full else 100
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield checkpoint_files(folder / "checkpoints", times, random.Random(seed))
        yield rules_files(folder / "rules", times, random.Random(seed))
        for part in ("manifest.json", "weights"):
            yield artifact_files(folder / part, part, times, random.Random(seed))
        yield settings_files(folder, times, random.Random(seed))


def harm_often(broken: str, path: Path, times: int, dice: random.Random, outcome: Callable[[], str]) -> Verdict:
    """Harm the file, ask what becomes of it, put it right again. outcome: a word where it is as it should be; raises otherwise."""
    content = path.read_bytes()
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(times):
        harm = harmed(dice, content)
        path.write_bytes(harm)
        try:
            outcomes[outcome()] += 1
        except Exception as error:
            failures.append(f"harm {number}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}")
    path.write_bytes(content)
    return Verdict(broken, times, tuple(failures), ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items())))


def _refused(error: Exception, path: Path) -> str:
    assert str(path) in str(error), f"does not name {path}: {error}"
    return _REFUSED


def checkpoint_files(folder: Path, times: int, dice: random.Random) -> Verdict:
    """A checkpoint is a cache: one that is refused is told and passed over."""
    built, fingerprint = processor()
    built.begin(P)
    built.process(Batch(stream(1, 6, 400)), {})
    saved = snapshot(built, P, 400, fingerprint)
    built.close()
    store = FsspecCheckpointStore(str(folder), "detector", 2)
    store.save(saved)
    (path,) = folder.rglob("*.safetensors")

    def outcome() -> str:
        with heard() as told:
            found = store.load(P, fingerprint, 400)
        if found is None:
            (line,) = [line for line in told if line["event"] == "checkpoint_refused"]
            assert str(path) in str(line["file"]), line
            assert line["error"], line
            return _REFUSED
        assert (digest(found), found.offset, found.partition, found.fingerprint) == (digest(saved), 400, P, fingerprint)
        return _EQUAL

    return harm_often("checkpoint file", path, times, dice, outcome)


def rules_files(folder: Path, times: int, dice: random.Random) -> Verdict:
    """Which rules were in force from which offset on, noted beside the checkpoints."""
    store = FsspecCheckpointStore(str(folder), "detector", 2)
    entries = [(0, settings_of.live_part(settings_of.Settings(), 2)), (400, settings_of.live_part(settings_of.load((), ("threshold.z=7",), {}), 2))]
    store.save_rules(P, entries)
    (path,) = folder.rglob("rules.json")

    def outcome() -> str:
        with heard() as told:
            found = store.load_rules(P)
        if not found:
            (line,) = [line for line in told if line["event"] == "rules_refused"]
            assert str(path) in str(line["file"]), line
            return _REFUSED
        assert found == entries, "other rules than were noted"
        return _EQUAL

    return harm_often("rules of a reload, beside the checkpoints", path, times, dice, outcome)


def artifact_files(folder: Path, part: str, times: int, dice: random.Random) -> Verdict:
    """A model is used whole or not at all; only its name and its history may differ, which are for people and shape no result."""
    artifacts.save(artifact(), folder)
    (path,) = folder.glob(f"{part}*")
    as_it_was = artifacts.load(folder)

    def outcome() -> str:
        try:
            found = artifacts.load(folder)
        except ArtifactError as error:
            return _refused(error, folder)
        assert found.fingerprint == as_it_was.fingerprint
        assert found.version == as_it_was.version
        return _EQUAL

    return harm_often(f"model artifact, {part}", path, times, dice, outcome)


def settings_files(folder: Path, times: int, dice: random.Random) -> Verdict:
    """Settings are refused by file, or are what the file says; where that is another setting, their hash in every alert is another."""
    path = folder / "settings.yaml"
    shutil.copy(_CONFIGS / "sensors.yaml", path)
    artifacts.save(artifact(), folder / "model")
    as_it_was = settings_of.load((path,), (), {})

    def outcome() -> str:
        try:
            found = settings_of.load((path,), (), {})
        except SettingsError as error:
            return _refused(error, path)
        if found == as_it_was:
            return _EQUAL
        said = io.StringIO()
        elsewhere = [f"checkpoints.url={folder}/checkpoints", f"model.artifact={folder}/model"]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            assert main(["check", "--offline", "-c", str(path), *(word for one in elsewhere for word in ("--set", one))]) in (0, 2), said.getvalue()
        assert "Traceback" not in said.getvalue()
        return "decide alike" if settings_of.digest(found) == settings_of.digest(as_it_was) else "told by another hash in every alert"

    return harm_often("settings file", path, times, dice, outcome)
