"""`train`: fits scale and weights on a range of a topic or of files, and writes the artifact and its loss plot."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from anomaly_daemon.commands.incidents import plain
from anomaly_daemon.commands.progress import progress_bar
from anomaly_daemon.domain.entity import EntityMatcher
from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.statistics.score_prior import LEVELS, ScorePrior

if TYPE_CHECKING:
    from anomaly_daemon.model.artifact import Artifact, History
    from anomaly_daemon.model.corpus import EntitySequence
    from anomaly_daemon.model.scaling import FleetScale
    from anomaly_daemon.model.training import Progress
    from anomaly_daemon.settings import Settings, Threshold

FACTOR_DOUBTED_MIN: Final = 1000.0
FACTOR_MAX: Final = 1e6
BEYOND_DOUBTED_MIN: Final = 0.05
_SPREAD_REMEDY: Final = (
    "train on a range that holds what is usual several times, such as some whole days (--from, --to), and let model.scale_observations span a day "
    "too; where the losses still fell, raise training.epochs"
)
STRAY_RATIO_MIN: Final = 10.0
_STRAY_REMEDY: Final = (
    "what is smaller than that deviation is hardly told: where sensors failed give the feature its `possible` range, or train on another stretch "
    "(--from, --to); give entities unlike the others models of their own (model.per: entity)"
)
_STRAYS_TOLD_MAX: Final = 3
_SAMPLED_MAX, _NEARLY_ALL, _NEARLY_ALL_DEVIATIONS = 100_000, (0.1, 0.9), 2.563  # so far apart are these quantiles of a normal distribution

log = structlog.get_logger(__name__)


def run(options: argparse.Namespace) -> int:
    """Read, fit, write."""
    from anomaly_daemon.model.artifact import check_writable, save
    from anomaly_daemon.model.fitting import fit
    from anomaly_daemon.model.plot import LOSS_PLOT, plot_losses
    from anomaly_daemon.pipeline.features import FeatureTransforms
    from anomaly_daemon.pipeline.rehearsal import rehearse
    from anomaly_daemon.settings import features_of, load
    from anomaly_daemon.telemetry import logging
    from anomaly_daemon.wiring import pick_device, priors_of

    settings = load(options.config, options.assignments)
    logging.configure(settings.logging.level, options.log_format or settings.logging.format)
    if options.rows is not None and options.rows < 1:
        raise InputError(f"--rows {options.rows}: take at least one observation of each entity")
    folder = options.output or settings.model.artifact
    check_writable(folder)
    sequences = _chosen(_read(settings, options), options.entities, options.rows)
    names = FeatureTransforms(features_of(settings)).names
    with _training_progress(settings.training.epochs, settings.model.per) as report:
        artifact = fit(sequences, settings, names, report, _source(settings, options))
    left = [match for match in settings.model.groups if match not in dict(artifact.own)]
    if left:
        log.warning(
            "groups_left_to_fleet",
            groups=left,
            remedy="no entity in the range fits them first, or too little of it: widen the range, or mend model.groups",
        )
    artifact = replace(artifact, score_prior=rehearse(artifact, sequences, settings, priors_of(settings, artifact), pick_device(settings)))
    strays = _some(strays_of(artifact.scale, names, [one.values for one in sequences]))
    if strays:
        log.warning("few_readings_make_the_scale", reason="; ".join(strays), remedy=_STRAY_REMEDY)
    doubts = doubts_of(artifact.score_prior, settings.threshold)
    for doubt in doubts:
        log.warning("scores_hard_to_judge", reason=doubt, remedy=_SPREAD_REMEDY)
    save(artifact, folder)
    plot_losses(artifact.history, folder / LOSS_PLOT)
    _print_summary(artifact, folder, settings.model.per, doubts, strays)
    return 0


def doubts_of(prior: ScorePrior, threshold: Threshold) -> list[str]:
    """What the rehearsal showed that makes a threshold of so many deviations of the log score a poor one; nothing for other methods.

    Deaf: the scores of young entities vary so much that one thousands of times as high as usual is within them. Loud: scores that were held out
    lie beyond the threshold too often, so that what training saw was not the whole of what is usual.
    """
    if threshold.method != "ewma":
        return []
    factor = math.exp(min(threshold.z * math.sqrt(prior.variance), math.log(FACTOR_MAX)))
    doubts = [f"a score {factor:,.0f} times the usual is none to alarm at z {threshold.z:g}"] if factor >= FACTOR_DOUBTED_MIN else []
    beyond = max((level for level, quantile in zip(LEVELS, prior.quantiles, strict=True) if quantile > threshold.z), default=0.0)
    if beyond >= BEYOND_DOUBTED_MIN:
        doubts.append(f"of the records held out {beyond:.0%} or more score beyond z {threshold.z:g}")
    return doubts


def strays_of(scale: FleetScale, names: Sequence[str], values: Sequence[NDArray[np.float32]]) -> list[str]:
    """What few readings did to the scale that all are held against: of each feature whose deviation is far above that of nearly all its readings.

    values: [T, F] of each entity, NaN = missing. Nothing is said of a feature that hardly ever varies.
    """
    rows = np.concatenate(values)
    rows = rows[:: max(1, len(rows) // _SAMPLED_MAX)]
    found = []
    for name, column, deviation in zip(names, rows.T, scale.deviation.tolist(), strict=True):
        there = column[np.isfinite(column)]
        low, middle, high = np.quantile(there, (_NEARLY_ALL[0], 0.5, _NEARLY_ALL[1])).tolist() if len(there) else (0.0, 0.0, 0.0)
        usual = (high - low) / _NEARLY_ALL_DEVIATIONS
        if usual > 0 and deviation > STRAY_RATIO_MIN * usual:
            share = float((np.abs(there - middle) > STRAY_RATIO_MIN * usual).mean())
            found.append(f"{name} has deviation {deviation:.4g}, nearly all of its readings {usual:.3g}: {share:.2%} of them lie far off")
    return found


def _some(strays: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    left = len(strays) - _STRAYS_TOLD_MAX
    return strays if left <= 0 else [*strays[:_STRAYS_TOLD_MAX], f"and {left} features more"]


def _read(settings: Settings, options: argparse.Namespace) -> list[EntitySequence]:
    """Every entity's features in the range, by the service's own decoder and transforms."""
    from anomaly_daemon.pipeline.decode import Decoder
    from anomaly_daemon.pipeline.features import FeatureTransforms
    from anomaly_daemon.pipeline.sequences import SequenceReader, parse_range, read_sequences
    from anomaly_daemon.settings import features_of
    from anomaly_daemon.wiring import open_source

    wanted = parse_range(options.start, options.end)
    reader = SequenceReader(Decoder(settings.record), FeatureTransforms(features_of(settings)))
    with closing(open_source(settings, options.source, options.topic)) as source, progress_bar("reading") as advance:
        sequences = read_sequences(source, reader, wanted, advance)
    rejected = {reason.value: count for reason, count in reader.rejections.most_common()}
    log.info("range_read", records=reader.read, outside=reader.outside, rejected=rejected, entities=len(sequences))
    return sequences


def _chosen(sequences: Sequence[EntitySequence], pattern: str | None, rows: int | None) -> list[EntitySequence]:
    """The entities that fit, each no longer than asked for. Raises InputError when none fits."""
    fits = EntityMatcher(pattern or "*").compiled().match
    found = [replace(one, values=one.values[:rows], gaps_s=one.gaps_s[:rows]) for one in sequences if fits(one.entity)]
    if not found:
        raise InputError(f"--entities {pattern}: none of the {len(sequences)} entities in the range fits, such as {sequences[0].entity}")
    return found


def _source(settings: Settings, options: argparse.Namespace) -> dict[str, object]:
    """What was asked for, as the manifest tells it."""
    return {
        "log": options.source or settings.log,
        "topics": options.topic or list(settings.input.topics),
        "from": options.start,
        "to": options.end,
        "entities": options.entities,
        "rows": options.rows,
    }


@contextmanager
def _training_progress(epochs: int, per: str) -> Iterator[Callable[[str, Progress], None]]:
    """Epoch, losses and time left on standard error while it is a terminal; elsewhere one log line an epoch."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    validation = best = "–"
    with Bar(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=epochs)

        def report(match: str, progress: Progress) -> None:
            nonlocal validation, best
            if progress.validation_loss is not None:
                validation = f"{progress.validation_loss:.4f}"
                best = validation if progress.is_best else best
                if not console.is_terminal:
                    log.info("epoch_trained", **({} if per == "fleet" else {"model": match}), **_told(progress))
            whose = "" if per == "fleet" else f"{escape(plain(match))}  "
            told = f"{whose}epoch {progress.epoch}/{epochs}  training {progress.training_loss:.4f}  validation {validation}  best {best}"
            bar.update(task, completed=progress.epoch - 1 + progress.chunk / progress.chunks, description=told)

        yield report


