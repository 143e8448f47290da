"""What one gateway's router says, case by case; what several do together is in `test_router_simulation`."""

import asyncio
import json
import threading
from collections import Counter
from typing import Any, cast

import pytest

from headrace.clock import FixedClock
from headrace.errors import InvalidInput
from headrace.rollout.routing import Pin
from headrace.serving.plan_lease import PlanUnknown
from headrace.serving.router import Router
from headrace.serving.sessions import SessionPin
from simulation.disk import Kept
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import CANDIDATE, STABLE, THIRD, Plans, Site, TroubledStore, make_service

KEYS = [f"user-{number}" for number in range(400)]


def make_site(weight: float | None = 0.5, cap: int | None = None, **settings: Any) -> tuple[TroubledStore, Plans, Site]:
    """A stable set, a candidate at `weight` (None: no candidate), and a gateway that knows of both."""
    store = TroubledStore()
    plans, site = Plans(store.store), Site(store, **settings)
    plans.initialize()
    if weight is not None:
        plans.start(weight=weight, cap=cap)
    site.look()
    return store, plans, site


def turn(site: Site, session: str = "chat", override: str | None = None) -> SessionPin:
    return asyncio.run(site.router.resolve_session(session, override=override))


def reasons(site: Site, keys: list[str] = KEYS) -> Counter[tuple[str, str]]:
    pins = [site.router.resolve(key) for key in keys]
    return Counter((pin.version_set, pin.reason) for pin in pins)


def chain(store: TroubledStore) -> list[str]:
    bodies = store.store.bodies
    return [json.loads(bodies[key][0])["version_set"] for key in sorted(bodies) if "/sessions/" in key]


def session_on(site: Site, version_set: str) -> str:
    return next(key for key in KEYS if turn(site, key).version_set == version_set)


# Units


def test_without_a_plan_no_unit_is_routed() -> None:
    site = Site(MemoryStore(FixedClock()))
    with pytest.raises(PlanUnknown, match="The plan of glossary is not known: its journal was not read yet"):
        site.router.resolve("user")
    with pytest.raises(PlanUnknown):
        turn(site)


def test_units_get_their_set_by_rank_and_keep_it_when_the_weight_rises() -> None:
    _, plans, site = make_site(0.2)
    before = {key for key in KEYS if site.router.resolve(key).version_set == CANDIDATE}
    plans.advance(weight=0.6)
    site.look()
    after = {key for key in KEYS if site.router.resolve(key).version_set == CANDIDATE}
    assert before < after
    assert site.router.resolve(min(before)) == Pin(CANDIDATE, 3, "weight", 2)


def test_without_a_fresh_plan_units_start_on_the_stable_set_alone() -> None:
    _, _, site = make_site(1.0)
    site.pass_time(1.0)
    assert reasons(site) == {(STABLE, "degraded"): len(KEYS)}
    assert site.router.resolve("user", override="candidate").version_set == STABLE
    site.look()
    assert reasons(site) == {(CANDIDATE, "weight"): len(KEYS)}


def test_a_stopped_process_finds_its_plan_stale_when_it_goes_on() -> None:
    _, plans, site = make_site(1.0)
    plans.abort()
    # SIGSTOP, a minute, SIGCONT: nothing ran here, but the boot clock did.
    site.pass_time(60.0)
    assert site.router.resolve("user").reason == "degraded"


def test_after_an_abort_was_read_no_unit_starts_on_the_candidate() -> None:
    _, plans, site = make_site(1.0, cap=1000)
    assert reasons(site, KEYS[:10]) == {(CANDIDATE, "weight"): 10}
    plans.abort()
    site.look()
    assert reasons(site) == {(STABLE, "weight"): len(KEYS)}


@pytest.mark.parametrize(
    ("override", "expected"),
    [("stable", STABLE), (STABLE, STABLE), ("candidate", CANDIDATE), (CANDIDATE, CANDIDATE)],
)
def test_a_client_may_ask_for_either_set(override: str, expected: str) -> None:
    _, _, site = make_site(0.5)
    pin = site.router.resolve("user", override=override)
    assert (pin.version_set, pin.reason, pin.is_fair) == (expected, "override", False)


