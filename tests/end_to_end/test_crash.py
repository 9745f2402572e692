"""kill -9 at random moments: nothing lost, nothing said twice, and the state of one that never died."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.alert_cases import validate
from tests.chaos.acts import Act, Point
from tests.chaos.plan import TOLD
from tests.end_to_end.harness import Site, kill, make_site, start
from tests.small import stream

KILLS, DIES_WITHIN_S = 20, 30
RECORDS = stream(7, 24, 8000, with_bad=True)


def killed_and_unharmed_agree(killed: Site, unharmed: Site) -> None:
    """Twenty lives end in kill -9, a few while they start or recover, most while they judge and commit; then one goes to the end."""
    dice = random.Random(5)
    for _ in range(KILLS):
        said_before = len(killed.log())
        process = killed.daemon()
        if dice.random() < 0.2:
            process.join(dice.uniform(0, 1))
        else:
            while "partition_recovered" not in killed.log()[said_before:]:
                process.join(0.01)
                assert process.exitcode is None, killed.log_tail()
            process.join(dice.uniform(0, 0.3))
        assert process.exitcode is None, killed.log_tail()
        kill(process)
    both_agree_at_the_end(killed, unharmed)


def both_agree_at_the_end(killed: Site, unharmed: Site) -> None:
    killed.run_to_end()
    unharmed.run_to_end()

    assert len(unharmed.alerts()) > 10
    assert len(unharmed.dead_letters()) > 10
    for alert in unharmed.alerts():
        validate(alert)
    assert killed.alerts() == unharmed.alerts()
    assert killed.dead_letters() == unharmed.dead_letters()
    assert killed.state() == unharmed.state()


@pytest.mark.slow
def test_twenty_kills_change_nothing_on_the_embedded_log(tmp_path: Path) -> None:
    sites = [make_site(tmp_path / name, f"sqlite:///{tmp_path / name}/topics.db", RECORDS) for name in ("killed", "unharmed")]

    killed_and_unharmed_agree(*sites)


@pytest.mark.slow
def test_twenty_kills_change_nothing_of_what_is_learned_online(tmp_path: Path) -> None:
    online = ("evidence.channels=[level, adaptive]",)
    sites = [
        make_site(tmp_path / name, f"sqlite:///{tmp_path / name}/topics.db", RECORDS[:2000], assignments=online) for name in ("killed", "unharmed")
    ]

    killed_and_unharmed_agree(*sites)


@pytest.mark.slow
def test_a_kill_at_each_named_point_changes_nothing_on_the_embedded_log(tmp_path: Path) -> None:
    """With those that take a signal first: a drain begins with SIGTERM, a reload with SIGHUP."""
    killed, unharmed = (make_site(tmp_path / name, f"sqlite:///{tmp_path / name}/topics.db", RECORDS[:2000]) for name in ("killed", "unharmed"))
    passings = {Point.IN_RECOVERY: (1, 2, 4), Point.IN_DRAIN: (1, 2), Point.IN_RELOAD: (1, 2)}
    for point in Point:
        for passing in passings.get(point, (1, 2, 5)):
            acts = [*([Act(Point.AFTER_COMMIT, 2, TOLD[point])] if point in TOLD else []), Act(point, passing)]
            words = [word for act in acts for word in ("--at", str(act))]
            process = start("tests.chaos.daemon", [*words, "--", *killed.command("run")], killed.folder / "daemon.log")
            process.join(DIES_WITHIN_S)

            assert process.exitcode == -signal.SIGKILL, f"{words}: {process.exitcode}\n{killed.log_tail()}"

    both_agree_at_the_end(killed, unharmed)


def test_sigterm_leaves_a_checkpoint_at_the_committed_offset_and_the_next_life_goes_on_from_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", f"sqlite:///{tmp_path}/topics.db", RECORDS[:2000])
    unharmed = make_site(tmp_path / "unharmed", f"sqlite:///{tmp_path}/unharmed.db", RECORDS[:2000])
    process = site.daemon()
    while "partition_recovered" not in site.log():
        process.join(0.02)
        assert process.exitcode is None, site.log_tail()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)

    assert process.exitcode == 0, site.log_tail()
    site.run_to_end()
    unharmed.run_to_end()
    assert len(unharmed.alerts()) > 10
    assert site.alerts() == unharmed.alerts()
    assert site.state() == unharmed.state()
