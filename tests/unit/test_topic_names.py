from __future__ import annotations

from anomaly_daemon.adapters.topic_names import missing_topics


def test_topics_that_are_there_are_told_most_alike_first_and_not_without_end() -> None:
    told = str(missing_topics("sqlite:///topics.db", ["pump.reading"], ["alerts", "pump.readings", "a", "b", "c", "d", "e"]))

    assert told.startswith("sqlite:///topics.db: no topic pump.reading; it holds pump.readings, ")
    assert ", …; `anomaly-daemon load --topic pump.reading --create FILES`" in told


def test_an_empty_log_is_told_as_such() -> None:
    assert "it holds no topic yet" in str(missing_topics("log topics.db", ["readings"], ()))