def test_a_client_that_asks_for_another_set_is_told_which_there_are() -> None:
    _, plans, site = make_site(0.5)
    with pytest.raises(InvalidInput, match=rf"must be stable \({STABLE}\), candidate \({CANDIDATE}\), got '{THIRD}'"):
        site.router.resolve("user", override=THIRD)
    plans.abort()
    site.look()
    with pytest.raises(InvalidInput, match="there is no candidate now, got 'candidate'"):
        site.router.resolve("user", override="candidate")


# Caps


def test_units_beyond_the_cap_get_the_stable_set() -> None:
    _, _, site = make_site(1.0, cap=10)
    started = 0
    for key in KEYS:
        started += site.router.resolve(key).version_set == CANDIDATE
        site.router.replenish()
    assert started == 10
    assert site.router.resolve("user").reason == "capped"
    assert site.router.resolve("user", override="candidate").reason == "capped"


def test_a_unit_that_asks_for_the_candidate_takes_a_place_under_its_cap() -> None:
    _, _, site = make_site(0.001, cap=1)
    assert site.router.resolve("user", override="candidate").version_set == CANDIDATE
    site.router.replenish()
    assert site.router.resolve("user", override="candidate").reason == "capped"


def test_before_the_first_places_are_leased_nothing_starts_on_a_capped_candidate() -> None:
    store = TroubledStore()
    plans, site = Plans(store.store), Site(store)
    plans.initialize()
    plans.start(weight=1.0, cap=100)
    site.lease.poll()
    assert site.router.resolve("user").reason == "capped"
    site.router.replenish()
    assert site.router.resolve("user").reason == "weight"


def test_three_gateways_and_their_successors_never_pass_the_cap() -> None:
    store, _, site = make_site(1.0, cap=57)
    sites = [site, Site(store, gateway="g2"), Site(store, gateway="g3")]
    started = 0
    for number, key in enumerate(KEYS):
        if number % 40 == 39:
            # Killed, with whatever places it had at hand.
            sites[number % 3] = Site(store, gateway=f"g{number}")
        one = sites[number % 3]
        one.look()
        started += one.router.resolve(key).version_set == CANDIDATE
    assert 30 < started <= 57


def test_places_leased_under_a_higher_cap_are_given_up_when_it_falls() -> None:
    store, plans, site = make_site(1.0, cap=400)
    other = Site(store, gateway="g2")
    other.look()
    for _ in range(20):
        other.router.resolve("user")
    plans.reweight(weight=1.0, cap=20)
    site.look()
    assert reasons(site) == {(STABLE, "capped"): len(KEYS)}


def test_places_are_kept_when_the_cap_rises() -> None:
    _, plans, site = make_site(1.0, cap=10)
    plans.reweight(weight=1.0, cap=40)
    site.lease.poll()
    assert site.router.resolve("user").version_set == CANDIDATE


def test_a_new_trial_does_not_use_the_places_of_the_last_one() -> None:
    _, plans, site = make_site(1.0, cap=400)
    plans.abort()
    plans.start(THIRD, weight=1.0, cap=400)
    site.lease.poll()
    assert site.router.resolve("user").reason == "capped"


# Sessions


def test_a_session_keeps_its_set_while_the_plan_moves_on() -> None:
    store, plans, site = make_site(0.5)
    first, session = next((one, key) for key in KEYS if (one := turn(site, key)).version_set == STABLE)
    assert (first.version_set, first.entry, first.reason, first.trial) == (STABLE, 2, "weight", 2)
    assert (first.is_fair, first.is_pinned) == (True, True)
    plans.advance(weight=1.0)
    plans.promote()
    site.look()
    again = turn(site, session)
    assert (again.version_set, again.reason, again.is_pinned) == (STABLE, "session", True)
    other = Site(store, gateway="g2")
    other.look()
    assert turn(other, session).version_set == STABLE
    assert turn(other, "another session").version_set == CANDIDATE


def test_a_session_takes_one_place_under_the_cap_however_many_turns_it_has() -> None:
    _, _, site = make_site(1.0, cap=2)
    for _ in range(5):
        assert turn(site, "one").version_set == CANDIDATE
        site.pass_time(0.3)
        site.look()
    assert turn(site, "two").version_set == CANDIDATE
    site.router.replenish()
    assert turn(site, "three").reason == "capped"


