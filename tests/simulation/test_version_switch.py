"""The simulator of `benchmarks.version_switch`: a few schedules, and planted defects that its oracle must find."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import version_switch_actors, version_switch_crashes
from benchmarks import version_switch_gateways as gateways
from benchmarks.version_switch_schedule import Schedules, schedules
from benchmarks.version_switch_store import Kept, SimulatedStore, Trouble
from benchmarks.version_switch_world import NAME, SETS, SimulatedClock, World
from headrace.errors import RegistryUnavailable
from headrace.generation import sealing
from headrace.generation.claims import Claims
from headrace.generation.sealing import CONTENT
from headrace.rollout import assignment, controller
from headrace.rollout.journal import Journal
from headrace.rollout.routing import Pin, RoutingTable
from headrace.rollout.states import RolloutState
from headrace.serving import router, routes
from headrace.serving.plan_lease import PlanLease

NUM_SCHEDULES = 20
# How many schedules a planted defect may take to show.
NUM_TRIED = 60


@pytest.fixture(scope="module")
def prepared() -> Iterator[Schedules]:
    with schedules() as made:
        yield made


def first_found(
    prepared: Schedules, invariant: int, plant: Callable[[World], None] | None = None, *, num_tried: int = NUM_TRIED
) -> str:
    """What the oracle says of the first schedule in which it finds the invariant broken."""
    seen: Counter[int] = Counter()
    for seed in range(num_tried):
        for violation in prepared.run(seed, plant=plant).judged.violations:
            if violation.invariant == invariant:
                return violation.what
            seen[violation.invariant] += 1
    pytest.fail(f"{num_tried} schedules, and invariant {invariant} was never found broken; found: {dict(seen)}")


def test_no_schedule_breaks_an_invariant_or_mixes_a_unit(prepared: Schedules) -> None:
    counts: Counter[str] = Counter()
    for seed in range(NUM_SCHEDULES):
        ended = prepared.run(seed)
        assert not ended.judged.violations, f"seed {seed}"
        assert ended.judged.num_mixed == 0
        counts += ended.counts
    # Nobody takes schedules in which nothing happens for a proof.
    for what in ("turns", "killed", "sealed", "stale writes refused", "reason degraded", "reason capped"):
        assert counts[what] > 2, what
    assert counts["units"] > 20 * NUM_SCHEDULES
    assert counts["entries"] > 5 * NUM_SCHEDULES


def test_a_seed_is_one_schedule(prepared: Schedules) -> None:
    first, second = (prepared.run(7, trace=True) for _ in range(2))
    assert len(first.trace) > 20
    assert [line.split()[:2] for line in first.trace] == [line.split()[:2] for line in second.trace]
    assert first.counts == second.counts


def test_a_chain_that_takes_a_role_from_another_set_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)

    def engine_of_any_set(self: gateways.Gateway, member: Any, spec: Any) -> gateways.SimulatedEngine:
        return gateways.SimulatedEngine(self.world, chance.choice(SETS).id)

    monkeypatch.setattr(gateways.Gateway, "_open_engine", engine_of_any_set)
    assert "saw" in first_found(prepared, 1)


def test_a_session_that_forgets_its_set_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(self: router.Router, session_id: str, *, override: str | None = None) -> router.SessionPin:
        return router.SessionPin(pin=self.resolve(f"{session_id} {random.random()}"), is_pinned=True, expires_at=0.0)

    monkeypatch.setattr(router.Router, "resolve_session", forgetful)
    assert "was not its session's pin" in first_found(prepared, 2)


def test_a_session_that_is_moved_within_its_lease_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = RoutingTable.of

    def evicting_for_nothing(state: RolloutState, salt: str, **changes: Any) -> RoutingTable:
        table = of(state, salt, **changes)
        moved = frozenset({state.candidate} if state.candidate and state.head % 2 == 0 else ())
        return replace(table, evicted=table.evicted | moved)

    monkeypatch.setattr(RoutingTable, "of", evicting_for_nothing)
    assert "was moved from" in first_found(prepared, 2, num_tried=100)


def test_ranks_that_change_with_the_entry_are_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    of = RoutingTable.of

    def salted_by_entry(state: RolloutState, salt: str, **changes: Any) -> RoutingTable:
        return of(state, f"{salt}-{state.head}", **changes)

    monkeypatch.setattr(RoutingTable, "of", salted_by_entry)
    assert "had the candidate at" in first_found(prepared, 3, num_tried=200)


def test_a_share_that_is_a_tenth_too_large_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    of = RoutingTable.of

    def larger(state: RolloutState, salt: str, **changes: Any) -> RoutingTable:
        return of(replace(state, weight=min(1.0, state.weight + 0.1)), salt, **changes)

    monkeypatch.setattr(RoutingTable, "of", larger)
    assert "keys at weight" in first_found(prepared, 4)


def test_a_plan_by_count_that_is_rounded_down_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "canary_count", lambda weight, num_units: int(weight * num_units))
    assert "partitions at weight" in first_found(prepared, 4)


def test_a_cap_that_is_charged_after_the_unit_started_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes.Places, "take", lambda self: True)
    assert "under a cap of" in first_found(prepared, 5)


def test_a_router_that_ignores_the_end_of_its_lease_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_store(world: World) -> None:
        world.troubles.append(Trouble(kind="down", begin=3.0, end=60.0, process="gateway-0"))

    monkeypatch.setattr(
        PlanLease, "until", property(lambda self: float("inf"), lambda self, value: None), raising=False
    )
    first_found(prepared, 6, no_store)


def test_a_partition_sealed_without_a_look_at_the_journal_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Claims, "abort_of", lambda self, claim: None)
    # Either alone suffices nearly always: whoever aborts ends the attempts under way, too.
    monkeypatch.setattr(version_switch_actors, "void_unsealed", lambda *_, **__: [])
    assert "after its abort" in first_found(prepared, 6, num_tried=200)


def test_a_stale_write_that_is_forced_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SimulatedStore.create

    def forced(self: SimulatedStore, key: str, body: bytes, *, durable: bool = True) -> bool:
        if "/journal/" in key and key in self._disk.objects:
            before = self._disk.objects.pop(key)
            self._disk.gone.append((key, self._scheduler.now))
            self._disk.objects[key] = Kept(before.body, before.at, before.by)
        return create(self, key, body, durable=durable)

    monkeypatch.setattr(SimulatedStore, "create", forced)
    assert "taken away or written over" in first_found(prepared, 7)


def test_a_router_that_goes_back_to_an_older_plan_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = router.Router.resolve

    def older(self: router.Router, key: str, *, override: str | None = None, is_drawn: bool = True) -> Pin:
        pin = resolve(self, key, override=override, is_drawn=is_drawn)
        return replace(pin, entry=pin.entry - 1) if random.Random(key).random() < 0.3 else pin

    monkeypatch.setattr(router.Router, "resolve", older)
    first_found(prepared, 7)


def test_rows_of_another_set_in_a_sealed_partition_are_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = version_switch_actors.SimulatedTextEngine.generate

    def of_another_set(self: Any, requests: Any) -> Any:
        made = generate(self, requests)
        return [*made[:-1], replace(made[-1], text=SETS[6].id)]

    monkeypatch.setattr(version_switch_actors.SimulatedTextEngine, "generate", of_another_set)
    assert "rows of 2 sets" in first_found(prepared, 8)


def test_a_void_attempt_that_is_published_all_the_same_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = sealing._publish_once

    def seal(claim: Any, claims: Any, handoffs: Any, *, content: Any, execution: Any, origin: Any) -> Any:
        made = publish(handoffs, sealing.EXECUTION, claim, execution, origin)
        return sealing.SealedContent(content=publish(handoffs, CONTENT, claim, content, origin), execution=made)

    monkeypatch.setattr("headrace.generation.bulk.seal", seal)
    assert "is published out of an attempt" in first_found(prepared, 8)


def test_a_gateway_that_asks_the_registry_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = gateways.Pinning.pin

    def dead(world: World) -> None:
        world.registry.down.append((1.0, 1000.0))

        async def asking(self: gateways.Pinning, name: str, **which: Any) -> Any:
            if world.registry.mode() == "dead":
                raise RegistryUnavailable("MLflow does not answer.")
            return await pin(self, name, **which)

        monkeypatch.setattr(gateways.Pinning, "pin", asking)

    assert "failed" in first_found(prepared, 9, dead)


def test_a_proposal_that_follows_a_registry_that_is_dead_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.version_switch_actors.refusal_of", lambda catalogue, version_set: None)
    down = lambda world: world.registry.down.append((1.0, 1000.0))  # noqa: E731
    assert "although the registry was dead" in first_found(prepared, 9, down)


def test_a_set_that_is_started_before_its_quorum_is_ready_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_by = controller._prepared

    def with_nobody(state: RolloutState, plan: Any, facts: Any) -> Any:
        plan = copy.copy(plan)
        object.__setattr__(plan, "quorum", 0)
        return prepared_by(state, plan, facts)

    monkeypatch.setattr(controller, "_prepared", with_nobody)
    assert "nodes had prepared" in first_found(prepared, 10)


def test_a_gateway_that_takes_damaged_weights_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: gateways.Gateway, member: Any, spec: Any) -> gateways.SimulatedEngine:
        return gateways.SimulatedEngine(self.world, gateways._BY_VERSION[member.model_version])

    monkeypatch.setattr(gateways.Gateway, "_open_engine", blind)
    assert "of which a member is damaged" in first_found(prepared, 10)


def test_an_edited_entry_is_found(prepared: Schedules) -> None:
    def edit(world: World) -> None:
        def now() -> None:
            key = f"rollout/{NAME}/journal/00000001.json"
            kept = world.disk.objects[key]
            body = json.loads(kept.body) | {"at": 0.0}
            world.disk.objects[key] = Kept(json.dumps(body).encode(), kept.at, kept.by)

        world.scheduler.at(world.seconds + 5.0, now)

    assert "entry 1" in first_found(prepared, 11, edit)


def test_a_verification_that_believes_everything_is_found(prepared: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "verify", lambda self: 0)
    assert "was not found out" in first_found(prepared, 11)


def test_a_controller_that_repeats_a_step_after_a_crash_is_found(
    prepared: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out = version_switch_crashes._roll_out

    def as_one_that_does_not_know_what_it_did(store: Any, scheduler: Any, aliases: Any) -> None:
        journal = Journal(store, NAME, SimulatedClock(scheduler))
        entries = journal.entries()
        if entries and entries[-1].event in ("started", "advanced"):
            journal.append("reweighted", entries[-1].fields, expected=len(entries))
        roll_out(store, scheduler, aliases)

    monkeypatch.setattr(version_switch_crashes, "_roll_out", as_one_that_does_not_know_what_it_did)
    assert "killed at calls" in first_found(prepared, 12)
