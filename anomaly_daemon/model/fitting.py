"""From sequences to an artifact: scale, network, and what is usual under it; for all, and for those that shall have a model of their own."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from anomaly_daemon.domain.entity import EntityMatcher, Profiles
from anomaly_daemon.model.artifact import Artifact, History
from anomaly_daemon.model.autoencoder import Autoencoder
from anomaly_daemon.model.calibration import calibrate
from anomaly_daemon.model.corpus import Corpus, EntitySequence, build, held_out_pieces, is_enough, joined
from anomaly_daemon.model.objective import held_out_loss
from anomaly_daemon.model.scaling import FleetScale
from anomaly_daemon.model.training import Course, Progress, train_network
from anomaly_daemon.settings import Settings

NAME = "lstm-autoencoder"
FLEET = "*"
Report = Callable[[str, Progress], None]
Group = tuple[str, Sequence[EntitySequence]]


def fit(
    sequences: Sequence[EntitySequence],
    settings: Settings,
    names: Sequence[str],
    report: Report = lambda _, __: None,
    source: Mapping[str, Any] | None = None,
) -> Artifact:
    """Fit on these sequences, models for groups or entities of their own included. The same sequences, settings and seed give the same bytes.

    names: of the columns. report: called after every chunk, with the pattern of the model under way, `*` for the fleet's. source: what was read,
    for the artifact's history. Raises InputError where there is too little to train on, and when training diverges.
    """
    corpus, scale = build(sequences, settings)
    own = [(match, chosen) for match, chosen in _groups(sequences, settings) if is_enough(chosen, settings.training)]
    parts = [(match, *build(chosen, settings)) for match, chosen in own]
    is_shared = bool(parts) and settings.model.network == "shared"

    def trained(match: str, on: Corpus) -> tuple[Autoencoder, Course]:
        return train_network(on, settings, lambda progress: report(match, progress))

    fleet = trained(FLEET, joined([one for _, one, _ in parts]) if is_shared else corpus)
    networks = [fleet if is_shared else trained(match, one) for match, one, _ in parts]

    def assembled(network: tuple[Autoencoder, Course], on: Corpus, own_scale: FleetScale) -> Artifact:
        return _assembled(network, on, own_scale, settings, names, source or {})

    own_artifacts = [(match, assembled(network, one, own_scale)) for network, (match, one, own_scale) in zip(networks, parts, strict=True)]
    return replace(assembled(fleet, corpus, scale), own=tuple(own_artifacts))


def _groups(sequences: Sequence[EntitySequence], settings: Settings) -> Iterator[Group]:
    """By pattern, what a model of its own is fitted on; a sequence counts for the first pattern that it fits."""
    if settings.model.per == "entity":
        for sequence in sequences:
            yield glob.escape(sequence.entity), [sequence]
    groups = Profiles([EntityMatcher(match) for match in settings.model.groups])
    place = [groups.index(sequence.entity) for sequence in sequences]
    for number, match in enumerate(settings.model.groups, start=1):
        yield match, [sequence for sequence, group in zip(sequences, place, strict=True) if group == number]


def _assembled(
    network: tuple[Autoencoder, Course], corpus: Corpus, scale: FleetScale, settings: Settings, names: Sequence[str], source: Mapping[str, Any]
) -> Artifact:
    """A trained network with what is usual of the corpus under it."""
    model, course = network
    device = model.code.weight.device
    corpus = replace(corpus, values=corpus.values.to(device), gaps=corpus.gaps.to(device))
    validation, test = (held_out_pieces(corpus, part, settings.training.steps) for part in ("validation", "test"))
    usual = calibrate(model, corpus, scale, validation, settings, names)
    history = History(
        settings=settings.training.model_dump(mode="json"),
        source=dict(source),
        entities=len(corpus.splits),
        rows={part: sum(getattr(split, part) for split in corpus.splits) for part in ("training", "validation", "test")},
        training_losses=tuple(course.training),
        validation_losses=tuple(course.validation),
        best_epoch=course.best_epoch,
        test_loss=held_out_loss(model, corpus, test, settings) if len(test) and course.best_epoch else None,
        torch_version=str(torch.__version__),
    )
    return Artifact(
        name=NAME,
        shape=model.shape,
        features=tuple(names),
        scale=scale,
        scale_kind=settings.model.scale,
        tails=settings.model.tails,
        model=model.cpu().eval().requires_grad_(False),
        prediction_level=usual.prediction_level,
        reconstruction_level=usual.reconstruction_level,
        level=usual.level,
        residual=usual.residual,
        linear=usual.linear,
        linear_chart=usual.linear_chart,
        surprise=usual.surprise,
        calibration=usual.calibration,
        history=history,
        conditional=usual.conditional,
    )
