"""`replay` on a real broker: the bytes that live gave, no group joined, nothing committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.harness import make_site
from tests.end_to_end.replays import replay_equals_live
from tests.end_to_end.test_guide import six_commands_lead_to_a_tuned_daemon
from tests.kafka.broker import Broker, ForeignBroker
from tests.small import stream


def test_a_replay_gives_the_bytes_that_live_gave(tmp_path: Path, broker: Broker | ForeignBroker, fresh: Callable[[str], str]) -> None:
    log = f"kafka://{broker.bootstrap}"
    site = make_site(tmp_path, log, stream(1, 4, 400, with_bad=True), topic=fresh("readings"), group=fresh("detector"))

    replay_equals_live(site)


@pytest.mark.slow
def test_six_commands_lead_from_an_untouched_topic_to_a_tuned_daemon(tmp_path: Path, broker: Broker | ForeignBroker) -> None:
    six_commands_lead_to_a_tuned_daemon(tmp_path, f"kafka://{broker.bootstrap}")
