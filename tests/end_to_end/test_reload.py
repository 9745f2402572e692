"""A reload is a cut in the log: whatever happens around it, each record is judged under the rules that were in force for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from anomaly_daemon import wiring
from anomaly_daemon.adapters.checkpoint_store import FsspecCheckpointStore
from anomaly_daemon.adapters.checkpointers import BackgroundCheckpoints
from anomaly_daemon.adapters.clock import SystemClock
from anomaly_daemon.domain.errors import Fenced
from anomaly_daemon.domain.records import BatchOutput, Partition
from anomaly_daemon.pipeline.loop import Loop, LoopSettings, Reload
from anomaly_daemon.pipeline.rule_book import Entry, RuleBook
from anomaly_daemon.settings import Settings, live_part, with_live_part
from anomaly_daemon.telemetry.metrics import Metrics
from tests.end_to_end.harness import Site, make_site
from tests.small import artifact, stream

RECORDS = stream(1, 4, 400)
EARLY, LATE = 25, 42  # commits, of 50; the faults begin in between


class KilledError(Exception):
    """The process is gone: nothing after this point happens."""


class ActingSink:
    """The real sink; after some commits something happens to the loop, or elsewhere before a reload."""

    def __init__(self, sink: wiring.Sink, acts: Mapping[int, object]) -> None:
        self._sink, self._acts, self.loop = sink, acts, None
        self._commits = 0

    def commit(self, output: BatchOutput) -> None:
        self._sink.commit(output)
        self._commits += 1
        act = self._acts.get(self._commits)
        if callable(act):
            act()
        if act == "reload" or callable(act):
            assert self.loop is not None
            self.loop.ask_reload()
        if act == "kill":
            raise KilledError

    def close(self) -> None:
        self._sink.close()


def live(site: Site, acts: Mapping[int, object], reloaded: Settings | None = None, checkpoint_every_s: float = 1e9) -> None:
    """One life of the loop, to the end of the log or to its kill; a reload brings `reloaded`."""
    settings = site.settings
    processor, fingerprint, _ = wiring.build_processor(settings, artifact())
    store = FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2)
    checkpoints = BackgroundCheckpoints(store)
    book = RuleBook(store, live_part(settings), lambda text: wiring.build_rules(*with_live_part(settings, text)))
    loop_settings = LoopSettings(fingerprint, 0.01, checkpoint_every_s, 10, None, True, True)

    def reload() -> Reload | None:
        assert reloaded is not None
        context = wiring.build_context(reloaded, artifact(), "live")
        return Reload(loop_settings, live_part(reloaded), wiring.build_rules(reloaded), context, reloaded.incidents.window_points, lambda _: None)

    with closing(wiring.open_source(settings, group=settings.input.group)) as source, closing(wiring.open_sink(settings, source)) as real:
        sink = ActingSink(real, acts)
        sink.loop = loop = Loop(source, sink, processor, checkpoints, SystemClock(), Metrics(), loop_settings, None, reload, None, book)
        try:
            loop.run()
        except KilledError:
            checkpoints.flush(10)
        finally:
            checkpoints.close()
            processor.close()


@pytest.fixture(params=[pytest.param(1e9, id="from the log"), pytest.param(0.0, id="from checkpoints")])
def checkpoint_every_s(request: pytest.FixtureRequest) -> float:
    return float(request.param)


def sites(tmp_path: Path, *names: str, assignments: Sequence[str] = ()) -> Iterator[Site]:
    for name in names:
        yield make_site(tmp_path / name, f"sqlite:///{tmp_path}/{name}.db", RECORDS, partitions=1, assignments=assignments)


@pytest.mark.parametrize(("reload_at", "kill_at"), [(EARLY, EARLY + 1), (EARLY, LATE), (LATE, LATE + 1), (LATE, LATE + 3)])
def test_recovery_from_before_the_cut_gives_the_incidents_each_setting_was_in_force_for(
    tmp_path: Path, reload_at: int, kill_at: int, checkpoint_every_s: float
) -> None:
    unharmed, harmed = sites(tmp_path, "unharmed", "harmed")
    deaf = f"overrides={json.dumps([{'match': 'pump-0', 'threshold': {'z': 50}}])}"
    after = Site(harmed.folder, (*harmed.assignments, "incidents.trigger={count: 1, of: 1}", deaf))
    live(unharmed, {reload_at: "reload"}, after.settings)

    live(harmed, {reload_at: "reload", kill_at: "kill"}, after.settings, checkpoint_every_s)
    live(after, {}, None, checkpoint_every_s)

    assert len(unharmed.alerts()) > 3
    assert harmed.alerts() == unharmed.alerts()
    assert harmed.state() == unharmed.state()


def test_one_that_stood_still_while_another_judged_on_notes_no_cut(tmp_path: Path) -> None:
    (site,) = sites(tmp_path, "succeeded")
    after = Site(site.folder, (*site.assignments, "threshold.z=50"))
    store, partition = FsspecCheckpointStore(site.settings.checkpoints.url, site.settings.input.group, 2), Partition("readings", 0)
    noted: list[list[Entry]] = []

    def succeeded() -> None:
        live(site, {5: "reload"}, after.settings)
        noted.append(store.load_rules(partition))

    with suppress(Fenced):
        live(site, {EARLY: succeeded}, after.settings)

    # It takes the partition back at the end, under its own rules from there on.
    assert [entry for entry in store.load_rules(partition) if entry[0] < len(RECORDS)] == noted[0]
    assert len(noted[0]) == 2


def test_alerts_per_day_asked_for_by_a_reload_survive_a_kill(tmp_path: Path, checkpoint_every_s: float) -> None:
    unharmed, harmed = sites(tmp_path, "unharmed", "harmed")
    asked = Site(harmed.folder, (*harmed.assignments, "threshold.alerts_per_day=60"))
    live(unharmed, {3: "reload"}, Site(unharmed.folder, asked.assignments).settings)

    live(harmed, {3: "reload", LATE: "kill"}, asked.settings, checkpoint_every_s)
    live(asked, {}, None, checkpoint_every_s)

    assert unharmed.alerts()
    assert harmed.alerts() == unharmed.alerts()
    assert harmed.state() == unharmed.state()


@pytest.mark.parametrize("kill_at", [LATE + 1, LATE + 2])
def test_answer_to_a_lasting_change_counts_from_the_cut_on_whatever_happens_after_it(tmp_path: Path, kill_at: int, checkpoint_every_s: float) -> None:
    unharmed, harmed = sites(tmp_path, "unharmed", "harmed", assignments=("regime={policy: ask, after: 30m}",))
    answer = f"overrides={json.dumps([{'match': 'pump-0', 'regime': {'policy': 'accept'}}])}"
    after = Site(harmed.folder, (*harmed.assignments, answer))
    live(unharmed, {LATE: "reload"}, after.settings)

    live(harmed, {LATE: "reload", kill_at: "kill"}, after.settings, checkpoint_every_s)
    live(after, {}, None, checkpoint_every_s)

    changes = [alert for alert in unharmed.alerts() if alert["kind"] == "regime_change"]
    told = {entity: [alert["sequence"] for alert in changes if alert["entity"] == entity] for entity in ("pump-0", "pump-2")}
    assert told["pump-0"][:2] == [1, 2]
    assert told["pump-2"] == [1]
    assert harmed.alerts() == unharmed.alerts()
    assert harmed.state() == unharmed.state()


def test_a_change_of_rules_while_the_daemon_was_down_begins_at_the_committed_offset(tmp_path: Path) -> None:
    by_reload, by_restart = sites(tmp_path, "by-reload", "by-restart")
    loud = ("incidents.trigger={count: 1, of: 1}", "threshold.z=1.5")
    live(by_reload, {LATE: "reload"}, Site(by_reload.folder, (*by_reload.assignments, *loud)).settings)

    live(by_restart, {LATE: "kill"})
    live(Site(by_restart.folder, (*by_restart.assignments, *loud)), {})

    assert by_restart.alerts() == by_reload.alerts()
    assert by_restart.state() == by_reload.state()


def test_no_setting_that_is_reloaded_touches_recurrent_state_or_what_is_learned(tmp_path: Path) -> None:
    calm, loud = sites(tmp_path, "calm", "loud")
    live(calm, {})
    live(loud, {EARLY: "reload"}, Site(loud.folder, (*loud.assignments, "threshold.z=0.5", "threshold.level=0.1")).settings)

    def learned(site: Site) -> dict[str, bytes]:
        settings = site.settings
        _, fingerprint, _ = wiring.build_processor(settings, artifact())
        saved = FsspecCheckpointStore(settings.checkpoints.url, settings.input.group, 2).load(Partition("readings", 0), fingerprint, 400)
        assert saved is not None
        return {name: values.tobytes() for name, values in saved.columns.items() if name != "recent"}

    assert loud.alerts() != calm.alerts()
    assert learned(loud) == learned(calm)
