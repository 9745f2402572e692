from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings import (
    Settings,
    Window,
    changed,
    digest,
    features_of,
    format_duration,
    live_part,
    load,
    parse_duration_s,
    parse_instant_us,
    restart_needed,
    take_live,
    with_live_part,
)

P = "ANOMALY_DAEMON_"


def file(directory: Path, text: str, name: str = "settings.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def settings(*assignments: str) -> Settings:
    return load((), assignments, {})


def refusal(files: tuple[Path, ...] = (), assignments: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(files, assignments, environment or {})
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_each_source_wins_over_those_below_it(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    first = file(tmp_path, "input: {group: a, member: a, start: latest}\noutput: {alerts_topic: a}\ndetector_id: a\n", "1.yaml")
    second = file(tmp_path, "input: {group: b, member: b}\noutput: {alerts_topic: b}\ndetector_id: b\n", "2.yaml")
    for name in ("INPUT__MEMBER", "OUTPUT__ALERTS_TOPIC", "DETECTOR_ID"):
        (secrets / f"{P}{name}").write_text("c\n")
    environment = {f"{P}SECRETS_DIR": str(secrets), f"{P}OUTPUT__ALERTS_TOPIC": "d", f"{P}DETECTOR_ID": "d"}

    loaded = load((first, second), ("detector_id=e",), environment)

    assert (loaded.input.start, loaded.input.group, loaded.input.member) == ("latest", "b", "c")
    assert (loaded.output.alerts_topic, loaded.output.dead_letter_topic, loaded.detector_id) == ("d", "dead-letters", "e")


def test_lists_replace_and_groups_merge(tmp_path: Path) -> None:
    first = file(tmp_path, "input: {topics: [a, b]}\nthreshold: {z: 5, level: 0.5}\n", "1.yaml")
    second = file(tmp_path, "input: {topics: [c]}\nthreshold: {z: 6}\n", "2.yaml")

    loaded = load((first, second), (), {})

    assert loaded.input.topics == ("c",)
    assert (loaded.threshold.z, loaded.threshold.level) == (6, 0.5)


@pytest.mark.parametrize("text", ['["a", "b"]', "[a, b]"])
def test_lists_are_given_as_json_or_yaml(text: str) -> None:
    assert load((), (), {f"{P}INPUT__TOPICS": text}).input.topics == ("a", "b")
    assert settings(f"input.topics={text}").input.topics == ("a", "b")


def test_a_field_s_own_type_reads_its_text() -> None:
    loaded = settings("detector_id=0123", "incidents.cooldown=10m", "threshold.z=1e1", "topics.create_topics=true", "topics.retention=null")

    assert (loaded.detector_id, loaded.incidents.cooldown, loaded.threshold.z) == ("0123", 600, 10)
    assert loaded.topics.create_topics is True
    assert loaded.topics.retention is None


def test_values_of_a_free_mapping_have_the_type_they_look_like() -> None:
    parameters = settings(
        "threshold.parameters={n_trees: 5, q: 1e-3}", "threshold.parameters.kind=x", "threshold.parameters.flag=true"
    ).threshold.parameters

    assert parameters == {"n_trees": 5, "q": 0.001, "kind": "x", "flag": True}
    assert type(parameters["n_trees"]) is int


def test_a_time_in_a_file_needs_no_quotes(tmp_path: Path) -> None:
    path = file(tmp_path, "record: {time: {earliest: 2020-01-01T00:00:00Z}}")

    assert load((path,), (), {}).record.time.earliest == "2020-01-01T00:00:00Z"


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = file(tmp_path, "record: {features: [{name: x, knd: rate}]}")

    assert refusal((path,)) == f"{path}: record.features.0.knd: unknown key; did you mean `kind`?"
    assert refusal(assignments=("threshhold.z=5",)) == "--set: threshhold: unknown key; did you mean `threshold`?"
    assert "did you mean `THRESHOLD`?" in refusal(environment={f"{P}TRESHOLD__Z": "5"})
    assert "environment: threshold.zz: unknown key" in refusal(environment={f"{P}THRESHOLD__ZZ": "5"})


def test_every_fault_is_told_with_its_source_key_and_value(tmp_path: Path) -> None:
    path = file(tmp_path, "threshold: {z: 500}\nincidents: {cooldown: 30}\n")

    told = refusal((path,), ("engine.ring=many",))

    assert "--set: engine.ring: Input should be a valid integer" in told
    assert f"{path}: threshold.z: Input should be less than or equal to 50 (given: 500)" in told
    assert f"{path}: incidents.cooldown: write a duration with its unit" in told
    assert len(told.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "not valid YAML at line 1"),
        ("- 1", "not a list"),
        ("threshold:\n  z: 1\n  z: 2", "at line 3, column 3: the key `z` stands twice"),
        ("1: 2", "1: unknown key"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: " + "[" * 5000, "nest too deep"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_refused_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    path = file(tmp_path, text)

    refused = refusal((path,))

    assert refused.startswith(f"{path}: ")
    assert told in refused


def test_a_missing_file_or_secrets_directory_is_named(tmp_path: Path) -> None:
    assert refusal((tmp_path / "none.yaml",)) == f"{tmp_path / 'none.yaml'}: no such file; name another with -c"
    assert "no such directory" in refusal(environment={f"{P}SECRETS_DIR": str(tmp_path / "none")})


def test_an_assignment_without_a_sign_is_refused_with_an_example() -> None:
    assert refusal(assignments=("threshold.z",)).endswith("such as --set threshold.z=5")


@pytest.mark.parametrize("text", ["[hunter2", "{hunter2", "hunter2: x", "123"])
def test_a_password_may_be_any_text(text: str) -> None:
    password = load((), (), {f"{P}KAFKA__SASL_PASSWORD": text}).kafka.sasl_password

    assert password is not None
    assert password.get_secret_value() == text


def test_a_secret_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / f"{P}KAFKA__SASL_PASSWORD").write_text("hunter2\n")
    (tmp_path / "..data").mkdir()
    (tmp_path / ".unrelated").write_bytes(b"\xff")

    loaded = load((), (), {f"{P}SECRETS_DIR": str(tmp_path)})

    assert loaded.kafka.sasl_password is not None
    assert loaded.kafka.sasl_password.get_secret_value() == "hunter2"
    shown = f"{loaded!r} {loaded.model_dump()} {loaded.model_dump_json()} {changed(settings(), loaded)}"
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sasl_password", f"did you mean `{P}KAFKA__SASL_PASSWORD`?"),
        ("kafka.sasl-password", f"did you mean `{P}KAFKA__SASL_PASSWORD`?"),
        ("unrelated", f"name it {P}SECTION__KEY, such as {P}KAFKA__SASL_PASSWORD"),
    ],
)
def test_a_file_in_the_secrets_directory_that_is_no_setting_is_refused_with_the_name_it_needs(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_text("hunter2")

    refused = refusal(environment={f"{P}SECRETS_DIR": str(tmp_path)})

    assert refused.startswith(f"{tmp_path / name}: ")
    assert told in refused
    assert "hunter2" not in refused


def test_no_fault_shows_a_secret(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / f"{P}KAFKA__SESSION_TIMEOUT").write_text("hunter2")
    broken = file(tmp_path, "kafka:\n  sasl_password: 'hunter2\n")

    faults = [
        refusal((broken,)),
        refusal((file(tmp_path, "kafka: hunter2", "group.yaml"),)),
        refusal((file(tmp_path, "kafka: {sasl_password: [hunter2]}", "list.yaml"),)),
        refusal((file(tmp_path, "kafka: {sasl_pasword: hunter2}", "misspelt.yaml"),)),
        refusal(assignments=("kafka.sasl_password=hunter2", "threshold.z=0")),
        refusal(assignments=("kafka={sasl_password: hunter2",)),
        refusal(environment={f"{P}KAFKA": '{"sasl_password": "hunter2"'}),
        refusal(environment={f"{P}KAFKA": "hunter2"}),
        refusal(environment={f"{P}SECRETS_DIR": str(secrets)}),
        refusal(assignments=("log=kafka://me:hunter2@broker:9092",)),
        refusal(assignments=("log=postgres://me:a/hunter2@host/db",)),
        refusal(assignments=("log=kafka://broker:9092?password=hunter2",)),
        refusal(assignments=("log=me:hunter2@broker",)),
        refusal(assignments=("kafka://me:hunter2@broker",)),
    ]

    assert [fault for fault in faults if "hunter2" in fault] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("overrides: [{match: 'a*', incidents: {cooldwn: 5m}}]", "did you mean `cooldown`?"),
        ("overrides: [{match: 'a*', incidents: {trigger: {count: 9, of: 2}}}]", "count (9) cannot exceed of (2)"),
        ("overrides: [{match: 'a*', threshold: {z: -1}}]", "override 'a*': threshold.z: Input should be greater than 0"),
        ("overrides: [{match: 'a*', threshold: {window: 60}}]", "threshold.window cannot differ by entity; these can: z, level"),
        ("training: {gradient_norm_max: .inf}", "finite number"),
        ("record: {features: [{name: x}, {name: x}]}", "x stands twice"),
        ("record: {features: [{name: h, kind: cyclic, period: hour_of_day}, {name: h_sin}]}", "h_sin stands twice"),
        ("record: {features: [{name: x, kind: cyclic}]}", "`period` goes with kind cyclic"),
        ("record: {features: [{name: x, kind: elapsed, path: y}]}", "takes no path"),
        ("record: {time: {earliest: yesterday}}", "not an ISO 8601 time"),
        ("record: {time: {earliest: 2024-01-01, latest: 2023-01-01}}", "must lie before"),
        ("engine: {ring: 4}", "must hold decode_steps (8)"),
        ("input: {topics: readings}", "write a list"),
        ("input: {topics: []}", "at least 1 item"),
        ("log: kafka://me:x@broker:9092", "put the password into a file named ANOMALY_DAEMON_KAFKA__SASL_PASSWORD"),
        ("log: redis://broker", "not a log; use sqlite:///topics.db or kafka://host:9092"),
        ("log: kafka://broker:99999", "broker:99999: a port lies between 1 and 65535"),
        ("log: 'kafka://one:9092,,two:9092'", "brokers that cannot be read; write kafka://host:9092,host:9092"),
        ("log: 'sqlite:///'", "name the file"),
        ("output: {alerts_topic: readings}", "input.topics and output.alerts_topic both name 'readings'"),
        ("output: {dead_letter_topic: readings}", "input.topics and output.dead_letter_topic both name 'readings'"),
        ("output: {dead_letter_topic: alerts}", "output.alerts_topic and output.dead_letter_topic both name 'alerts'"),
        ("input: {batch_interval: 1h}", "input.batch_interval: at most 10s"),
        ("kafka: {session_timeout: 1ms}", "kafka.session_timeout: between 1s and 1d"),
        ("kafka: {commit_timeout: 30d}", "kafka.commit_timeout: between 1s and 1d"),
        ("checkpoints: {every: '0'}", "checkpoints.every: at least 100ms"),
        ("threshold: {level: 2}", "must be below 1"),
        ("{threshold: {method: static}, overrides: [{match: 'a*', threshold: {level: 2}}]}", "override 'a*': threshold: level (2) must be below 1"),
        ("incidents: {trigger: {count: 9}}", "count (9) cannot exceed of (5)"),
        ("evidence: {channels: [level, prediction, level]}", "channels: level stands twice"),
        ("evidence: {channels: [levels]}", "evidence.channels"),
        ("evidence: {channels: []}", "at least 1 item"),
        ("evidence: {level: {spans: [10, 1]}}", "spans must rise, each from 1 to 10000, such as [1, 10, 30]"),
        ("evidence: {level: {spans: [5, 5]}}", "spans must rise"),
        ("evidence: {residual: {spans: [0, 5]}}", "spans must rise"),
        ("evidence: {residual: {spans: [20000]}}", "spans must rise"),
        ("evidence: {residual: {reference_half_life: 1}}", "greater than or equal to 10"),
        ("model: {per: group}", "groups go with `per: group`, and only with it"),
        ("model: {groups: ['pump-*']}", "groups go with `per: group`, and only with it"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal((file(tmp_path, text),))


@pytest.mark.parametrize("url", ["kafka://[::1]:9092,broker_2", "sqlite:////var/lib/a@b.db"])
def test_a_log_may_stand_at_any_address(url: str) -> None:
    assert settings(f"log={url}").log == url


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (
            ("threshold={method: 'river:stats.Max', span: 5, recovery: 0.5}",),
            "threshold: span, recovery: without effect on method river:stats.Max; set another method, or leave it out",
        ),
        (("model.network=shared",), "network: shared goes with `per: group` or `per: entity`"),
        (("evidence={calibration: trained, half_life: 100}",), "half_life: without effect on calibration: trained"),
        *(
            ((f"{key}=0",), f"{key}: give a time longer than 0, or null (given: '0')")
            for key in ("regime.after", "quality.stuck_after", "incidents.silence_after", "topics.retention")
        ),
        (("overrides=[{match: a, regime: {after: 0s}}]",), "override 'a': regime.after: give a time longer than 0, or null"),
    ],
)
def test_what_would_have_no_effect_is_refused_with_the_key_and_a_remedy(assignments: tuple[str, ...], told: str) -> None:
    assert told in refusal(assignments=assignments)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("evidence.channels=[levle]", "evidence.channels.0: unknown word; did you mean `level`? (given: 'levle')"),
        ("evidence.channels=[level, noveltie]", "evidence.channels.1: unknown word; did you mean `novelty`? (given: 'noveltie')"),
        ("record.features=[{name: a, kind: catgory}]", "record.features.0.kind: unknown word; did you mean `category`? (given: 'catgory')"),
        ("model.per=xyz", "model.per: unknown word; known here: entity, fleet, group (given: 'xyz')"),
    ],
)
def test_a_misspelt_word_brings_one_error_with_the_nearest_that_is_known(assignment: str, told: str) -> None:
    assert refusal(assignments=(assignment,)) == f"--set: {told}"


