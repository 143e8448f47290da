"""Fair shares of tenants, beside the ideal that work flows like water, and the clock's own rules."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.fairness import FairClock
from headrace.inbox.fairness import costs_of, is_heavy, weight_of
from headrace.inbox.rules import Tenant
from simulation.fluid_share import fluid_service

ROWS_MAX = 10


@dataclass
class Worker:
    """Puts events into windows as a log does, and works them off one window at a time, an event a unit of time."""

    weights: Mapping[str, float]
    at: float = 0.0
    arrivals: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    # When each window was done, and what was in it.
    done: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = FairClock()
        self._tenants = {name: Tenant(weight=weight) for name, weight in self.weights.items()}
        self._open: dict[str, Counter[str]] = {}
        self._sealed: list[tuple[float, int, Counter[str]]] = []
        self._waiting: Counter[str] = Counter()
        self._highest = 0.0
        self._num_sealed = 0

    def take(self, counts: Mapping[str, int]) -> None:
        self.arrivals.append((self.at, counts))
        for tenant, num_events in counts.items():
            for _ in range(num_events):
                lane = tenant if is_heavy(self._waiting[tenant], ROWS_MAX) else ""
                window = self._open.setdefault(lane, Counter())
                window[tenant] += 1
                self._waiting[tenant] += 1
                if window.total() == ROWS_MAX:
                    self._seal(lane)

    def close(self) -> None:
        """As a watermark does."""
        for lane in list(self._open):
            self._seal(lane)

    def _seal(self, lane: str) -> None:
        window = self._open.pop(lane)
        self._num_sealed += 1
        self._sealed.append(
            (self._clock.turn(costs_of(self._tenants, window), self._highest), self._num_sealed, window)
        )

    def work(self) -> bool:
        """One window, if there is one."""
        if not self._sealed:
            return False
        self._sealed.sort(key=lambda one: one[:2])
        turn, _, window = self._sealed.pop(0)
        self.at += window.total()
        self._highest = max(self._highest, turn)
        self._waiting -= window
        self.done.append((self.at, window))
        return True


def lags(worker: Worker) -> list[float]:
    """How far any tenant is behind the ideal, in events, just before each window is done."""
    ideal = fluid_service(worker.arrivals, worker.weights, [at for at, _ in worker.done])
    done: Counter[str] = Counter()
    found: list[float] = []
    for (_, window), flowed in zip(worker.done, ideal, strict=True):
        found.append(max(flowed[name] - done[name] for name in worker.weights))
        done.update(window)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_tenant_falls_far_behind_the_ideal(data: st.DataObject) -> None:
    """By a window of each tenant and one more, times how far their weights are apart."""
    names = [f"tenant-{number}" for number in range(data.draw(st.integers(2, 4)))]
    worker = Worker({name: data.draw(st.sampled_from([1.0, 2.0, 5.0])) for name in names})
    for _ in range(data.draw(st.integers(1, 15))):
        counts = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 40), min_size=1))
        worker.take(counts)
        # What is in an open window waits for its end and not for other tenants.
        worker.close()
        for _ in range(data.draw(st.integers(0, 4))):
            worker.work()
    while worker.work():
        pass
    apart = max(worker.weights.values()) / min(worker.weights.values())
    assert max(lags(worker)) <= ROWS_MAX * (len(names) + 1) * apart


@pytest.mark.parametrize("num_events", [1_000, 100_000])
def test_who_asks_for_ten_waits_as_long_behind_a_hundred_thousand_as_behind_a_thousand(num_events: int) -> None:
    worker = Worker({"many": 1.0, "few": 1.0})
    worker.take({"many": num_events})
    for _ in range(20):
        worker.work()
    began = worker.at
    worker.take({"few": 10})
    worker.close()
    while worker.done[-1][1] != {"few": 10}:
        worker.work()
    # Its own window, and at most one of the other tenant.
    assert worker.at - began <= 2 * ROWS_MAX


def test_two_tenants_with_much_have_shares_by_their_weights() -> None:
    worker = Worker({"a": 3.0, "b": 1.0})
    worker.take({"a": 1_000, "b": 1_000})
    worker.close()
    while worker.at < 1_200:
        worker.work()
    done = Counter[str]()
    for _, window in worker.done:
        done.update(window)
    assert abs(done["a"] - 900) <= 2 * ROWS_MAX
    assert abs(done["b"] - 300) <= 2 * ROWS_MAX


def test_a_tenant_that_had_nothing_to_do_saves_nothing_up() -> None:
    clock = FairClock()
    assert [clock.turn({"a": 10}, 0.0) for _ in range(3)] == [0.0, 10.0, 20.0]
    # `a` has had 20 by now; `b` comes for the first time, and begins where `a` is.
    assert clock.turn({"b": 10}, 20.0) == 20.0
    assert clock.turn({"b": 10}, 20.0) == 30.0
    assert clock.turn({"a": 10}, 20.0) == 30.0


def test_a_clock_goes_on_where_another_one_ended() -> None:
    clock, windows = FairClock(), list[tuple[float, Mapping[str, int]]]()
    for counts in ({"a": 10}, {"a": 4, "b": 6}, {"b": 10}, {"a": 10}):
        windows.append((clock.turn(counts, 0.0), counts))
    again = FairClock()
    again.resume(windows)
    for counts in ({"a": 1}, {"b": 1}, {"c": 1}):
        assert again.turn(counts, 0.0) == clock.turn(counts, 0.0)


def test_what_is_said_of_every_other_tenant_holds_for_those_that_are_not_named() -> None:
    tenants = {"a": Tenant(weight=3.0), "*": Tenant(weight=0.5)}
    assert [weight_of(tenants, name) for name in ("a", "b")] == [3.0, 0.5]
    assert weight_of({}, "a") == 1.0
