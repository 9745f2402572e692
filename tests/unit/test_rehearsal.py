import json
from dataclasses import replace

import numpy as np
import pytest

from anomaly_daemon import wiring
from anomaly_daemon.domain.records import Batch, Record
from anomaly_daemon.model.corpus import EntitySequence, split
from anomaly_daemon.pipeline.rehearsal import rehearse
from anomaly_daemon.statistics.reach import moments_within
from anomaly_daemon.statistics.score_prior import UNKNOWN, ScorePrior
from tests import small

ROWS = 240


def sequences() -> list[EntitySequence]:
    generator = np.random.default_rng(0)
    gaps_s = np.append(np.nan, np.full(ROWS - 1, 60.0))
    return [EntitySequence(f"pump-{number}", small.signal(generator, ROWS, number), gaps_s) for number in range(4)]


def _body(values: np.ndarray, step: int) -> bytes:
    return json.dumps({**dict(zip(small.NAMES, values.tolist(), strict=True)), "time": 1_700_000_000 + 60 * step}).encode()


def rehearsed(*assignments: str) -> ScorePrior:
    settings, trained = small.settings(*assignments), [one for one in assignments if one.split("=")[0] in small.TRAINED]
    artifact = small.artifact(*trained)
    return rehearse(artifact, sequences(), settings, wiring.priors_of(settings, artifact), "cpu")


@pytest.mark.parametrize("assignments", [(), ("model.per=entity",), ("threshold.method=spot",)])
def test_what_is_found_are_the_scores_that_the_daemon_gives_to_the_same_history(assignments: tuple[str, ...]) -> None:
    history = sequences()
    records = [
        Record(small.P, 4 * step + number, 0, one.entity.encode(), _body(one.values[step], step))
        for step in range(ROWS)
        for number, one in enumerate(history)
    ]
    built, _ = small.processor(*assignments)
    built.begin(small.P)
    output = built.process(Batch(records), {})
    built.close()
    assert output.scored is not None
    score = output.scored.scores.anomaly_score.reshape(ROWS, 4)

    found = rehearsed(*assignments)

    warmup = small.settings().threshold.warmup_observations
    logs = np.log(score / (1 - score) + 1e-6)[:warmup]
    assert (found.mean, found.variance) == pytest.approx(moments_within(logs[~np.isnan(logs)]), abs=1e-6)


def test_the_quantiles_are_of_the_held_out_part_and_rise() -> None:
    found = rehearsed()

    assert split(ROWS, small.settings().training).training < ROWS
    assert found.quantiles != UNKNOWN.quantiles
    assert list(found.quantiles) == sorted(set(found.quantiles))


def test_another_prior_is_another_model() -> None:
    artifact = small.artifact()

    assert replace(artifact, score_prior=rehearsed()).fingerprint != artifact.fingerprint


def test_without_any_history_nothing_is_known() -> None:
    settings = small.settings()

    assert rehearse(small.artifact(), [], settings, wiring.priors_of(settings, small.artifact()), "cpu") == UNKNOWN
