"""Alerts per day in place of a threshold: one factor on every z of a partition, moved so that incidents open at the rate asked for.

Integral control of log z. What a z costs depends on entities, records, faults and drift, so nothing is modelled: each incident opened draws z up,
the share of a day that passed lets it down by what it allows, and over the long run the two are equal. What was opened beyond it while z was on
its way is paid back over the next week, by at most a quarter of the budget. Batches are cut where z moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from anomaly_daemon.domain.errors import CheckpointInvalid
from anomaly_daemon.domain.records import Observations, Partition, Scores
from anomaly_daemon.domain.times import DAY_US
from anomaly_daemon.pipeline.pieces import Piece, cut, runs

FORMAT: Final = 1
Z_MIN, Z_MAX = 1.0, 50.0  # below, what is usual would count, and incidents that never close open nothing
# Of log z, by one incident more or less than allowed; at first, and once many were allowed. In simulations of 10 to 3000 entities, .5 to 100
# incidents a day and light or heavy tails of faults: .04 to .08 alike; a gain on z itself took weeks where few faults are small.
GAIN_FIRST, GAIN_MIN = 0.25, 0.06
_HALF_ALLOWED = 6.0  # incidents allowed until the first gain has halved
CHANGE_MAX = 0.25  # of log z in one step: a storm of incidents must not make the detector deaf for weeks
# Without paying back, the first week of simulated pumps opened 1.2 to 1.9 times the incidents allowed and three weeks 1.1 to 1.3 times; with it
# three weeks opened 1.0 to 1.05 times as many.
PAID_BACK_MAX = 0.25  # of the budget
_PAID_BACK_DAYS, _PAID_BACK_INCIDENTS = 7.0, 5.0
_STEPS_A_DAY_MIN, _STEPS_A_DAY_MAX = 24, 288
_ROWS_MIN = 64  # a step holds at least so many records: each costs a micro-batch
_JUMP_MAX_US = DAY_US  # nothing can be announced of days without a record


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """per_day: the budget. allowed: incidents it allowed so far. debt: opened beyond it. newest_us: largest event time.

    The others are of the step under way.
    """

    format: int
    per_day: float
    factor: float = 1.0
    allowed: float = 0.0
    debt: float = 0.0
    newest_us: int | None = None
    passed_us: int = 0
    rows: int = 0
    opened: int = 0
    is_judged: bool = False


def moved(z: float, opened: int, allowed: float, allowed_before: float) -> float:
    """The z after a step that opened so many incidents where `allowed` were; allowed_before: in all steps before it."""
    gain = max(GAIN_MIN, GAIN_FIRST / (1 + allowed_before / _HALF_ALLOWED))
    change = min(max(gain * (opened - allowed), -CHANGE_MAX), CHANGE_MAX)
    return min(max(z * math.exp(change), Z_MIN), Z_MAX)


def paid_back(debt: float, per_day: float) -> float:
    """By which share of the budget fewer incidents are aimed at, more where negative."""
    return min(max(debt / _paid_back_over(per_day), -PAID_BACK_MAX), PAID_BACK_MAX)


class Budget:
    """What one partition may open, and the factor that its z stand at."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._z = 1.0

    @property
    def factor(self) -> float:
        """By which every z of the partition is multiplied."""
        return self._state.factor

    @property
    def z(self) -> float:
        """The z of whoever has none of its own."""
        return self._state.factor * self._z

    def allow(self, per_day: float, z: float) -> None:
        """From the next record on so many incidents a day. z: the setting, which the factor starts from.

        Another budget goes on from where z stands, in large steps again.
        """
        self._z = z
        if self._state.per_day != per_day:
            self._state.per_day, self._state.allowed, self._state.debt = per_day, 0.0, 0.0

    def take(self, times_us: NDArray[np.int64]) -> int:
        """Let the time of the partition's next records pass; how many of them come before z moves, all where it does not.

        times_us: int64 [n > 0], event times in log order. Where fewer than all are taken, `move` follows, and the others are to be given again.
        """
        state = self._state
        first_us = int(times_us[0]) if state.newest_us is None else state.newest_us
        newest_us = np.maximum(np.maximum.accumulate(times_us), first_us)
        passed_us = state.passed_us + np.cumsum(np.minimum(np.diff(newest_us, prepend=first_us), _JUMP_MAX_US))
        place = max(int(np.searchsorted(passed_us, _step_us(state.per_day))), _ROWS_MIN - state.rows)
        taken, last = min(place, len(times_us)), min(place, len(times_us) - 1)
        state.rows += taken
        state.passed_us, state.newest_us = int(passed_us[last]), int(newest_us[last])
        return taken

    def count(self, opened: int, *, is_judged: bool) -> None:
        """Incidents opened by records taken, and whether any record of them was beyond warm-up."""
        self._state.opened += opened
        self._state.is_judged |= is_judged

    def move(self) -> None:
        """End the step: z moves. Of time in which nothing could have opened, in warm-up, nothing is owed."""
        state = self._state
        allowed = state.per_day * state.passed_us / DAY_US if state.is_judged else 0.0
        aimed_at = allowed * (1 - paid_back(state.debt, state.per_day))
        state.factor = moved(self.z, state.opened, aimed_at, state.allowed) / self._z
        state.allowed += allowed
        most = _paid_back_over(state.per_day)
        state.debt = min(max(state.debt + state.opened - allowed, -most), most)
        state.passed_us = state.rows = state.opened = 0
        state.is_judged = False

    def to_bytes(self) -> bytes:
        """The state as canonical JSON: equal states give equal bytes."""
        return msgspec.json.encode(self._state, order="sorted")


