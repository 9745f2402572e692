"""The daemons of one scenario: real processes, members of one group that share a folder of checkpoints, started and harmed by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

from tests.chaos.acts import Act
from tests.chaos.proxy import Cut
from tests.chaos.reader import Groups, end_offsets
from tests.end_to_end.harness import Site, checkpointed, kill, start

DIES_WITHIN_S = 60.0
_FENCED = 1
COMMITS_WITHIN_S = 120.0
LOOK_S = 0.05


class HarnessError(AssertionError):
    """The daemons did something that no fault explains, or a fault could not be injected; the text says which and shows the log."""


class Timeline:
    """What the launched daemons noted: when they committed and what they did to themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._commits_s: list[float] = []
        self.acts: list[str] = []

    def first_commit(self, after_s: float) -> float | None:
        """The monotonic time of the first commit after another; None while there is none."""
        self._take_notes()
        return next((at_s for at_s in self._commits_s if at_s > after_s), None)

    def count(self, act: Act) -> int:
        """How often an act was done."""
        self._take_notes()
        return self.acts.count(str(act))

    def _take_notes(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().rpartition(b"\n")[0]
        if not lines:
            return
        self._read += len(lines) + 1
        for line in lines.decode().splitlines():
            at_s, _, note = line.split(" ")
            if note == "after_commit":
                self._commits_s.append(float(at_s))
            else:
                self.acts.append(note)


class Fleet:
    """Daemons by member name. recoveries_s: seconds from a fault to the next commit of anybody, as they were measured."""

    def __init__(self, site: Site, bootstrap: str, mutant: str | None = None) -> None:
        self.site, self._bootstrap, self._mutant = site, bootstrap, mutant
        self.group, self.topic = site.settings.input.group, site.settings.input.topics[0]
        self.timeline = Timeline(site.folder / "timeline")
        self.recoveries_s: list[float] = []
        self._alive: dict[str, Process] = {}
        self._started: list[Process] = []
        self._groups = Groups(bootstrap)

    @property
    def members(self) -> list[str]:
        """Those that run, or stand still."""
        return sorted(self._alive)

    def start(self, member: str, acts: Sequence[Act] = (), *options: str, is_static: bool = True, bootstrap: str = "") -> Process:
        """A daemon of this name; a former one of the same name is forgotten, not ended. bootstrap: another way to the brokers than its site's."""
        folder = self.site.folder
        words = ["--timeline", str(self.timeline.path), *options, *(word for act in acts for word in ("--at", str(act)))]
        words += ["--mutant", self._mutant] if self._mutant else []
        command = self.site.command("run", "--set", f"input.member={member}", "--set", f"kafka.static_membership={str(is_static).lower()}")
        command += ["--set", f"log=kafka://{bootstrap}"] if bootstrap else []
        process = start("tests.chaos.daemon", [*words, "--", *command], folder / "daemon.log")
        self._alive[member] = process
        self._started.append(process)
        return process

    def wait_for_death(self, member: str) -> float:
        """Until the daemon's own act has killed it; returns the monotonic time."""
        process = self._alive[member]
        process.join(DIES_WITHIN_S)
        if process.exitcode != -signal.SIGKILL:
            raise HarnessError(f"{member} did not die in {DIES_WITHIN_S:.0f} s (exit code {process.exitcode}):\n{self.site.log_tail()}")
        del self._alive[member]
        return time.monotonic()

    def crash(self, member: str) -> float:
        """kill -9 now; returns the monotonic time. A daemon that had ended by itself is an error."""
        self._refuse_ended(member)
        kill(self._alive.pop(member))
        return time.monotonic()

    def leave(self, member: str, *, is_removed: bool) -> None:
        """SIGTERM and a clean end; removed: out of the group too, as whoever scales down does, else its session has to time out."""
        self._refuse_ended(member)
        process = self._alive.pop(member)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(DIES_WITHIN_S)
        # The signal itself ends one that does not listen yet: it has done nothing.
        if process.exitcode not in (0, -signal.SIGTERM):
            kill(process)
            raise HarnessError(f"{member} did not leave cleanly (exit code {process.exitcode}):\n{self.site.log_tail()}")
        if is_removed:
            self._groups.remove(self.group, member)

    def expel(self, member: str) -> None:
        """Out of the group while it runs, in the midst of a join or not; nothing to one that has not joined yet."""
        self._refuse_ended(member)
        self._groups.remove(self.group, member)

    def note_recovery(self, since_s: float) -> None:
        """Wait for the first commit after a fault and keep how long it took."""
        at_s = self.wait_for(lambda: self.timeline.first_commit(since_s), COMMITS_WITHIN_S, "no commit")
        self.recoveries_s.append(at_s - since_s)

    def note_all_move_on(self, since_s: float, within_s: float = COMMITS_WITHIN_S) -> None:
        """Wait until the group has committed more of every partition than now, and keep how long that took."""
        before = self.committed()
        ends = end_offsets(self._bootstrap, self.topic)

        def look() -> float | None:
            committed = self.committed()
            return time.monotonic() if all(committed.get(number, 0) > before.get(number, 0) for number in ends) else None

        self.recoveries_s.append(self.wait_for(look, within_s, f"some partition stands still at {before}") - since_s)

    def wait_for_act(self, act: Act, before: int) -> None:
        """Until it was done once more than `before`."""
        self.wait_for(lambda: 1.0 if self.timeline.count(act) > before else None, DIES_WITHIN_S, f"{act} was not done")

    def wait_for(self, look: Callable[[], float | None], timeout_s: float, otherwise: str) -> float:
        """What `look` finds, as soon as it finds something."""
        deadline_s = time.monotonic() + timeout_s
        while (found := look()) is None:
            for member in self.members:
                self._refuse_ended(member)
            if time.monotonic() > deadline_s:
                raise HarnessError(f"{otherwise} within {timeout_s:.0f} s:\n{self.site.log_tail()}")
            time.sleep(LOOK_S)
        return found

    def finish(self, timeout_s: float = 180.0) -> None:
        """Once everything written is committed and the state saved there, all leave; one is started where none is left.

        The state too: one that is told to leave while it still recovers saves none, and what lies there is of an earlier offset.
        """
        if not self._alive:
            self.start("last")
        self.wait_until_caught_up(timeout_s)
        folder = self.site.folder / "checkpoints"
        self.wait_for(lambda: 1.0 if checkpointed(folder) == self.committed() else None, timeout_s, f"no state of {self.committed()} saved")
        for member in self.members:
            self.leave(member, is_removed=False)

    def wait_until_caught_up(self, timeout_s: float = COMMITS_WITHIN_S) -> None:
        """Until all that is written now is committed."""
        ends = {number: end for number, end in end_offsets(self._bootstrap, self.topic).items() if end}
        self.wait_for(lambda: 1.0 if self.committed() == ends else None, timeout_s, f"not all of {ends} committed")

    def wait_for_refusal(self, member: str, told: str) -> None:
        """Until the daemon has ended because a person must do something first, and has told what."""
        process = self._alive.pop(member)
        process.join(DIES_WITHIN_S)
        if process.exitcode != 2 or told not in self.site.log():
            kill(process)
            raise HarnessError(f"{member} did not end with {told!r} (exit code {process.exitcode}):\n{self.site.log_tail()}")

    def wait_for_fencing(self, process: Process) -> None:
        """Until the daemon has ended because another has taken its name."""
        process.join(DIES_WITHIN_S)
        if process.exitcode != _FENCED:
            raise HarnessError(f"a daemon whose name was taken went on (exit code {process.exitcode}):\n{self.site.log_tail()}")

    def wait_for_cut(self, cut: Cut) -> None:
        """Until the connection was cut where it should be."""
        if not cut.is_done.wait(COMMITS_WITHIN_S):
            raise HarnessError(f"{cut.api.name}, {cut.moment.value}: no such request in {COMMITS_WITHIN_S:.0f} s:\n{self.site.log_tail()}")

    def close(self) -> None:
        """Whatever still runs is killed."""
        for process in self._started:
            kill(process)
        self._groups.close()

    def committed(self) -> dict[int, int]:
        return self._groups.committed(self.group, self.topic)

    def _refuse_ended(self, member: str) -> None:
        code = self._alive[member].exitcode
        if code is not None:
            raise HarnessError(f"{member} ended by itself (exit code {code}):\n{self.site.log_tail()}")
