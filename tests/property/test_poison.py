"""Nothing that a stream holds poisons what comes after it: one broken stretch, then the same judgement as ever, of a fault too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_daemon import settings as settings_of
from anomaly_daemon import wiring
from anomaly_daemon.channels.adaptive import ADAPTIVE
from anomaly_daemon.channels.novelty import NOVELTY
from anomaly_daemon.domain.records import Batch, Record, Scores
from anomaly_daemon.model.artifact import Artifact
from anomaly_daemon.model.corpus import EntitySequence
from anomaly_daemon.model.fitting import fit
from anomaly_daemon.settings.evidence import NETWORK_CHANNELS
from tests.small import EVERY_CHANNEL, P, artifact, is_sound, signal
from tests.small import settings as small_settings

DAY_S = 86_400
START_S = 1_700_000_000
BEFORE, AFTER = 150, 150
# What a sound stream's evidence may be after a broken stretch, against the same stream without it: the charts' longest span is 30 records.
LATE = 100
FAULT = 3
BODIES: dict[str, dict[str, Any]] = {
    "huge": {"flow": 1e300, "pressure": -1e300, "current": 3.4e38},
    "missing": {"flow": 0.1, "pressure": None, "current": None},
    "stuck": {"flow": 0.0, "pressure": 0.0, "current": 0.0},
    "tiny": {"flow": 1e-310, "pressure": -1e-310, "current": 0.0},
}


def record(offset: int, time_s: float, values: dict[str, Any]) -> Record:
    return Record(P, offset, 0, b"pump-1", json.dumps({**values, "time": time_s}).encode())


def judged(wanted: settings_of.Settings, trained: Artifact, records: Sequence[Record]) -> Scores:
    """The scores of a stream; all that is kept after it is sound."""
    built, fingerprint, _ = wiring.build_processor(wanted, trained)
    with closing(built):
        built.begin(P)
        scored = built.process(Batch(records), {}).scored
        kept = built.snapshot(P, len(records), fingerprint).columns
    assert scored is not None
    assert not scored.rejections, scored.rejections[0].detail
    for name, column in kept.items():
        assert is_sound(name, column), name
    scores = scored.scores
    told = ~np.isnan(np.stack(list(scores.evidence.values()))).all(0)
    assert (np.isfinite(scores.anomaly_score) == told).all()
    assert all(np.isfinite(errors[~np.isnan(errors)]).all() for errors in scores.evidence.values())
    return scores


def sound(first: int, count: int, offset: int, start_s: float) -> list[Record]:
    values = signal(np.random.default_rng(7), BEFORE + AFTER, 1)[first : first + count]
    names = ("flow", "pressure", "current")
    return [
        record(offset + step, start_s + 60 * step, dict(zip(names, (round(float(value), 5) for value in row), strict=True)))
        for step, row in enumerate(values)
    ]


def sound_to_a_fault(offset: int) -> list[Record]:
    """What comes after a broken stretch: sound records, and at the end a few that are twenty deviations off."""
    records = sound(BEFORE, AFTER, offset, START_S + 60 * offset)
    for place, one in enumerate(records[-FAULT:], len(records) - FAULT):
        values = json.loads(one.value or b"")
        records[place] = Record(P, one.offset, 0, one.key, json.dumps(values | {"pressure": values["pressure"] + 20}).encode())
    return records


@cache
def undisturbed(wishes: tuple[str, ...]) -> Scores:
    return judged(small_settings(*wishes), artifact(*wishes), [*sound(0, BEFORE, 0, START_S), *sound_to_a_fault(BEFORE)])


def after_a_stretch(kind: str, wishes: tuple[str, ...]) -> Scores:
    length = 12
    broken = [record(BEFORE + step, START_S + 60 * (BEFORE + step), BODIES[kind]) for step in range(length)]
    return judged(small_settings(*wishes), artifact(*wishes), [*sound(0, BEFORE, 0, START_S), *broken, *sound_to_a_fault(BEFORE + length)])


@pytest.mark.parametrize("wishes", [(), ("model.tails=asinh",), ("model.scale=fleet",), (EVERY_CHANNEL,)], ids=str)
@pytest.mark.parametrize("kind", BODIES)
def test_a_broken_stretch_is_forgotten(kind: str, wishes: tuple[str, ...]) -> None:
    scores = after_a_stretch(kind, wishes).anomaly_score

    usual = undisturbed(wishes).anomaly_score
    late, as_usual = (np.median(one[-AFTER + LATE : -FAULT]) for one in (scores, usual))
    assert as_usual / 1.3 - 0.05 < late < 1.3 * as_usual + 0.05
    assert scores[-FAULT:].max() > usual[-FAULT:].max() - 0.05


@pytest.mark.parametrize("kind", BODIES)
def test_no_channel_is_deaf_after_a_broken_stretch(kind: str) -> None:
    evidence, usual = after_a_stretch(kind, (EVERY_CHANNEL,)).evidence, undisturbed((EVERY_CHANNEL,)).evidence

    # A dozen readings of 1e300 widen the ranges of those that remember: README, "What does".
    heard = {name for name in evidence if kind != "huge" or name not in (NOVELTY, ADAPTIVE)}
    assert {name for name in heard if not np.nanmax(evidence[name][-FAULT:]) > 0.5 * np.nanmax(usual[name][-FAULT:])} == set()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 60, -60, -DAY_S, 0.5 * DAY_S, 9 * DAY_S, 1e-3]), min_size=10, max_size=40))
def test_duplicated_backward_and_far_apart_timestamps_are_judged_and_kept_finite(steps: list[float]) -> None:
    wishes = (EVERY_CHANNEL, "record.time={path: time, format: s}", "evidence.surprise={half_lives: [10m, 1h]}")
    times_s = START_S + np.cumsum(steps)
    values = signal(np.random.default_rng(3), len(steps), 2)
    rows = [
        record(offset, float(time_s), {"flow": float(row[0]), "pressure": float(row[1]), "current": float(row[2])})
        for offset, (time_s, row) in enumerate(zip(times_s, values, strict=True))
    ]

    scores = judged(small_settings(*wishes), artifact(), rows)

    assert np.isfinite(scores.anomaly_score[2:]).all()


def test_a_stream_shorter_than_the_warm_up_is_judged_without_a_number_that_is_none() -> None:
    wanted = small_settings(EVERY_CHANNEL, "threshold.warmup_observations=1000")

    for length in (1, 2, 3):
        scores = judged(wanted, artifact(), sound(0, length, 0, START_S))
        assert len(scores.anomaly_score) == length


@pytest.mark.parametrize(("features", "broken"), [(1, 1e300), (1, 0.0), (500, 1e300), (500, -1e300), (500, 0.0), (500, None)])
def test_streams_of_one_feature_and_of_five_hundred_are_judged_after_a_broken_stretch_too(features: int, broken: float | None) -> None:
    wanted, trained = wide(features)
    values = np.random.default_rng(1).normal(size=(60, features)).tolist()
    values[20:26] = [[1.0, *[broken] * (features - 1)] if broken is None else [broken] * features] * 6
    rows = [record(step, START_S + 60 * step, {f"f{number}": value for number, value in enumerate(row)}) for step, row in enumerate(values)]

    scores = judged(wanted, trained, rows)

    assert np.isfinite(np.r_[scores.anomaly_score[2:20], scores.anomaly_score[26:]]).all()


@cache
def wide(features: int) -> tuple[settings_of.Settings, Artifact]:
    names = [f"f{number}" for number in range(features)]
    channels = [*NETWORK_CHANNELS, "linear", "level", "surprise", *(["novelty", "adaptive"] if features == 1 else [])]
    wanted = settings_of.load(
        (),
        (
            f"record.features=[{', '.join(f'{{name: {name}}}' for name in names)}]",
            "record.time={path: time, format: s}",
            f"evidence.channels=[{', '.join(channels)}]",
            "model.hidden=4",
            "model.code=2",
            "training.epochs=1",
            "engine.ring=16",
        ),
        {},
    )
    values = np.random.default_rng(0).normal(size=(200, features)).astype(np.float32)
    return wanted, fit([EntitySequence("pump-1", values, np.full(200, 60.0))], wanted, names)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["corner", "market", *(f"shop-{number}" for number in range(40))]) | st.text(max_size=9), min_size=3, max_size=60))
def test_categories_never_seen_are_judged_however_many(shops: list[str]) -> None:
    rows = [record(step, START_S + 60 * step, {"amount": 20.0, "shop": shop}) for step, shop in enumerate(shops)]

    scores = judged(*shopping(), rows)

    assert np.isfinite(scores.anomaly_score[2:]).all()


@cache
def shopping() -> tuple[settings_of.Settings, Artifact]:
    wanted = settings_of.load(
        (),
        (
            "record.features=[{name: amount, kind: log}, {name: shop, kind: category, values_max: 4}]",
            "record.time={path: time, format: s}",
            "evidence.channels=[prediction, residual, linear, level, surprise, novelty]",
            "model.hidden=4",
            "model.code=2",
            "training.epochs=2",
            "engine.ring=16",
        ),
        {},
    )
    generator = np.random.default_rng(1)
    corpus = np.stack([generator.normal(3, 0.3, 300), np.abs(generator.normal(1, 0.2, 300)), (generator.random(300) < 0.02)], 1).astype(np.float32)
    return wanted, fit([EntitySequence("pump-1", corpus, np.full(300, 60.0))], wanted, ["amount", "shop_rarity", "shop_new"])
