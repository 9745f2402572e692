"""A trained model on disk: `manifest.json` for people and checks, safetensors for weights, scale and error levels.

Nothing in it is executable, and nothing is used before the fingerprint over every tensor byte and every manifest field
that shapes results has been found right. The manifest names its weights file, so replacing the manifest is the one
moment at which a folder goes from the old model to the new one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy
from torch import Tensor

from anomaly_daemon.domain.errors import ArtifactError
from anomaly_daemon.model.autoencoder import Autoencoder, Shape
from anomaly_daemon.model.charts import ChartFit
from anomaly_daemon.model.conditional import ConditionalFit, ConditionalHead
from anomaly_daemon.model.linear import LinearFit
from anomaly_daemon.model.scaling import FleetScale, Tails
from anomaly_daemon.model.surprise import SurpriseFit
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior

SCHEMA_VERSION = 5
MANIFEST = "manifest.json"
_REMEDY = "run `anomaly-daemon train`, or name another folder in model.artifact"
_VERSION_DIGITS = 12
_NAMES_TOLD_MAX = 10
_BYTES_MAX = 8 << 30

Tensors = Mapping[str, NDArray[Any]]


class Calibration(NamedTuple):
    """Of one evidence channel on the validation part: mean and variance of log(error + 1e-6), and the error that one in a hundred exceeds."""

    mean: float
    variance: float
    quantile: float


@dataclass(frozen=True, slots=True)
class History:
    """How the model came to be, for people: it shapes no result and is not part of the fingerprint.

    settings: the training section. source: what was read, as asked for. rows: by part. One loss an epoch; best_epoch counts
    from 1, and is 0 where the network was not trained. test_loss: None then too, and where no part was held out for it.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    entities: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    training_losses: tuple[float, ...] = ()
    validation_losses: tuple[float, ...] = ()
    best_epoch: int = 0
    test_loss: float | None = None
    torch_version: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """All that judging needs of training.

    features: names, in the order of the columns. scale_kind: `entity` or `fleet`, tails: `clip` or `asinh`, as trained.
    prediction_level: float32 [F], reconstruction_level: float32 [K, F]: root mean squared error on the validation part, scaled.
    level, residual, linear_chart: how averages stray, of values and of what the network and `linear` did not foresee. surprise: how far values go.
    calibration: by evidence channel; without those of the network where it was not trained.
    conditional: None where training was not asked for it.
    model: in eval mode.
    score_prior: of the fused score, over all models; the folder's own ones have none to themselves.
    own: (shell-style pattern over the entity, the artifact that serves those that fit), the first that fits wins; all others this one serves.
    """

    name: str
    shape: Shape
    features: tuple[str, ...]
    scale: FleetScale
    scale_kind: str
    model: Autoencoder
    prediction_level: Tensor
    reconstruction_level: Tensor
    level: ChartFit
    residual: ChartFit
    linear: LinearFit
    linear_chart: ChartFit
    surprise: SurpriseFit
    calibration: Mapping[str, Calibration]
    history: History = field(default_factory=History)
    own: tuple[tuple[str, Artifact], ...] = ()
    tails: Tails = "clip"
    conditional: ConditionalFit | None = None
    score_prior: ScorePrior = UNKNOWN

    @property
    def all(self) -> tuple[Artifact, ...]:
        """Every model in the folder, the one for everybody else first."""
        return (self, *(own for _, own in self.own))

    @property
    def decode_steps(self) -> int:
        """K, the observations that one reconstruction rebuilds at most."""
        return len(self.reconstruction_level)

    @property
    def fingerprint(self) -> str:
        """Names the model by what shapes its results: 64 hex digits."""
        return _fingerprint(_tensors(self), self.shape, self.features, (self.scale_kind, self.tails), self.score_prior, _calibrations(self))

    @property
    def version(self) -> str:
        """The fingerprint's first digits, as told in alerts."""
        return self.fingerprint[:_VERSION_DIGITS]


class _Own(msgspec.Struct, forbid_unknown_fields=True):
    """A model that serves some entities, as written; its tensors stand beside the others, under its number."""

    match: str
    calibration: dict[str, Calibration]
    history: History


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """The manifest as written."""

    schema_version: int
    name: str
    version: str
    fingerprint: str
    weights: str
    features: tuple[str, ...]
    shape: Shape
    scale: str
    tails: Tails
    calibration: dict[str, Calibration]
    score_prior: ScorePrior
    history: History
    own: tuple[_Own, ...] = ()


class _Head(msgspec.Struct):
    """What every version of the manifest has."""

    schema_version: int


