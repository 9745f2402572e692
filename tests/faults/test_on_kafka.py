"""A slice of `python -m tests.faults kafka`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.kafka_log import broker_or_skip
from tests.faults import dead_letters, on_kafka


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_mangled_records_through_kafka_come_to_what_they_come_to_on_the_embedded_log(tmp_path: Path, codec: str) -> None:
    on_kafka.mangled_through(broker_or_skip().bootstrap, codec, tmp_path, 150, seed=0).check()


@pytest.mark.kafka
def test_a_dead_letter_topic_that_takes_too_little_stops_the_daemon_before_the_record_and_the_settings_are_named(tmp_path: Path) -> None:
    on_kafka.narrow_dead_letters(broker_or_skip().bootstrap, tmp_path).check()


@pytest.mark.kafka
def test_dead_letters_dumped_from_kafka_mended_and_loaded_are_judged_as_if_they_had_never_been_spoiled(tmp_path: Path) -> None:
    dead_letters.mended_records(tmp_path, broker_or_skip().bootstrap).check()


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.parametrize("pieces", [1, 1000])
def test_a_batch_that_unpacks_to_hundreds_of_megabytes_costs_bounded_memory_and_is_dead_lettered(tmp_path: Path, pieces: int) -> None:
    on_kafka.bomb(broker_or_skip().bootstrap, "zstd", tmp_path, 250 << 20, pieces).check()
