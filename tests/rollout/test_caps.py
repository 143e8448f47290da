"""Invariant 5: units ever started on a candidate never pass its cap, whatever stores and holders do."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, StoreUnavailable
from headrace.rollout.caps import CapLeases
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import TroubledStore

_FATES = st.sampled_from(["well", "well", "refused", "lost", "told there"])


def make_leases(store: object, name: str = "glossary") -> CapLeases:
    return CapLeases(cast(Any, store), name, FixedClock())


def places(store: MemoryStore, trial: int = 2) -> int:
    """What a trial's leases hold, added up from the objects themselves."""
    keys = sorted(key for key in store.bodies if key.startswith(f"rollout/glossary/caps/{trial:08d}/"))
    leases = [json.loads(store.bodies[key][0]) for key in keys]
    assert [lease["first"] for lease in leases] == [
        sum(lease["count"] for lease in leases[:number]) for number in range(len(leases))
    ]
    return sum(lease["count"] for lease in leases)


def test_the_last_lease_is_cut_to_the_cap() -> None:
    leases = make_leases(MemoryStore(FixedClock()))
    assert [leases.take(2, 10, count=4, by="g") for _ in range(4)] == [4, 4, 2, 0]
    assert leases.num_leased(2) == 10


def test_each_trial_has_places_of_its_own() -> None:
    leases = make_leases(MemoryStore(FixedClock()))
    assert leases.take(2, 3, count=5, by="g") == 3
    assert leases.take(9, 3, count=5, by="g") == 3


def test_a_cap_that_rises_gives_more_and_one_that_falls_gives_nothing() -> None:
    store = MemoryStore(FixedClock())
    leases = make_leases(store)
    assert leases.take(2, 10, count=10, by="g") == 10
    assert leases.take(2, 5, count=10, by="g") == 0
    assert leases.take(2, 12, count=10, by="g") == 2
    assert places(store) == 12


def test_a_gateway_that_was_told_already_there_of_its_own_lease_has_it() -> None:
    store = TroubledStore()
    store.fates.append("told there")
    assert make_leases(store).take(2, 10, count=4, by="g") == 4
    assert places(store.store) == 4


def test_a_lease_whose_reply_was_lost_is_found_by_its_holder_and_by_nobody_else() -> None:
    store = TroubledStore()
    leases = make_leases(store)
    store.fates.append("lost")
    with pytest.raises(StoreUnavailable):
        leases.take(2, 10, count=4, by="g")
    assert make_leases(TroubledStore(store.store)).take(2, 10, count=100, by="other") == 6
    assert leases.take(2, 10, count=1, by="g") == 4
    assert leases.take(2, 10, count=1, by="g") == 0


def test_a_thread_that_reads_a_lease_before_its_writer_has_the_answer_spends_no_place_twice() -> None:
    class Overtaken(MemoryStore):
        """Something happens after the next write, before its answer."""

        meanwhile: Callable[[], None] | None = None

        def create(self, *what: Any, **how: Any) -> bool:
            won = super().create(*what, **how)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile:
                meanwhile()
            return won

    store, granted = Overtaken(FixedClock()), []
    leases = make_leases(store)
    store.meanwhile = lambda: granted.append(leases.take(2, 10, count=4, by="g"))
    granted.append(leases.take(2, 10, count=4, by="g"))
    assert granted == [4, 4]
    assert places(store) == 8
    assert leases.take(2, 10, count=4, by="g") == 2


def test_a_lost_lease_is_not_used_once_the_cap_has_fallen_below_what_is_leased() -> None:
    store = TroubledStore()
    leases = make_leases(store)
    store.fates.append("lost")
    with pytest.raises(StoreUnavailable):
        leases.take(2, 10, count=4, by="g")
    assert leases.take(2, 3, count=4, by="g") == 0
    assert leases.take(2, 10, count=6, by="g") == 6