def test_turns_that_begin_at_once_take_one_place() -> None:
    _, _, site = make_site(1.0, cap=16)

    async def several() -> list[SessionPin]:
        return await asyncio.gather(*(site.router.resolve_session("one") for _ in range(8)))

    assert {one.version_set for one in asyncio.run(several())} == {CANDIDATE}
    assert len(cast(Any, site.router)._routes.places.units) == 0
    site.router.replenish()
    assert turn(site, "two").version_set == CANDIDATE


def test_a_session_on_a_set_that_is_rolled_back_is_moved_at_its_next_turn() -> None:
    store, plans, site = make_site(1.0)
    assert turn(site).version_set == CANDIDATE
    plans.abort(evict=True)
    site.look()
    moved = turn(site)
    assert (moved.version_set, moved.reason, moved.is_pinned) == (STABLE, "repinned", True)
    assert turn(site).reason == "session"
    assert chain(store) == [CANDIDATE, CANDIDATE, STABLE]


def test_a_session_on_a_set_that_is_rolled_back_without_eviction_stays() -> None:
    _, plans, site = make_site(1.0)
    turn(site)
    plans.abort(evict=False)
    site.look()
    assert turn(site).version_set == CANDIDATE
    assert turn(site, "new").version_set == STABLE


def test_a_session_that_was_seen_goes_on_with_its_set_while_the_plan_is_stale() -> None:
    store, _, site = make_site(1.0)
    turn(site)
    site.pass_time(2.0)
    store.num_reads = 0
    goes_on = turn(site)
    assert (goes_on.version_set, goes_on.reason, goes_on.is_pinned) == (CANDIDATE, "session", True)
    assert store.num_reads == 0


def test_a_session_on_an_evicted_set_is_moved_although_the_store_is_down() -> None:
    store, plans, site = make_site(1.0)
    turn(site)
    plans.abort()
    site.look()
    store.fates.extend(["refused"] * 10)
    store.read_fates.extend(["refused"] * 10)
    moved = turn(site)
    assert (moved.version_set, moved.reason, moved.is_pinned) == (STABLE, "repinned", False)
    store.fates.clear()
    store.read_fates.clear()
    site.router.pin_remembered()
    assert chain(store)[-1] == STABLE
    assert turn(site).is_pinned


def test_a_session_first_seen_while_the_store_is_down_is_pinned_when_it_is_back() -> None:
    store, _, site = make_site(1.0)
    site.pass_time(2.0)
    first = turn(site)
    assert (first.version_set, first.reason, first.is_pinned) == (STABLE, "degraded", False)
    assert chain(store) == []
    site.look()
    site.router.pin_remembered()
    assert chain(store) == [STABLE]
    again = turn(site)
    assert (again.version_set, again.reason, again.is_pinned) == (STABLE, "session", True)
    assert not again.is_fair


def test_a_session_that_another_gateway_had_pinned_goes_back_to_its_pin_after_an_outage() -> None:
    store, _, site = make_site(1.0)
    turn(site)
    other = Site(store, gateway="g2")
    other.look()
    other.pass_time(2.0)
    assert turn(other).is_pinned is False
    other.look()
    other.router.pin_remembered()
    back = turn(other)
    assert (back.version_set, back.is_pinned) == (CANDIDATE, True)


def test_a_first_turn_whose_pin_took_too_long_starts_on_the_stable_set() -> None:
    store, plans, site = make_site(1.0)

    def slow(key: str) -> None:
        if "/sessions/" in key:
            store.before_create = lambda key: None
            plans.abort(evict=False)
            # The wall clock of this gateway stands still: the pin that comes back looks alive.
            site.monotonic.seconds += 1.5

    store.before_create = slow
    first = turn(site)
    assert (first.version_set, first.reason, first.is_pinned) == (STABLE, "degraded", False)