def test_a_misspelt_word_of_an_override_has_the_nearest_too() -> None:
    assert "override 'a': regime.policy: unknown word; did you mean `accept`?" in refusal(
        assignments=("overrides=[{match: a, regime: {policy: acept}}]",)
    )


def test_a_word_out_of_the_secrets_directory_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / f"{P}KAFKA__SASL_MECHANISM").write_text("hunter2")

    assert "hunter2" not in refusal(environment={f"{P}SECRETS_DIR": str(tmp_path)})


def test_one_key_of_a_group_leaves_the_others_as_they_are() -> None:
    loaded = settings("incidents.trigger.count=4", "incidents.recovery.of=12", "overrides=[{match: a, incidents: {trigger: {of: 9}}}]")

    assert loaded.incidents.trigger == Window(count=4, of=5)
    assert loaded.incidents.recovery == Window(count=10, of=12)
    assert loaded.incidents.overridden(loaded.overrides[0].incidents).trigger == Window(count=4, of=9)


def test_a_level_on_the_scale_of_another_method_waits_for_the_restart_that_the_method_needs() -> None:
    old = settings("threshold.method=static", "threshold.level=0.8")
    new = settings("threshold.method=river:anomaly.LODA", "threshold.level=4", "overrides=[{match: a, threshold: {level: 5}}]", "logging.level=debug")

    live = take_live(old, new)

    assert (live.threshold, live.overrides, live.logging.level) == (old.threshold, (), "debug")
    assert take_live(old, settings("threshold.method=static", "threshold.level=0.7")).threshold.level == 0.7