def test_what_a_killed_gateway_had_leased_stays_spent() -> None:
    store = MemoryStore(FixedClock())
    make_leases(store).take(2, 10, count=8, by="killed")
    assert make_leases(store).take(2, 10, count=8, by="the next one") == 2


def test_a_gateway_that_starts_late_reads_the_newest_lease_and_not_all_of_them() -> None:
    store = TroubledStore()
    early = make_leases(store)
    for _ in range(50):
        early.take(2, 1000, count=2, by="early")
    store.num_reads = 0
    assert make_leases(store).take(2, 102, count=50, by="late") == 2
    assert store.num_reads <= 4


def test_a_unit_that_has_a_place_keeps_it_and_spends_no_other() -> None:
    store = MemoryStore(FixedClock())
    assert make_leases(store).take_for(2, 2, "shard-01")
    assert make_leases(store).take_for(2, 2, "shard-02")
    leases = make_leases(store)
    assert not leases.take_for(2, 2, "shard-03")
    assert leases.take_for(2, 2, "shard-01")
    # It started when the cap was higher; asking again starts nothing.
    assert leases.take_for(2, 1, "shard-02")
    assert places(store) == 2


def test_a_unit_whose_place_was_granted_without_a_reply_finds_it_when_it_asks_again() -> None:
    store = TroubledStore()
    leases = make_leases(store)
    store.fates.append("lost")
    with pytest.raises(StoreUnavailable):
        leases.take_for(2, 1, "shard-01")
    assert leases.take_for(2, 1, "shard-01")
    assert not leases.take_for(2, 1, "shard-02")


def test_two_workers_on_one_unit_spend_one_place() -> None:
    store = TroubledStore()
    other = make_leases(store.store)

    def other_is_first(key: str) -> None:
        store.before_create = lambda key: None
        assert other.take_for(2, 5, "shard-01")

    store.before_create = other_is_first
    assert make_leases(store).take_for(2, 5, "shard-01")
    assert places(store.store) == 1


def test_a_lease_that_was_edited_is_found_and_stops_the_candidate() -> None:
    store = MemoryStore(FixedClock())
    leases = make_leases(store)
    leases.take(2, 10, count=4, by="g")
    key = "rollout/glossary/caps/00000002/00000002.json"
    store.create(key, json.dumps({"first": 0, "count": 4, "cap": 10, "at": "now", "by": "g", "nonce": "x"}).encode())
    with pytest.raises(HandoffCorrupt, match=r"Cap lease .*00000002\.json holds 4 places from 0 on, .* end at 4"):
        leases.take(2, 10, count=4, by="g")


@settings(derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["take", "take", "take_for", "killed"]),
            st.integers(1, 6),
            st.sampled_from([3, 10, 10, 20]),
            _FATES,
        ),
        max_size=40,
    )
)
def test_what_is_granted_never_passes_what_is_leased_nor_the_highest_cap(
    calls: list[tuple[int, str, int, int, str]],
) -> None:
    disk = MemoryStore(FixedClock())
    stores = [TroubledStore(disk) for _ in range(3)]
    holders = [make_leases(store) for store in stores]
    granted, highest, units = 0, 0, set()
    for who, kind, count, cap, fate in calls:
        if kind == "killed":
            stores[who] = TroubledStore(disk)
            holders[who] = make_leases(stores[who])
            continue
        highest = max(highest, cap)
        stores[who].fates.append(fate)
        leased_before = places(disk)
        try:
            if kind == "take":
                got = holders[who].take(2, cap, count=count, by=str(who))
                granted += got
                assert got == 0 or places(disk) <= cap
            elif holders[who].take_for(2, cap, unit := f"unit {count}") and unit not in units:
                granted += 1
                units.add(unit)
        except StoreUnavailable:
            pass
        stores[who].fates.clear()
        leased = places(disk)
        assert granted <= leased <= highest
        assert leased == leased_before or leased <= cap
