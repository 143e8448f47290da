"""The runs that came lately, in order of submission, and the work of each: real, or expected while it is not done.

Work is GPU-seconds; of runs without a GPU, seconds of the part of the fleet's CPUs or memory that they ask for.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from headrace.placement.run_times import RunTimes
from headrace.placement.snapshot import PlannedRun, Running, Waiting

_WAITING, _RUNNING, _ENDED = 0, 1, 2
# A run that still runs takes at least so much longer than it has run.
_BEYOND = 1.1
_ROWS_MIN = 256


class Asked(NamedTuple):
    """What a run asks of which pool (by number)."""

    pool: int
    amount: float


class Work(NamedTuple):
    """By run, the oldest first: when it came, its pool, what it asks for, all of its work, what of it waits.

    And for how long it was expected to run.
    """

    at: np.ndarray
    pool: np.ndarray
    amount: np.ndarray
    total: np.ndarray
    waiting: np.ndarray
    expected: np.ndarray

    def of(self, these: np.ndarray) -> "Work":
        return Work(*(column[these] for column in self))


class Arrivals:
    def __init__(self, times: RunTimes, asked: Callable[[PlannedRun], Asked | None]) -> None:
        """`asked`: None: such a run is not counted."""
        self._times, self._asked = times, asked
        self._rows: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._running: dict[str, Running] = {}
        self._columns = np.zeros((7, _ROWS_MIN))

    def note(self, running: Sequence[Running], gone: Sequence[Waiting], came: Sequence[Waiting], now: float) -> None:
        """Takes in what happened since the last time.

        Args:
            running: all that run now.
            gone: those that waited and do not any more; one that is told anew is among both.
            came: those that wait now and did not.
        """
        waited = self._waiting.copy() if gone else self._waiting
        self._waiting.difference_update([run.run_id for run in gone])
        newcomers: list[Waiting | Running] = [
            run for run in came if run.run_id not in self._rows and run.run_id not in waited
        ]
        self._waiting.update([run.run_id for run in came])
        by_id = {run.run_id: run for run in running}
        for run_id, run in self._running.items():
            if run_id not in by_id:
                self._left(run, now, stopped=run_id in self._waiting)
        for run in gone:
            if run.run_id not in self._waiting and run.run_id not in by_id:
                self._forget(run.run_id)
        started = [run for run_id, run in by_id.items() if run_id not in self._running]
        newcomers += [run for run in started if run.run_id not in self._rows]
        for run in sorted(newcomers, key=_submitted):
            self._add(run)
        for run in started:
            row = self._rows.get(run.run_id)
            if row is not None:
                self._columns[_STATE, row], self._columns[_BEGAN, row] = _RUNNING, run.started
        self._running = by_id

    def work(self, now: float, idle: Collection[str]) -> Work:
        """`idle`: waiting runs that wait for something else than what others have."""
        table = self._columns[:, : len(self._rows)]
        state, amount, ran = table[_STATE], table[_AMOUNT], table[_RAN]
        so_far = np.where(state == _RUNNING, ran + now - table[_BEGAN], ran)
        seconds = np.maximum(self._times.corrected(table[_EXPECTED]), _BEYOND * so_far)
        seconds = np.where(state == _ENDED, ran, seconds)
        waits = np.where(state == _WAITING, seconds - ran, 0.0)
        waits[[self._rows[run_id] for run_id in idle if run_id in self._rows]] = 0.0
        return Work(table[_AT], table[_POOL], amount, amount * seconds, amount * waits, table[_EXPECTED])

    def drop_before(self, at: float) -> None:
        """Forgets ended runs that came before; keeps some, and does nothing before there are twice as many."""
        num_rows = len(self._rows)
        if num_rows < 2 * _ROWS_MIN:
            return
        table = self._columns[:, :num_rows]
        keep = (table[_STATE] != _ENDED) | (table[_AT] >= at)
        keep[-_ROWS_MIN:] = True
        if 2 * int(keep.sum()) > num_rows:
            return
        names = [run_id for run_id, kept in zip(self._rows, keep.tolist(), strict=True) if kept]
        self._rows = {run_id: row for row, run_id in enumerate(names)}
        self._columns = np.concatenate([table[:, keep], np.zeros((7, len(names)))], axis=1)

    def _add(self, run: Waiting | Running) -> None:
        asked = self._asked(run)
        if asked is None or (isinstance(run, Running) and not run.started):  # started past the queue: since when?
            return
        row = len(self._rows)
        if row == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        ran = run.ran_seconds if isinstance(run, Waiting) else 0.0
        self._columns[:, row] = (_submitted(run), asked.pool, asked.amount, run.expected_seconds, ran, 0.0, _WAITING)
        self._rows[run.run_id] = row

    def _left(self, run: Running, now: float, *, stopped: bool) -> None:
        row = self._rows.get(run.run_id)
        if row is None:
            return
        column = self._columns[:, row]
        column[_RAN] += max(0.0, now - column[_BEGAN])
        column[_STATE] = _WAITING if stopped else _ENDED
        if not stopped:
            self._times.learn(float(column[_EXPECTED]), float(column[_RAN]), float(column[_AMOUNT]))

    def _forget(self, run_id: str) -> None:
        """It was canceled before it started: no work."""
        row = self._rows.get(run_id)
        if row is not None:
            self._columns[_STATE, row] = _ENDED


_AT, _POOL, _AMOUNT, _EXPECTED, _RAN, _BEGAN, _STATE = range(7)


def _submitted(run: Waiting | Running) -> float:
    return run.submitted if isinstance(run, Waiting) else run.started - run.waited_seconds