def test_a_pin_of_a_turn_that_never_began_does_not_bring_the_session_back_to_an_aborted_set() -> None:
    store, plans, site = make_site(1.0)

    def slow(key: str) -> None:
        if "/sessions/" in key:
            store.before_create = lambda key: None
            plans.abort(evict=False)
            site.pass_time(1.5)

    store.before_create = slow
    assert turn(site).version_set == STABLE
    site.look()
    assert chain(store) == [CANDIDATE]
    assert turn(site).version_set == STABLE
    assert chain(store) == [CANDIDATE, STABLE]


def test_a_session_that_began_on_its_candidate_stays_there_although_its_lease_came_late() -> None:
    store, plans, site = make_site(1.0)
    store.fates.extend(["well", "refused"])
    assert turn(site).version_set == CANDIDATE
    plans.abort(evict=False)
    site.pass_time(20.0)
    site.look()
    again = turn(site)
    assert (again.version_set, again.is_pinned) == (CANDIDATE, True)


def test_a_session_starts_on_the_set_that_it_asks_for_and_may_go_on_saying_so() -> None:
    _, plans, site = make_site(0.001)
    first = turn(site, override="candidate")
    assert (first.version_set, first.reason) == (CANDIDATE, "override")
    assert turn(site, override="candidate").version_set == CANDIDATE
    again = turn(site, override=CANDIDATE)
    assert (again.version_set, again.entry, again.reason, again.is_fair) == (CANDIDATE, 2, "session", False)
    plans.promote()
    site.look()
    assert turn(site, override="candidate").version_set == CANDIDATE


def test_a_session_that_asks_for_another_set_than_its_own_is_refused() -> None:
    store, _, site = make_site(0.5)
    session = session_on(site, STABLE)
    with pytest.raises(InvalidInput, match="This session is pinned to version set aaaaaaaaaaaa, the request asks for"):
        turn(site, session, override="candidate")
    other = Site(store, gateway="g2")
    other.look()
    with pytest.raises(InvalidInput, match="Leave the version set out, or begin another session"):
        turn(other, session, override=CANDIDATE)


def test_a_new_session_that_asks_for_no_set_of_the_plan_is_refused_and_not_pinned() -> None:
    store, _, site = make_site(0.5)
    with pytest.raises(InvalidInput, match="Version set must be stable"):
        turn(site, override=THIRD)
    assert chain(store) == []


def test_a_session_is_renewed_while_it_goes_on_and_chosen_anew_when_it_was_away() -> None:
    store, _, site = make_site(1.0, session_seconds=600.0)
    for _ in range(10):
        assert turn(site).version_set == CANDIDATE
        site.pass_time(200.0)
        site.look()
    num_pins = len(chain(store))
    assert 5 <= num_pins <= 8
    site.pass_time(1000.0)
    site.look()
    assert turn(site).reason == "weight"


def test_a_pin_that_is_damaged_costs_the_session_its_pin_and_not_its_answer() -> None:
    store, _, site = make_site(1.0)
    turn(site)
    for key in list(store.store.bodies):
        if "/sessions/" in key:
            store.store.bodies[key] = Kept(b"{}")
    other = Site(store, gateway="g2")
    other.look()
    pinned = turn(other)
    assert (pinned.version_set, pinned.is_pinned) == (STABLE, True)


def test_a_router_takes_a_service_as_it_is() -> None:
    store, plans, site = make_site(1.0)
    service = make_service(plans.journal.name)
    router = Router(store=cast(Any, store), service=service, lease=site.lease, gateway="g3", clock=site.clock)
    assert router.resolve("user").version_set == CANDIDATE
    router.close()


