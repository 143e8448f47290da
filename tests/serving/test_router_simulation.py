"""Invariants 1 to 7 over seeded schedules: several gateways, stale controllers, crashes, and a store in trouble.

A failure prints its seed and the end of its story; `simulate(seed, directory)` is the same again.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from headrace.rollout import caps
from headrace.serving import plan_lease, routes, sessions
from headrace.serving.sessions import SessionPins
from headrace.store.chain import Chain
from headrace.store.small_objects import Made
from tests.serving.simulated_routers import Broken, simulate

NUM_SCHEDULES = 20


def test_no_schedule_breaks_an_invariant(tmp_path: Path) -> None:
    counts = _simulate_all(range(NUM_SCHEDULES), tmp_path)
    # Otherwise the schedules would prove nothing.
    assert all(counts[what] > 0 for what in ("weight", "capped", "degraded", "override", "turns", "unpinned", "killed"))


def test_one_seed_is_one_story(tmp_path: Path) -> None:
    assert simulate(7, tmp_path).trace == simulate(7, tmp_path).trace


def _longer_plan_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan_lease, "LEASE_SECONDS", 2.5)


def _places_kept_when_the_cap_falls(patch: pytest.MonkeyPatch) -> None:
    made = routes.Places.__init__

    def make(self: routes.Places, trial: int, cap: int, before: routes.Places | None, wake) -> None:
        made(self, trial, cap, before, wake)
        if before is not None and before.trial == trial:
            self.units = before.units

    patch.setattr(routes.Places, "__init__", make)


def _leases_that_nobody_won(patch: pytest.MonkeyPatch) -> None:
    lease = caps.CapLeases._lease
    patch.setattr(caps.CapLeases, "_lease", lambda self, *args, **whose: lease(self, *args, **whose) or True)


def _clocks_that_may_not_differ(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SessionPins, "is_over", lambda self, record, now: now >= record.expires_at - 2.0)


def _pins_that_overwrite(patch: pytest.MonkeyPatch) -> None:
    create = Chain.create

    def overwrite(self: Chain, number: int, fields, **how) -> Made:
        made = create(self, number, fields, **how)
        return Made(won=True, value=fields) if self.kind is sessions.SESSION_PIN else made

    patch.setattr(Chain, "create", overwrite)


@pytest.mark.parametrize(
    ("defect", "invariant"),
    [
        (_longer_plan_lease, 6),
        (_places_kept_when_the_cap_falls, 5),
        (_leases_that_nobody_won, 5),
        (_clocks_that_may_not_differ, 2),
        (_pins_that_overwrite, 2),
    ],
)
def test_a_planted_defect_is_found(defect, invariant: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    with pytest.raises(Broken, match=f"invariant {invariant}:"):
        _simulate_all((87, 0, 40, *range(20, 60)), tmp_path)


def _simulate_all(seeds: Iterable[int], directory: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts.update(simulate(seed, directory).counts)
    return counts