def test_a_policy_is_taken_live_with_its_overrides_and_refused_where_only_a_restart_would_make_it_possible() -> None:
    old, static = settings(), ("threshold.method=static", "evidence.calibration=trained")
    new = settings("regime={policy: ask, after: 2h}", "overrides=[{match: pump-7, regime: {policy: accept}}]")

    live = take_live(old, new)

    assert (live.regime, live.overrides, restart_needed(old, new)) == (new.regime, new.overrides, [])
    assert with_live_part(old, live_part(new)) == (new, 1)
    with pytest.raises(SettingsError, match=r"regime.policy: accept: with a static threshold .* needs a restart"):
        take_live(settings(*static), settings("threshold.method=static", "regime={policy: accept}"))


def test_rules_noted_before_there_were_changes_look_for_none() -> None:
    noted = json.loads(live_part(settings("threshold.z=5")))
    del noted["regime"]

    assert with_live_part(settings(), json.dumps(noted))[0].regime.after is None


def test_features_are_needed_by_whoever_reads_records() -> None:
    with pytest.raises(SettingsError, match="name at least one feature"):
        features_of(settings())


def test_only_what_cannot_change_live_needs_a_restart() -> None:
    old = settings()
    new = settings("threshold.z=5", "threshold.window=60", "incidents.trigger={count: 1, of: 1}", "kafka.sasl_password=x", "logging.level=debug")

    assert changed(old, new) == [
        "kafka.sasl_password",
        "threshold.z",
        "threshold.window",
        "incidents.trigger.count",
        "incidents.trigger.of",
        "logging.level",
    ]
    assert restart_needed(old, new) == ["kafka.sasl_password", "threshold.window"]