def test_threads_that_resolve_at_once_never_pass_the_cap_together() -> None:
    store, _, site = make_site(1.0, cap=3000)
    sites = [site, Site(store, gateway="g2")]
    sites[1].look()
    started: list[int] = []

    def ask(one: Site) -> None:
        found = 0
        for number in range(2000):
            found += one.router.resolve(f"user-{number}").version_set == CANDIDATE
            if number % 20 == 0:
                one.router.replenish()
        started.append(found)

    threads = [threading.Thread(target=ask, args=(sites[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1000 < sum(started) <= 3000


def test_a_session_that_was_swept_while_it_was_remembered_begins_another_chain() -> None:
    store, _, site = make_site(1.0)
    for _ in range(3):
        turn(site)
        site.pass_time(400.0)
        site.look()
    assert len(chain(store)) > 2
    site.pass_time(2 * 24 * 3600.0)
    site.look()
    assert site.router.sweep() == 1
    assert turn(site).reason == "weight"
    store.num_reads = 0
    assert turn(site).reason == "session"
    assert store.num_reads == 0


def test_a_candidate_that_is_not_loaded_here_gets_no_unit_and_no_new_session_and_takes_no_place() -> None:
    _, _, site = make_site(1.0, cap=1)
    site.not_loaded.add(CANDIDATE)
    assert site.router.resolve("user").reason == "degraded"
    first = turn(site)
    assert (first.version_set, first.is_pinned, first.is_fair) == (STABLE, True, False)
    site.not_loaded.clear()
    assert turn(site).version_set == STABLE
    assert site.router.resolve("user").version_set == CANDIDATE


def test_a_provisional_pin_on_a_set_rolled_back_without_eviction_is_left_to_its_end() -> None:
    store, plans, site = make_site(1.0)
    other = Site(store, gateway="g2", clock=site.clock)
    other.look()
    store.fates.extend(["well", "refused"])
    assert turn(site).version_set == CANDIDATE
    plans.abort(evict=False)
    other.look()
    # The first gateway's turn is under way: the session is its.
    elsewhere = turn(other)
    assert (elsewhere.version_set, elsewhere.reason, elsewhere.is_pinned) == (STABLE, "session", False)
    assert chain(store) == [CANDIDATE]
    site.look()
    assert turn(site).version_set == CANDIDATE
    assert turn(other).version_set == CANDIDATE


# What counts at the gate


def test_a_unit_whose_name_its_client_chose_gets_its_set_and_is_no_evidence() -> None:
    _, _, site = make_site(0.5)
    drawn = [site.router.resolve(key) for key in KEYS]
    named = [site.router.resolve(key, is_drawn=False) for key in KEYS]
    assert [pin.version_set for pin in named] == [pin.version_set for pin in drawn]
    assert {pin.is_evidence for pin in drawn} == {True}
    assert {pin.is_evidence for pin in named} == {False}


def test_a_session_counts_once_by_a_key_that_nobody_knew_before() -> None:
    _, _, site = make_site(0.5)
    first = [turn(site, f"chat-{number}") for number in range(60)]
    # By its name, each would have the set that its client can compute beforehand.
    by_name = [site.router.resolve(f"chat-{number}").version_set for number in range(60)]
    assert [one.version_set for one in first] != by_name
    assert {one.version_set for one in first} == {STABLE, CANDIDATE}
    assert {one.is_evidence for one in first} == {True}
    assert {turn(site, f"chat-{number}").is_evidence for number in range(60)} == {False}


def test_a_session_that_comes_back_after_its_lease_has_its_set_again_and_counts_no_more() -> None:
    _, plans, site = make_site(0.3)
    first = {f"chat-{number}": turn(site, f"chat-{number}").version_set for number in range(30)}
    site.pass_time(700.0)
    plans.advance(weight=0.4)
    site.look()
    again = {name: turn(site, name) for name in first}
    assert all(again[name].version_set == CANDIDATE for name in first if first[name] == CANDIDATE)
    assert {pin.is_evidence for pin in again.values()} == {False}


def test_of_first_turns_at_once_one_counts() -> None:
    _, _, site = make_site(1.0)

    async def several() -> list[SessionPin]:
        return await asyncio.gather(*(site.router.resolve_session("one") for _ in range(8)))

    assert [one.is_evidence for one in asyncio.run(several())].count(True) == 1


def test_units_that_begin_while_the_candidate_cannot_be_drawn_are_compared_with_none() -> None:
    _, _, site = make_site(0.5, cap=10)
    pins = [site.router.resolve(key) for key in KEYS]
    last = max(number for number, pin in enumerate(pins) if pin.version_set == CANDIDATE)
    assert sum(pin.version_set == CANDIDATE for pin in pins) == 1
    assert {pin.is_evidence for pin in pins[last + 1 :]} == {False}
    _, _, other = make_site(0.5)
    other.not_loaded.add(CANDIDATE)
    assert {other.router.resolve(key).is_evidence for key in KEYS} == {False}
