from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_daemon import settings as settings_of
from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model.artifact import MANIFEST, Artifact, History, check_features, check_writable, load, save
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit

NAMES = ("flow", "pressure", "current")


@cache
def artifact(seed: int = 0) -> Artifact:
    """Trained in a moment on noise, with a history that has every kind of value."""
    generator = np.random.default_rng(seed)
    sequence = EntitySequence("pump", generator.normal(size=(60, 3)).astype(np.float32), np.full(60, 60.0))
    small = (
        "model.hidden=8",
        "model.code=4",
        "model.layers=2",
        "model.tails=asinh",
        "training.epochs=1",
        "engine.decode_steps=5",
        "evidence.channels=[prediction, conditional]",
    )
    found = fit([sequence], settings_of.load((), (*small, f"training.seed={seed}"), {}), NAMES)
    return replace(found, history=History({"epochs": 2}, {"from": None}, 4, {"training": 9}, (1.5, 1 / 3), (1.25, 0.1), 2, None, "2"))


def with_own() -> Artifact:
    """A fleet's model, and two that serve some pumps."""
    return replace(artifact(), own=(("pump-1*", artifact(seed=1)), ("pump-[2]", artifact(seed=2))))


def bits(part: object) -> object:
    """Whatever an artifact holds, comparable to the bit."""
    match part:
        case torch.Tensor():
            return str(part.dtype), tuple(part.shape), part.numpy().tobytes()
        case np.ndarray():
            return str(part.dtype), part.shape, part.tobytes()
        case torch.nn.Module():
            return part.training, {name: bits(tensor) for name, tensor in part.state_dict().items()}
        case tuple():
            return tuple(bits(one) for one in part)
        case _ if is_dataclass(part):
            return {one.name: bits(getattr(part, one.name)) for one in fields(part)}
    return part


def weights(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path: Path) -> None:
    saved = artifact()
    save(saved, tmp_path / "new" / "folder")
    found = load(tmp_path / "new" / "folder")

    assert found.fingerprint == saved.fingerprint
    assert bits(found) == bits(saved)
    assert found.decode_steps == 5


def test_models_of_some_entities_own_are_loaded_with_the_one_for_all_others(tmp_path: Path) -> None:
    saved = with_own()
    save(saved, tmp_path)
    found = load(tmp_path)

    assert [match for match, _ in found.own] == ["pump-1*", "pump-[2]"]
    assert bits(found) == bits(saved)
    assert found.fingerprint == saved.fingerprint != artifact().fingerprint


