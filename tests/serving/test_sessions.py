"""Invariant 2: a session keeps its set for its lease, through races, lost replies and clocks that disagree."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, StoreUnavailable
from headrace.rollout.routing import Pin, RoutingTable
from headrace.serving.sessions import KEPT_SECONDS, Held, SessionPin, SessionPins
from headrace.store.small_objects import PassedOver
from simulation.disk import Kept
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import CANDIDATE, SERVICE, STABLE, THIRD, TroubledStore

LEASE = 600.0
SESSION = "chat of Ada"


def make_pins(store: object, clock: FixedClock | None = None, *, by: str = "g1") -> SessionPins:
    clock = clock or FixedClock()
    return SessionPins(cast(Any, store), SERVICE, clock, lease_seconds=LEASE, by=by)


def make_table(**changes: Any) -> RoutingTable:
    settings: dict[str, Any] = {"head": 2, "salt": SERVICE, "stable": STABLE, "candidate": CANDIDATE, "trial": 2}
    return RoutingTable(**(settings | changes))


def always(table: RoutingTable) -> Callable[[], RoutingTable]:
    return lambda: table


def choose(
    pins: SessionPins, version_set: str, *, session: str = SESSION, seconds: float | None = None, **known: Any
) -> Held:
    """The pin of a session that gets `version_set` if it has none."""
    pin = Pin(version_set, 2, "weight", 2)
    return pins.hold(session, always(make_table()), lambda last: pins.chosen(pin, seconds=seconds), **known)


def nothing_to_choose(last: SessionPin | None) -> Held:
    raise AssertionError("A live pin was there.")


def chain(store: MemoryStore) -> list[dict[str, Any]]:
    return [json.loads(store.bodies[key][0]) for key in sorted(store.bodies) if "/sessions/" in key]


def test_a_session_keeps_its_set_at_every_gateway() -> None:
    store = MemoryStore(FixedClock())
    first = choose(make_pins(store), STABLE)
    assert first.is_chosen
    again = make_pins(store, by="g2").hold(SESSION, always(make_table(stable=THIRD, candidate=None)), nothing_to_choose)
    assert not again.is_chosen
    assert again.record == first.record
    assert len(chain(store)) == 1


def test_a_session_never_shows_its_name_in_the_store() -> None:
    store = MemoryStore(FixedClock())
    choose(make_pins(store), STABLE, session="../../secret name")
    assert not any("secret" in key or b"secret" in body for key, (body, *_) in store.bodies.items())


def test_of_two_gateways_that_choose_at_once_one_wins_and_the_other_takes_it_over() -> None:
    store = TroubledStore()

    def other_is_first(key: str) -> None:
        store.before_create = lambda key: None
        choose(make_pins(store.store, by="g2"), STABLE)

    store.before_create = other_is_first
    held = choose(make_pins(store), CANDIDATE)
    assert (held.record.version_set, held.record.by, held.is_chosen) == (STABLE, "g2", False)


@pytest.mark.parametrize("fate", ["told there", "lost"])
def test_a_pin_whose_reply_was_lost_is_the_sessions_pin(fate: str) -> None:
    store = TroubledStore()
    store.fates.append(fate)
    if fate == "lost":
        with pytest.raises(StoreUnavailable):
            choose(make_pins(store), CANDIDATE)
    held = choose(make_pins(store), CANDIDATE)
    assert held.record.version_set == CANDIDATE
    assert len(chain(store.store)) == 1


def test_a_lease_is_renewed_when_less_than_half_of_it_is_left() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    known = choose(pins, STABLE).record
    clock.advance(LEASE / 2 - 1)
    assert pins.hold(SESSION, always(make_table()), nothing_to_choose, known=known).record == known
    clock.advance(2)
    renewed = pins.hold(SESSION, always(make_table()), nothing_to_choose, known=known)
    assert renewed.record.expires_at == clock.now() + LEASE
    assert (renewed.record.entry, renewed.is_chosen) == (known.entry, False)


def test_two_gateways_that_renew_at_once_agree() -> None:
    store, clock = TroubledStore(), FixedClock()
    pins = make_pins(store, clock)
    known = choose(pins, STABLE).record
    clock.advance(LEASE * 0.8)

    def other_is_first(key: str) -> None:
        store.before_create = lambda key: None
        make_pins(store.store, clock, by="g2").hold(SESSION, always(make_table()), nothing_to_choose, known=known)

    store.before_create = other_is_first
    held = pins.hold(SESSION, always(make_table()), nothing_to_choose, known=known)
    assert (held.record.number, held.record.by) == (2, "g2")


def test_a_set_that_is_evicted_is_replaced_by_the_stable_one_at_once() -> None:
    store = MemoryStore(FixedClock())
    pins = make_pins(store)
    choose(pins, CANDIDATE)
    evicting = make_table(candidate=None, aborted=frozenset({CANDIDATE}), evicted=frozenset({CANDIDATE}), head=3)
    held = pins.hold(SESSION, always(evicting), nothing_to_choose)
    assert (held.record.version_set, held.record.reason, held.record.entry) == (STABLE, "repinned", 3)
    assert held.is_chosen
    assert [pin["reason"] for pin in chain(store)] == ["weight", "repinned"]


def test_a_renewal_by_a_gateway_that_has_not_heard_of_the_eviction_is_moved_on() -> None:
    store, clock = TroubledStore(), FixedClock()
    evicting = make_table(candidate=None, evicted=frozenset({CANDIDATE}), head=3)
    late = make_pins(store.store, clock, by="late")
    known = choose(late, CANDIDATE).record
    clock.advance(LEASE * 0.8)

    def renew_first(key: str) -> None:
        store.before_create = lambda key: None
        late.hold(SESSION, always(make_table()), nothing_to_choose, known=known)

    store.before_create = renew_first
    held = make_pins(store, clock).hold(SESSION, always(evicting), nothing_to_choose)
    assert (held.record.number, held.record.version_set) == (3, STABLE)


def test_a_set_that_is_rolled_back_without_eviction_is_kept_to_the_leases_end_and_no_longer() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    known = choose(pins, CANDIDATE).record
    aborted = always(make_table(candidate=None, aborted=frozenset({CANDIDATE}), head=3))
    clock.advance(LEASE - 1)
    assert pins.hold(SESSION, aborted, nothing_to_choose, known=known).record == known
    clock.advance(1 + pins.skew_seconds)
    held = pins.hold(SESSION, aborted, lambda last: pins.chosen(Pin(STABLE, 2, "weight", 2)), known=known)
    assert held.record.version_set == STABLE


def test_a_clock_that_is_ahead_within_the_allowance_ends_no_lease() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    choose(make_pins(store, clock), CANDIDATE)
    clock.advance(LEASE - 1)
    ahead = FixedClock(clock.now() + make_pins(store).skew_seconds)
    held = make_pins(store, ahead, by="ahead").hold(SESSION, always(make_table()), nothing_to_choose)
    assert held.record.version_set == CANDIDATE


def test_a_first_pin_on_a_candidate_is_provisional_until_its_turn_has_begun() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    first = choose(pins, CANDIDATE, seconds=0.7).record
    assert first.expires_at == clock.now() + 0.7
    # Another gateway sees it, and leaves it to the one that began.
    assert make_pins(store, clock).hold(SESSION, always(make_table()), nothing_to_choose).record == first
    clock.advance(5.0)
    whole = pins.hold(SESSION, always(make_table()), nothing_to_choose, known=first).record
    assert (whole.version_set, whole.is_provisional, whole.expires_at) == (CANDIDATE, False, clock.now() + LEASE)


def test_a_session_that_began_stays_on_a_set_rolled_back_without_eviction_although_its_pin_was_provisional() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    first = choose(pins, CANDIDATE, seconds=0.7).record
    clock.advance(5.0)
    aborted = always(make_table(candidate=None, aborted=frozenset({CANDIDATE}), head=3))
    assert pins.hold(SESSION, aborted, nothing_to_choose, known=first).record.version_set == CANDIDATE


def test_a_pin_that_reaches_the_store_after_the_abort_binds_nobody() -> None:
    store, clock = TroubledStore(), FixedClock()
    tables = [make_table()]

    def abort_meanwhile(key: str) -> None:
        store.before_create = lambda key: None
        tables[0] = make_table(candidate=None, aborted=frozenset({CANDIDATE}), head=3)
        clock.advance(4.0)

    def drawn(last: SessionPin | None) -> Held:
        candidate, stable = tables[0].candidate, tables[0].stable
        return pins.chosen(Pin(candidate or stable, 2, "weight", 2), seconds=0.9 if candidate else None)

    store.before_create = abort_meanwhile
    pins = make_pins(store, clock)
    held = pins.hold(SESSION, lambda: tables[0], drawn)
    assert held.record.version_set == STABLE
    assert [pin["version_set"] for pin in chain(store.store)] == [CANDIDATE, STABLE]


def test_a_session_that_comes_back_after_its_lease_is_chosen_anew() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    known = choose(pins, STABLE).record
    clock.advance(LEASE + pins.skew_seconds)
    held = choose(pins, CANDIDATE, known=known)
    assert (held.record.version_set, held.record.number, held.is_chosen) == (CANDIDATE, 2, True)


def test_a_sweep_takes_sessions_that_ended_a_day_ago_and_no_others() -> None:
    store, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(store, clock)
    for number in range(20):
        choose(pins, STABLE, session=f"old {number}")
    clock.advance(KEPT_SECONDS)
    for number in range(5):
        choose(pins, STABLE, session=f"new {number}")
    clock.advance(LEASE)
    assert pins.sweep() == 20
    assert len(chain(store)) == 5
    assert pins.sweep() == 0
    assert choose(pins, CANDIDATE, session="old 3").record.number == 1


def test_a_sweep_that_is_killed_leaves_the_newest_pin() -> None:
    disk, clock = MemoryStore(FixedClock()), FixedClock()
    pins = make_pins(disk, clock)
    known = choose(pins, STABLE).record
    clock.advance(LEASE * 0.8)
    newest = pins.hold(SESSION, always(make_table()), nothing_to_choose, known=known).record
    clock.advance(LEASE + KEPT_SECONDS)

    def killed_at_the_second(operation: str) -> None:
        if operation.startswith("delete") and operation.endswith("2.json"):
            raise StoreUnavailable("Killed.")

    with pytest.raises(StoreUnavailable):
        make_pins(disk.seen_by(killed_at_the_second), clock).sweep()
    assert pins.newest(SESSION) == newest


def test_a_session_whose_pin_cannot_be_read_goes_on_with_the_stable_set_everywhere() -> None:
    store = MemoryStore(FixedClock())
    begun = choose(make_pins(store), CANDIDATE).record
    key = next(iter(store.bodies))
    store.bodies[key] = Kept(b"{}")
    held = make_pins(store, by="g2").hold(SESSION, always(make_table()), nothing_to_choose)
    assert (held.record.version_set, held.record.reason, held.record.number) == (STABLE, "repinned", 2)
    assert make_pins(store, by="g3").hold(SESSION, always(make_table()), nothing_to_choose).record == held.record
    # The gateway where it began takes that over when the pin is due.
    clock = FixedClock()
    clock.advance(LEASE * 0.6)
    pins = make_pins(store, clock)
    assert pins.hold(SESSION, always(make_table()), nothing_to_choose, known=begun).record.version_set == STABLE


def test_a_pin_that_is_missing_before_the_newest_is_said_and_nothing_is_pinned_behind_it() -> None:
    clock = FixedClock()
    store = MemoryStore(clock)
    pins = make_pins(store, clock)
    for _ in range(3):
        choose(pins, STABLE)
        clock.advance(LEASE * 0.6)
    (_, second, _) = sorted(store.bodies)
    del store.bodies[second]
    with pytest.raises(HandoffCorrupt, match="Session pin 2 is missing, though number 3 was made"):
        pins.hold(SESSION, always(make_table()), nothing_to_choose)
    assert len(store.bodies) == 2


def test_a_sweep_goes_on_past_a_pin_that_cannot_be_read_and_takes_it_in_its_time() -> None:
    clock = FixedClock()
    store = MemoryStore(clock)
    pins = make_pins(store, clock)
    for session in ("a", "b"):
        choose(pins, STABLE, session=session)
    key = min(store.bodies)
    store.bodies[key] = Kept(b"", clock.now())
    store.bodies[key.rpartition("/")[0] + "/.nfs0001"] = Kept(b"", clock.now())
    damaged = PassedOver()
    assert pins.sweep(damaged=damaged) == 0
    assert damaged.keys == [key]
    clock.advance(LEASE + KEPT_SECONDS + 1)
    assert pins.sweep() == 2
    assert [left.rpartition("/")[2] for left in store.bodies] == [".nfs0001"]