def _told(progress: Progress) -> dict[str, object]:
    losses = {"training_loss": round(progress.training_loss, 4), "validation_loss": round(progress.validation_loss or 0.0, 4)}
    return {"epoch": progress.epoch, "epochs_max": progress.epochs, **losses, "is_best": progress.is_best}


def _told_of_training(history: History) -> dict[str, str]:
    if not history.best_epoch:
        return {"epochs": "0, no channel of evidence.channels asks the network"}
    best = history.best_epoch - 1
    losses = {"training": history.training_losses[best], "validation": history.validation_losses[best], "test": history.test_loss}
    return {
        "epochs": f"{len(history.training_losses)}, the weights of epoch {history.best_epoch} kept",
        "losses": ", ".join(f"{loss:.4f} {part}" for part, loss in losses.items() if loss is not None),
    }


def _print_summary(artifact: Artifact, folder: Path, per: str, doubts: Sequence[str], strays: Sequence[str]) -> None:
    history = artifact.history
    rows = {
        "entities": f"{history.entities:,}",
        "rows": ", ".join(f"{count:,} {part}" for part, count in history.rows.items()),
        **_told_of_training(history),
        "network": f"{len(artifact.features)} features, {artifact.shape.hidden} units, code {artifact.shape.code}, {artifact.shape.layers} layer(s)",
        "models": f"1 for all, {len(artifact.own):,} for {'entities' if per == 'entity' else 'groups'} of their own"
        if per != "fleet"
        else "1 for all",
        **({"readings": "; ".join(strays)} if strays else {}),
        **({"scores": "; ".join(doubts)} if doubts else {}),
        "folder": str(folder),
        "fingerprint": artifact.version,
    }
    for name, told in rows.items():
        print(f"{name:<12} {told}")
