from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from anomaly_daemon.domain.errors import InputError
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.simulation.faults import KINDS
from anomaly_daemon.simulation.pumps import CHANNELS
from anomaly_daemon.simulation.sensors import SensorScenario, sensor_chunks
from anomaly_daemon.simulation.stream import SECOND_US, Floats, Label, Scenario, parse_iso_us

START_US = parse_iso_us("2026-01-01T00:00:00Z")
MINUTE_US = 60 * SECOND_US
FAULTY = SensorScenario(Scenario(8, START_US, 4 * DAY_US, seed=3, clean_share=0.25), MINUTE_US)
HEALTHY = replace(FAULTY, base=replace(FAULTY.base, anomaly_rate=0))


def raw(scenario: SensorScenario) -> list[tuple[bytes, bytes, int]]:
    return [record for chunk in sensor_chunks(scenario) for record in zip(chunk.keys, chunk.values, chunk.times_us, strict=True)]


def labels(scenario: SensorScenario) -> list[Label]:
    return [label for chunk in sensor_chunks(scenario) for label in chunk.labels]


def series(scenario: SensorScenario) -> dict[str, Floats]:
    """Entity → [steps, channels]; a step that was not sent is NaN."""
    readings: dict[str, Floats] = {}
    for key, value, time_us in raw(scenario):
        rows = readings.setdefault(key.decode(), np.full((scenario.steps, len(CHANNELS)), np.nan))
        fields = json.loads(value)
        rows[(time_us - START_US) // scenario.interval_us] = [fields[channel] for channel in CHANNELS]
    return readings


@pytest.fixture(scope="module")
def faulty() -> dict[str, Floats]:
    return series(FAULTY)


@pytest.fixture(scope="module")
def healthy() -> dict[str, Floats]:
    return series(HEALTHY)


@pytest.fixture(scope="module")
def planted() -> list[Label]:
    return labels(FAULTY)


def steps_of(label: Label) -> slice:
    return slice((label.start_us - START_US) // MINUTE_US, (label.end_us - START_US) // MINUTE_US + 1)


def columns_of(label: Label) -> list[int]:
    return [CHANNELS.index(channel) for channel in label.channels]


def is_whole_pump(label: Label) -> bool:
    return len(label.channels) == len(CHANNELS)


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    short = replace(FAULTY, base=replace(FAULTY.base, duration_us=DAY_US))

    assert raw(short) == raw(short)
    assert raw(short) != raw(replace(short, base=replace(short.base, seed=4)))


def test_normal_readings_do_not_depend_on_where_chunks_are_cut() -> None:
    short = replace(HEALTHY, base=replace(HEALTHY.base, duration_us=DAY_US // 4))

    assert raw(replace(short, base=replace(short.base, chunk_records=56))) == raw(short)


def test_records_stand_in_event_time_order_and_hold_timestamp_and_channels_only() -> None:
    records = raw(FAULTY)

    assert [time_us for _, _, time_us in records] == sorted(time_us for _, _, time_us in records)
    assert {tuple(json.loads(value)) for _, value, _ in records} == {("timestamp", *CHANNELS)}
    assert all(parse_iso_us(json.loads(value)["timestamp"]) == time_us for _, value, time_us in records[::97])


def test_flow_pressure_and_current_rise_with_speed_as_the_pump_laws_say(healthy: dict[str, Floats]) -> None:
    for readings in healthy.values():
        speed, flow, pressure, current = (readings[:, CHANNELS.index(name)] for name in ("speed", "flow", "pressure", "current"))
        assert np.corrcoef(speed, flow)[0, 1] > 0.99
        assert np.corrcoef(speed**2, pressure)[0, 1] > 0.99
        assert np.corrcoef(speed**3, current)[0, 1] > 0.98


def test_temperature_lags_behind_current(healthy: dict[str, Floats]) -> None:
    for readings in healthy.values():
        current, temperature = readings[:, CHANNELS.index("current")] ** 2, readings[:, CHANNELS.index("temperature")]
        likeness = [np.corrcoef(current[: len(current) - lag], temperature[lag:])[0, 1] for lag in range(0, 60, 5)]
        assert np.argmax(likeness) >= 2
        assert likeness[int(np.argmax(likeness))] > likeness[0] + 0.04


def test_one_day_is_like_the_next_and_has_three_regimes(healthy: dict[str, Floats]) -> None:
    for readings in healthy.values():
        speed = readings[:, CHANNELS.index("speed")]
        assert np.corrcoef(speed[:1440], speed[1440:2880])[0, 1] > 0.98
        share_of_highest = speed[:1440] / np.quantile(speed, 0.99)
        regimes = [np.mean(share_of_highest < 0.5), np.mean((share_of_highest > 0.65) & (share_of_highest < 0.87)), np.mean(share_of_highest > 0.9)]
        assert min(regimes) > 0.08
        assert sum(regimes) > 0.95


def test_each_pump_has_its_own_scale(healthy: dict[str, Floats]) -> None:
    flows = [float(readings[:, CHANNELS.index("flow")].max()) for readings in healthy.values()]

    assert len(set(flows)) == len(flows)


def test_planting_faults_changes_only_what_the_labels_name(faulty: dict[str, Floats], healthy: dict[str, Floats], planted: list[Label]) -> None:
    for entity, readings in faulty.items():
        may_differ = np.zeros(readings.shape, np.bool_)
        for label in (label for label in planted if label.entity == entity):
            if is_whole_pump(label):
                after = steps_of(label).stop + 600  # speed and heat settle
                may_differ[steps_of(label).start : after] = True
            elif label.kind == "silence":
                may_differ[steps_of(label)] = True
            else:
                may_differ[steps_of(label), columns_of(label)] = True
        differs = readings != healthy[entity]
        assert not (differs & ~may_differ).any()


def test_every_kind_is_planted_as_often_after_the_clean_part(planted: list[Label]) -> None:
    counts = [sum(label.kind == kind for label in planted) for kind in KINDS]

    assert counts == [3] * len(KINDS)
    assert min(label.start_us for label in planted) >= FAULTY.base.clean_until_us


def difference(label: Label, faulty: dict[str, Floats], healthy: dict[str, Floats]) -> Floats:
    return (faulty[label.entity] - healthy[label.entity])[steps_of(label)][:, columns_of(label)]


def test_each_fault_looks_like_its_name(faulty: dict[str, Floats], healthy: dict[str, Floats], planted: list[Label]) -> None:
    for label in planted:
        shown = faulty[label.entity][steps_of(label)][:, columns_of(label)]
        usual = healthy[label.entity][:, columns_of(label)]
        moved = difference(label, faulty, healthy)
        if label.kind == "spike":
            assert len(moved) <= 3
            assert (moved > 0.5 * np.ptp(usual, 0) * 0.9).all()
        elif label.kind == "level_shift":
            assert (np.abs(moved).min(0) > 0.12 * np.minimum(np.ptp(usual, 0), usual.min(0))).all()
            assert (np.sign(moved) == np.sign(moved[0])).all()
        elif label.kind == "drift":
            size = np.abs(moved).mean(1)
            assert size[0] < 0.1 * size[-1]
            assert np.corrcoef(size, np.arange(len(size)))[0, 1] > 0.8
        elif label.kind == "freeze":
            assert (shown == shown[0]).all()
            assert len(shown) >= 20
        elif label.kind == "noise_burst":
            assert (np.diff(shown, axis=0).std(0) > 3 * np.diff(healthy[label.entity][steps_of(label)][:, columns_of(label)], axis=0).std(0)).all()
        elif label.kind == "silence":
            assert np.isnan(faulty[label.entity][steps_of(label)]).all()
        elif label.kind == "out_of_context":
            assert (shown <= usual.max(0) + 0.12 * np.ptp(usual, 0)).all()
            assert (shown >= usual.min(0) - 0.12 * np.ptp(usual, 0)).all()
            assert (np.abs(moved).max(0) > 0.05 * np.ptp(usual, 0)).all()
        else:
            assert label.kind == "broken_correlation"
            assert (shown <= usual.max(0)).all()
            assert (shown >= usual.min(0) * 0.9).all()
            assert (np.abs(moved) > 0.1 * np.ptp(usual, 0)).mean() > 0.6


def test_memory_does_not_grow_with_the_duration() -> None:
    def peak_bytes(days: int) -> int:
        base = Scenario(20, START_US, days * DAY_US, chunk_records=1000)
        tracemalloc.start()
        for _ in sensor_chunks(SensorScenario(base, 20 * MINUTE_US)):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(12) < 1.3 * peak_bytes(3)


def test_a_part_shorter_than_a_slot_has_its_share_of_faults() -> None:
    scenario = SensorScenario(Scenario(400, START_US, DAY_US, seed=1, clean_share=0.5, anomaly_rate=0.5), 10 * MINUTE_US)

    assert 60 < len(labels(scenario)) < 140  # 400 pumps · half a day · one fault in two days


@pytest.mark.parametrize(
    ("changes", "interval_us", "argument"),
    [
        ({"entities": 0}, MINUTE_US, "--entities"),
        ({"duration_us": 0}, MINUTE_US, "--duration"),
        ({"clean_share": 1.5}, MINUTE_US, "--clean-share"),
        ({"seed": -1}, MINUTE_US, "--seed"),
        ({"anomaly_rate": -1.0}, MINUTE_US, "--faults-per-entity-per-day"),
        ({"anomaly_rate": 200.0}, MINUTE_US, "--faults-per-entity-per-day"),
        ({}, 0, "--interval"),
        ({}, 5 * DAY_US, "--interval"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_the_name_of_its_argument(changes: dict[str, float], interval_us: int, argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        SensorScenario(replace(FAULTY.base, **changes), interval_us)  # type: ignore[arg-type]