def test_an_own_model_is_known_by_its_pattern_and_its_place() -> None:
    saved = with_own()
    (match, first), (_, second) = saved.own
    others = [
        replace(saved, own=((match, first),)),
        replace(saved, own=(("pump-9", first), saved.own[1])),
        replace(saved, own=saved.own[::-1]),
        replace(saved, own=((match, second), saved.own[1])),
        replace(saved, own=((match, replace(first, calibration={})), saved.own[1])),
    ]
    assert len({saved.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_a_pattern_edited_in_the_manifest_is_refused(tmp_path: Path) -> None:
    save(with_own(), tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["own"][0]["match"] = "*"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(ArtifactError, match="damaged or was edited"):
        load(tmp_path)


def test_loading_draws_nothing_from_the_random_generator(tmp_path: Path) -> None:
    save(artifact(), tmp_path)
    before = torch.random.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_model_is_written_in_the_same_bytes(tmp_path: Path) -> None:
    save(with_own(), tmp_path / "one")
    save(load(tmp_path / "one"), tmp_path / "other")
    for name in (MANIFEST, weights(tmp_path / "one").name):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_fingerprint_follows_what_shapes_results_and_nothing_else() -> None:
    one = artifact()
    assert replace(one, history=History(), name="other").fingerprint == one.fingerprint
    others = [
        replace(one, features=("pressure", "flow", "current")),
        replace(one, scale_kind="fleet"),
        replace(one, tails="clip"),
        replace(one, calibration=dict(one.calibration) | {"prediction": one.calibration["prediction"]._replace(quantile=3.0)}),
        replace(one, level=replace(one.level, spans=(1, 11))),
        replace(one, residual=replace(one.residual, ordinary=one.residual.ordinary + 1e-12)),
        replace(one, prediction_level=one.prediction_level + 1e-6),
        replace(one, scale=replace(one.scale, gap_mean=0.0)),
        artifact(seed=1),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_a_new_model_replaces_the_old_one_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    save(artifact(0), tmp_path)
    save(artifact(1), tmp_path)
    assert load(tmp_path).fingerprint == artifact(1).fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", MANIFEST, weights(tmp_path).name}


def test_a_save_that_died_before_its_manifest_leaves_the_old_model(tmp_path: Path) -> None:
    save(artifact(0), tmp_path / "model")
    save(artifact(1), tmp_path / "unfinished")
    shutil.copy(weights(tmp_path / "unfinished"), tmp_path / "model")
    assert load(tmp_path / "model").fingerprint == artifact(0).fingerprint


def truncate(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    content = bytearray(weights(folder).read_bytes())
    content[-1] ^= 1
    weights(folder).write_bytes(content)


def take_another_models_weights(folder: Path) -> None:
    save(artifact(1), folder / "other")
    shutil.copy(weights(folder / "other"), weights(folder))


def edited(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | fields))

    return edit


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name if name else weights(folder)).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (truncate, "not a whole safetensors file"),
        (flip_a_bit, "damaged or was edited"),
        (take_another_models_weights, "damaged or was edited"),
        (written("", b""), "not a whole safetensors file"),
        (written("", b"\x80\x04\x95pickle"), "not a whole safetensors file"),
        (lambda folder: weights(folder).unlink(), "no such file"),
        (lambda folder: (folder / MANIFEST).unlink(), "no such file"),
        (lambda folder: shutil.rmtree(folder), "no such file"),
        (written(MANIFEST, b"{"), "not the manifest"),
        (written(MANIFEST, b"\xff\xfe"), "not the manifest"),
        (written(MANIFEST, b'{"name": "foreign"}'), "not the manifest"),
        (edited(surprise=1), "not the manifest"),
        (edited(features="flow"), "not the manifest"),
        (edited(schema_version=99), "schema version 99"),
        (edited(features=["flow", "pressure", "voltage"]), "damaged or was edited"),
        (edited(weights="../weights.safetensors"), "outside its folder"),
        (edited(weights=""), "outside its folder"),
        (edited(weights="a\0b"), "cannot be read"),
        (written(MANIFEST, b"[" * 5000), "not the manifest"),
    ],
)
def test_a_harmed_artifact_is_refused_with_what_where_and_the_remedy(tmp_path: Path, harm: Callable[[Path], None], told: str) -> None:
    folder = tmp_path / "model"
    save(artifact(), folder)
    harm(folder)
    with pytest.raises(ArtifactError, match=told) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "anomaly-daemon train" in str(caught.value)


def test_weights_of_another_shape_are_refused_even_with_a_fitting_fingerprint(tmp_path: Path) -> None:
    one = artifact()
    save(replace(one, shape=replace(one.shape, hidden=9)), tmp_path)
    with pytest.raises(ArtifactError, match="does not fit the shape"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (check_writable, lambda folder: save(artifact(), folder)):
        with pytest.raises(ArtifactError, match="cannot be written"):
            write(tmp_path / "file")


def test_checking_a_folder_that_can_be_written_writes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("flow", "pressure"), "only in the model: current"),
        ((*NAMES, "voltage"), "only in the settings: voltage"),
        (("pressure", "flow", "current"), "another order, the model has flow, pressure, current"),
    ],
)
def test_other_features_are_refused_with_the_difference(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        check_features(artifact(), names)


def test_the_same_features_are_accepted() -> None:
    check_features(artifact(), list(NAMES))