def test_a_changed_secret_is_noticed() -> None:
    assert changed(settings("kafka.sasl_password=a"), settings("kafka.sasl_password=b")) == ["kafka.sasl_password"]


def test_the_digest_names_what_decides_on_alerts() -> None:
    base = digest(settings())

    assert digest(settings("kafka.sasl_password=x", "log=kafka://broker:9092", "logging.level=debug")) == base
    assert digest(settings("threshold.z=5")) != base
    assert len(base) == 16


def test_settings_come_back_from_what_they_are_dumped_to() -> None:
    loaded = settings("incidents.cooldown=1h30m", "record.features=[{name: x}]")
    dumped = json.loads(loaded.model_dump_json(exclude={"kafka"}))

    assert Settings(**dumped) == loaded


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600), ("3us", 3e-6), ("0", 0)],
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "-5s", "5s!", "1.2.3s", "5S", 5, 5.0, True, None, "99999w"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        parse_duration_s(text)


@given(st.integers(0, 10**15))
def test_a_duration_is_spelled_so_that_it_reads_the_same(microseconds: int) -> None:
    seconds = microseconds / 1e6

    assert parse_duration_s(format_duration(seconds)) == seconds


def test_an_instant_without_an_offset_is_utc() -> None:
    assert parse_instant_us("2024-05-01T12:00:00.000001") == 1_714_564_800_000_001
    assert parse_instant_us("2024-05-01T14:00:00+02:00") == 1_714_564_800_000_000