class Budgets:
    """The budgets of the partitions at hand that have one."""

    def __init__(self) -> None:
        self._of: dict[Partition, Budget] = {}

    @property
    def z(self) -> float | None:
        """The z of whoever has none of its own, mean over the partitions; None where none has a budget."""
        return sum(budget.z for budget in self._of.values()) / len(self._of) if self._of else None

    def allow(self, partition: Partition, per_day: float | None, z: float) -> None:
        """See Budget; None: any number, and what was reached is forgotten."""
        if per_day is None:
            self._of.pop(partition, None)
            return
        if partition not in self._of:
            self._of[partition] = Budget(_State(FORMAT, per_day))
        self._of[partition].allow(per_day, z)

    def factors(self, owners: Sequence[Partition]) -> NDArray[np.float64]:
        """float64 [owners], by which the z of each partition's entities is multiplied."""
        if not self._of:
            return np.ones(len(owners))
        return np.array([self._of[owner].factor if owner in self._of else 1.0 for owner in owners])

    def steps(self, observations: Observations, slots: NDArray[np.int64]) -> Iterator[Piece]:
        """Cut a piece wherever a partition's z moves, and move it there; each part must be processed before the next is asked for."""
        first = done = 0
        for partition, end in runs(observations.records) if self._of else ():
            budget = self._of.get(partition)
            while budget is not None and done < end:
                done += budget.take(observations.times_us[done:end])
                if done == end:
                    break
                if done > first:
                    yield cut(observations, first, done), slots[first:done]
                    first = done
                budget.move()
            done = end
        if first < len(slots):
            yield cut(observations, first, len(slots)), slots[first:]

    def count(self, observations: Observations, scores: Scores, opened: Sequence[Partition]) -> None:
        """What a part came to: the partition of each incident opened, and whether any of its records could have opened one."""
        first = 0
        for partition, end in runs(observations.records) if self._of else ():
            if partition in self._of:
                self._of[partition].count(0, is_judged=not np.isnan(scores.deviations[first:end]).all())
            first = end
        for partition in opened:
            if partition in self._of:
                self._of[partition].count(1, is_judged=True)

    def drop(self, partition: Partition) -> None:
        """Let go of a partition."""
        self._of.pop(partition, None)

    def to_bytes(self, partition: Partition) -> bytes:
        """A partition's state; empty where it has no budget."""
        return self._of[partition].to_bytes() if partition in self._of else b""

    def restore(self, partition: Partition, state_bytes: bytes) -> None:
        """Take over the state of `to_bytes`; `allow` follows. Raises CheckpointInvalid, and changes nothing, when it cannot be read."""
        if not state_bytes:
            return
        try:
            state = msgspec.json.decode(state_bytes, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"budget of {partition}: not the state of a budget: {error}") from error
        if state.format != FORMAT:
            raise CheckpointInvalid(f"budget of {partition}: format {state.format}, this version reads format {FORMAT}")
        self._of[partition] = Budget(state)


def _paid_back_over(per_day: float) -> float:
    """Incidents that a week allows, or a few where those are fewer: the debt is at most as many."""
    return max(_PAID_BACK_DAYS * per_day, _PAID_BACK_INCIDENTS)


def _step_us(per_day: float) -> int:
    """An hour, less where more than one incident an hour is allowed."""
    return round(DAY_US / min(max(per_day, _STEPS_A_DAY_MIN), _STEPS_A_DAY_MAX))