def save(artifact: Artifact, folder: Path) -> None:
    """Write the artifact durably. At any moment the folder holds one whole artifact, the old or the new; other files in it stay.

    Raises ArtifactError where the folder cannot be written.
    """
    version, fingerprint = artifact.version, artifact.fingerprint
    weights = f"weights-{version}.safetensors"
    manifest = _Manifest(
        schema_version=SCHEMA_VERSION,
        name=artifact.name,
        version=version,
        fingerprint=fingerprint,
        weights=weights,
        features=artifact.features,
        shape=artifact.shape,
        scale=artifact.scale_kind,
        tails=artifact.tails,
        calibration=dict(artifact.calibration),
        score_prior=artifact.score_prior,
        history=artifact.history,
        own=tuple(_Own(match, dict(own.calibration), own.history) for match, own in artifact.own),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / weights, safetensors_numpy.save(dict(_tensors(artifact))))
        _replace(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        for old in folder.glob("weights-*.safetensors"):
            if old.name != weights:
                old.unlink()
    except OSError as error:
        raise _unwritable(folder, str(error)) from None


def check_writable(folder: Path) -> None:
    """Refuse a folder that `save` could not write, before hours are spent on what goes into it. Raises ArtifactError; writes nothing."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise _unwritable(folder, f"{nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"no permission to write in {nearest}")


def load(folder: Path) -> Artifact:
    """The artifact, checked whole. Raises ArtifactError with what is wrong, where, and the remedy."""
    manifest = _read_manifest(folder / MANIFEST)
    path = folder / manifest.weights
    if path.parent != folder:
        raise ArtifactError(f"{folder / MANIFEST}: names weights outside its folder: {manifest.weights!r}; {_REMEDY}")
    try:
        tensors = safetensors_numpy.load(_read(path))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: is not a whole safetensors file: {error}; {_REMEDY}") from None
    if manifest.fingerprint != _fingerprint(
        tensors,
        manifest.shape,
        manifest.features,
        (manifest.scale, manifest.tails),
        manifest.score_prior,
        [("", manifest.calibration), *((own.match, own.calibration) for own in manifest.own)],
    ):
        raise ArtifactError(f"{path}: does not match the fingerprint in {MANIFEST}: one of them is damaged or was edited; {_REMEDY}")
    try:
        own = tuple((one.match, _assemble(manifest, tensors, one, f"own.{number}.")) for number, one in enumerate(manifest.own))
        return replace(_assemble(manifest, tensors, manifest), own=own, score_prior=manifest.score_prior)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path}: does not fit the shape in {MANIFEST}: {' '.join(str(error).split())}; {_REMEDY}") from None


def check_features(artifact: Artifact, names: Sequence[str]) -> None:
    """Refuse a model of other features than the settings', or of another order. Raises ArtifactError that lists the difference."""
    if artifact.features == tuple(names):
        return
    only_model = [name for name in artifact.features if name not in names]
    only_settings = [name for name in names if name not in artifact.features]
    differences = [
        f"{where}: {', '.join(found[:_NAMES_TOLD_MAX])}{' …' if len(found) > _NAMES_TOLD_MAX else ''}"
        for where, found in (("only in the model", only_model), ("only in the settings", only_settings))
        if found
    ]
    told = "; ".join(differences) or f"another order, the model has {', '.join(artifact.features[:_NAMES_TOLD_MAX])}"
    raise ArtifactError(f"model {artifact.name} {artifact.version} was trained on other features than record.features ({told}); {_REMEDY}")


def _unwritable(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(f"model artifact {folder}: cannot be written: {why}; name another folder with --output or model.artifact")


def _calibrations(artifact: Artifact) -> list[tuple[str, Mapping[str, Calibration]]]:
    return [("", artifact.calibration), *((match, own.calibration) for match, own in artifact.own)]


def _tensors(artifact: Artifact) -> Tensors:
    own = {f"own.{number}.{name}": values for number, (_, one) in enumerate(artifact.own) for name, values in _tensors(one).items()}
    tensors: dict[str, NDArray[Any]] = {f"model.{name}": tensor.detach().cpu().numpy() for name, tensor in artifact.model.state_dict().items()}
    tensors["scale.center"] = artifact.scale.center
    tensors["scale.deviation"] = artifact.scale.deviation
    tensors["scale.gap"] = np.array([artifact.scale.gap_mean, artifact.scale.gap_deviation])
    tensors["usual.prediction"] = artifact.prediction_level.cpu().numpy()
    tensors["usual.reconstruction"] = artifact.reconstruction_level.cpu().numpy()
    for name, chart in (("level", artifact.level), ("residual", artifact.residual), ("linear_chart", artifact.linear_chart)):
        tensors[f"{name}.spans"] = np.array(chart.spans, np.int64)
        tensors[f"{name}.whitening"] = chart.whitening.cpu().numpy()
        tensors[f"{name}.ordinary"] = chart.ordinary.cpu().numpy()
    tensors["linear.weights"] = artifact.linear.weights.cpu().numpy()
    tensors["linear.level"] = artifact.linear.level.cpu().numpy()
    tensors["surprise.half_lives"] = np.array(artifact.surprise.half_lives_s)
    tensors |= {f"surprise.{name}": tensor.cpu().numpy() for name, tensor in artifact.surprise.tensors().items()}
    if artifact.conditional is not None:
        tensors |= _conditional_tensors(artifact.conditional)
    return tensors | own


def _conditional_tensors(fit: ConditionalFit) -> dict[str, NDArray[Any]]:
    weights = {f"conditional.head.{name}": tensor.detach().cpu().numpy() for name, tensor in fit.head.state_dict().items()}
    return weights | {"conditional.spans": np.array(fit.spans, np.int64), "conditional.ordinary": fit.ordinary.cpu().numpy()}


def _assemble(manifest: _Manifest, every: Tensors, one: _Manifest | _Own, prefix: str = "") -> Artifact:
    """One of the folder's models."""
    tensors = {name.removeprefix(prefix): values for name, values in every.items() if name.startswith(prefix)}
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away; the process's generator must not notice
        model = Autoencoder(manifest.shape)
    model.load_state_dict({name.removeprefix("model."): torch.from_numpy(values) for name, values in tensors.items() if name.startswith("model.")})
    gap_mean, gap_deviation = tensors["scale.gap"].tolist()
    return Artifact(
        name=manifest.name,
        shape=manifest.shape,
        features=manifest.features,
        scale=FleetScale(tensors["scale.center"], tensors["scale.deviation"], gap_mean, gap_deviation),
        scale_kind=manifest.scale,
        tails=manifest.tails,
        model=model.eval().requires_grad_(False),
        prediction_level=torch.from_numpy(tensors["usual.prediction"]),
        reconstruction_level=torch.from_numpy(tensors["usual.reconstruction"]),
        level=_chart(tensors, "level"),
        residual=_chart(tensors, "residual"),
        linear=LinearFit(torch.from_numpy(tensors["linear.weights"]), torch.from_numpy(tensors["linear.level"])),
        linear_chart=_chart(tensors, "linear_chart"),
        surprise=_surprise(tensors),
        calibration=one.calibration,
        history=one.history,
        conditional=_conditional(tensors, manifest.shape) if "conditional.spans" in tensors else None,
    )


def _conditional(tensors: Tensors, shape: Shape) -> ConditionalFit:
    weights = {
        name.removeprefix("conditional.head."): torch.from_numpy(values) for name, values in tensors.items() if name.startswith("conditional.head.")
    }
    with torch.random.fork_rng(devices=[]):
        head = ConditionalHead(shape.hidden, len(weights["first.weight"]), weights["is_context"])
    head.load_state_dict(weights)
    return ConditionalFit(
        tuple(tensors["conditional.spans"].tolist()), head.eval().requires_grad_(False), torch.from_numpy(tensors["conditional.ordinary"])
    )


def _chart(tensors: Tensors, name: str) -> ChartFit:
    whitening, ordinary = (torch.from_numpy(tensors[f"{name}.{part}"]) for part in ("whitening", "ordinary"))
    return ChartFit(tuple(tensors[f"{name}.spans"].tolist()), whitening, ordinary)


def _surprise(tensors: Tensors) -> SurpriseFit:
    parts = {name: torch.from_numpy(tensors[f"surprise.{name}"]) for name in ("knots", "surprise", "reach", "discount", "ordinary")}
    return SurpriseFit(tuple(tensors["surprise.half_lives"].tolist()), **parts)


def _fingerprint(
    tensors: Tensors,
    shape: Shape,
    features: Sequence[str],
    scale: tuple[str, str],
    score_prior: ScorePrior,
    calibrations: Sequence[tuple[str, Mapping[str, Calibration]]],
) -> str:
    ordered = [(match, sorted(calibration.items())) for match, calibration in calibrations]
    digest = hashlib.sha256(msgspec.json.encode((SCHEMA_VERSION, shape, tuple(features), scale, score_prior, ordered)))
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _read_manifest(path: Path) -> _Manifest:
    content = _read(path)
    try:
        version = msgspec.json.decode(content, type=_Head).schema_version
        if version != SCHEMA_VERSION:
            raise ArtifactError(f"{path}: is of schema version {version}, this program reads {SCHEMA_VERSION}; {_REMEDY}")
        return msgspec.json.decode(content, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not the manifest of a model artifact: {error}; {_REMEDY}") from None


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            raise ArtifactError(f"{path}: is not a file; {_REMEDY}")
        if (found := path.stat().st_size) > _BYTES_MAX:
            raise ArtifactError(f"{path}: has {found} bytes, a model has {_BYTES_MAX} at most; {_REMEDY}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; {_REMEDY}") from None
    except ValueError as error:  # of a name with a null character
        raise ArtifactError(f"{path}: cannot be read: {error}; {_REMEDY}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}; {_REMEDY}") from None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
