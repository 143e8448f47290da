"""Plants defects into the library, one at a time, and counts how many schedules the oracle needs to find each.

A defect is a plausible mistake: a missing check, belief in a lost answer, a lease that is too long. A defect that takes
many schedules shows a blind spot of the simulator. Every defect is tried on the same schedules, from the first seed on,
or on schedules that are steered towards its subject.
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

from headrace.errors import RegistryUnavailable
from headrace.generation import bulk, sealing
from headrace.generation.claim_objects import Settlement
from headrace.generation.claims import Claims
from headrace.generation.sealed_tables import EXECUTION
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import HandoffStore
from headrace.rollout import assignment, controller
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace.rollout.routing import RoutingTable
from headrace.serving import plan_lease, router, routes
from headrace.serving.plan_lease import PlanLease
from headrace.serving.session_turns import SessionTurns
from headrace.serving.sessions import SessionPin
from simulation import actors, crashes, gateways
from simulation.disk import Trouble
from simulation.schedule import Schedules
from simulation.scheduler import SimulatedClock
from simulation.stores import SimulatedStore
from simulation.world import NAME, SETS, Scenario, World, seeds_of

NUM_TRIED_MAX = 100
Patch = Callable[..., None]
Plant = Callable[[World], None]


@dataclass(frozen=True, kw_only=True)
class Defect:
    """`put`: patches the library, as `patch(owner, name, value)`; returns what to do to each schedule's world, or
    nothing. `says`: a part of the oracle's sentence; `invariant`: the broken one; `scenario`: schedules about its
    subject, if most are not."""

    name: str
    invariant: int
    put: Callable[[Patch], Plant | None]
    says: str = ""
    scenario: Scenario | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """`num_schedules`: how many ran until one showed the defect; None: none did."""

    num_schedules: int | None
    what: str = ""
    # Other broken invariants.
    others: Counter[int]


def find(prepared: Schedules, defect: Defect, *, num_tried: int = NUM_TRIED_MAX, first: Sequence[int] = ()) -> Found:
    """Runs schedules until the oracle finds the defect; `first`: seeds that go before the others."""
    others: Counter[int] = Counter()
    with _planted(defect) as plant:
        for number, seed in enumerate((*first, *seeds_of(defect.scenario, num_tried)), 1):
            for violation in prepared.run(seed, plant=plant).judged.violations:
                if violation.invariant == defect.invariant and defect.says in violation.what:
                    return Found(num_schedules=number, what=violation.what, others=others)
                others[violation.invariant] += 1
    return Found(num_schedules=None, others=others)


@contextmanager
def _planted(defect: Defect) -> Iterator[Plant | None]:
    with ExitStack() as patches:

        def patch(owner: Any, name: str, value: Any) -> None:
            # Some are instances' attributes, which the class lacks.
            patches.enter_context(mock.patch.object(owner, name, value, create=True))

        yield defect.put(patch)


DEFECTS: list[Defect] = []


def _defect(
    name: str, invariant: int, says: str = "", scenario: Scenario | None = None
) -> Callable[[Callable[[Patch], Plant | None]], None]:
    def add(put: Callable[[Patch], Plant | None]) -> None:
        DEFECTS.append(Defect(name=name, invariant=invariant, put=put, says=says, scenario=scenario))

    return add


def _another(owner: Any, attribute: str, value: Any) -> Callable[[Patch], None]:
    """A defect that changes one attribute's value."""
    return lambda patch: patch(owner, attribute, value)


def _around(
    name: str, invariant: int, says: str, owner: Any, attribute: str, scenario: Scenario | None = None
) -> Callable[[Callable[..., Any]], None]:
    """A defect around a method; it gets the method before the call's own arguments."""

    def add(changed: Callable[..., Any]) -> None:
        method = getattr(owner, attribute)
        put = _another(owner, attribute, lambda *arguments, **named: changed(method, *arguments, **named))
        _defect(name, invariant, says, scenario)(put)

    return add


_ANY_SET = random.Random(0)


@_around("a chain takes a role from another set", 1, "saw", gateways.Gateway, "_open_engine")
def _(_: Any, self: gateways.Gateway, member: Any, spec: Any) -> gateways.SimulatedEngine:
    return gateways.SimulatedEngine(self.world, _ANY_SET.choice(SETS).id)


@_around("a session forgets its set", 2, "was not its session's pin", router.Router, "resolve_session")
async def _(_: Any, self: router.Router, session_id: str, *, override: str | None = None) -> SessionPin:
    pin = self.resolve(f"{session_id} {random.random()}")
    return SessionPin(**asdict(pin), number=1, expires_at=0.0)


@_around("a session is moved within its lease", 2, "was moved from", RoutingTable, "of", scenario="many steps")
def _(of: Any, state: Any, salt: str, **changes: Any) -> RoutingTable:
    table = of(state, salt, **changes)
    moved = frozenset({state.candidate} if state.candidate and state.head % 2 == 0 else ())
    return replace(table, evicted=table.evicted | moved)


@_around(
    "a turn that could not be pinned says that it was", 2, "was not its session's pin", SessionTurns, "_unpinned_turn"
)
def _(unpinned_turn: Any, *arguments: Any, **which: Any) -> Any:
    return replace(unpinned_turn(*arguments, **which), number=1)


@_around("ranks change with the entry", 3, "had the candidate at", RoutingTable, "of")
def _(of: Any, state: Any, salt: str, **changes: Any) -> RoutingTable:
    return of(state, f"{salt}-{state.head}", **changes)


@_around("a share is a tenth too large", 4, "keys at weight", RoutingTable, "of")
def _(of: Any, state: Any, salt: str, **changes: Any) -> RoutingTable:
    return of(replace(state, weight=min(1.0, state.weight + 0.1)), salt, **changes)


_defect("a plan by count is rounded down", 4, "partitions at weight")(
    _another(assignment, "canary_count", lambda weight, num_units: int(weight * num_units))
)
_defect("a cap is charged after the unit started", 5, "under a cap of")(
    _another(routes.Places, "take", lambda self: True)
)


@_around(
    "a cap lease whose write got no answer is given out twice",
    5,
    "under a cap of",
    CapLeases,
    "_found_again",
    scenario="nearly used caps",
)
def _(_: Any, self: CapLeases, trial: int, cap: int, chain: Any) -> int:
    found = 0
    for nonce, count in chain.counts.items():
        if self._unanswered.get(nonce) == trial and chain.num_places <= cap:
            found += count
    return found


@_around(
    "a unit that asks for the candidate takes no place under its cap",
    5,
    "under a cap of",
    router.Router,
    "_overridden",
    scenario="nearly used caps",
)
def _(overridden: Any, self: router.Router, found: routes.Routes, until: float, override: str) -> Any:
    pin = overridden(self, found, until, override)
    return found.candidate_asked_for if pin is found.capped else pin


@_defect("a router ignores the end of its lease", 6)
def _(patch: Patch) -> Plant:
    patch(PlanLease, "until", property(lambda self: float("inf"), lambda self, value: None))
    return lambda world: world.troubles.append(Trouble(kind="down", begin=3.0, end=60.0, process="gateway-0"))


_defect("a plan lease runs 1.6 s", 6, "after its abort", "aborts unseen")(_another(plan_lease, "LEASE_SECONDS", 1.6))


@_around(
    "a unit that asks for the candidate needs no lease",
    6,
    "after its abort",
    router.Router,
    "_overridden",
    scenario="aborts unseen",
)
def _(overridden: Any, self: router.Router, found: routes.Routes, until: float, override: str) -> Any:
    return overridden(self, found, float("inf"), override)


@_defect("a partition is sealed without a look at the journal", 6, "after its abort")
def _(patch: Patch) -> None:
    patch(Claims, "abort_of", lambda self, claim: None)
    # Either check alone is nearly always enough, since an abort also ends running attempts.
    patch(actors, "void_unsealed", lambda *_, **__: [])


@_around("a stale write is forced", 7, "taken away or written over", SimulatedStore, "create")
def _(create: Any, self: SimulatedStore, key: str, body: bytes, *, durable: bool = True) -> bool:
    if "/journal/" in key and key in self.bodies:
        before = self.bodies.pop(key)
        self.disk.gone.append((key, self.clock.now()))
        self.bodies[key] = before
    return create(self, key, body, durable=durable)


@_around("a router goes back to an older plan", 7, "", router.Router, "resolve")
def _(resolve: Any, self: router.Router, key: str, **which: Any) -> Any:
    pin = resolve(self, key, **which)
    return replace(pin, entry=pin.entry - 1) if random.Random(key).random() < 0.3 else pin


@_around("an append is decided anew at whatever the head is", 7, "decided at entry", Journal, "append")
def _(append: Any, self: Journal, event: str, fields: Any, *, expected: int) -> Any:
    return append(self, event, fields, expected=self.head())


@_around("rows of another set are sealed in a partition", 8, "rows of 2 sets", actors.SimulatedTextEngine, "generate")
def _(generate: Any, self: Any, requests: Any) -> Any:
    made = generate(self, requests)
    return [*made[:-1], replace(made[-1], text=SETS[6].id)]


@_around("a void attempt is published all the same", 8, "is published out of an attempt", bulk, "seal")
def _(_: Any, claim: Any, claims: Any, handoffs: Any, steps: Any, made: Any, *, origin: Any) -> Any:
    publish = sealing._publish_once
    execution = publish(handoffs, EXECUTION, claim, made.execution, origin)
    return sealing.SealedContent(content=publish(handoffs, CONTENT, claim, made.content, origin), execution=execution)


@_around(
    "a settlement that another worker made first is taken for our own",
    8,
    "is published out of an attempt",
    Claims,
    "settle",
)
def _(settle: Any, self: Claims, claim: Any, outcome: Any, reason: str) -> Settlement:
    return replace(settle(self, claim, outcome, reason), outcome=outcome)


_defect("rows of older prompts become the newest version", 8, "shows rows of prompts v", "newer prompts")(
    _another(HandoffStore, "newer_inputs", lambda self, asset, partition, input_versions: None)
)


@_around(
    "a retry reads the newest prompts instead of its run's",
    8,
    "read other inputs than its first try",
    Claims,
    "_pin_run",
    scenario="newer prompts",
)
def _(pin_run: Any, self: Claims, partition: Any, prompts: Any, root_run_id: str, regenerate: Any) -> Any:
    return pin_run(self, partition, prompts, f"{root_run_id}-{random.random()}", regenerate)


@_around(
    "an attempt begins while the one before it is under way",
    8,
    "while the one before it was under way",
    Claims,
    "settlement",
)
def _(settlement: Any, self: Claims, claim: Any) -> Any:
    found = settlement(self, claim)
    late = Settlement(outcome="void", reason="its worker takes long", at="")
    return late if found is None and self.objects.exists(claim.batch_key(0)) else found


@_defect("a gateway asks the registry", 9, "failed")
def _(patch: Patch) -> Plant:
    pin = gateways.Pinning.pin
    worlds: list[World] = []

    async def asking(self: gateways.Pinning, name: str, **which: Any) -> Any:
        if worlds[-1].registry.mode() == "dead":
            raise RegistryUnavailable("MLflow does not answer.")
        return await pin(self, name, **which)

    def dead(world: World) -> None:
        worlds.append(world)
        world.registry.down.append((1.0, 1000.0))

    patch(gateways.Pinning, "pin", asking)
    return dead


@_defect("a proposal follows a registry that is dead", 9, "although the registry was dead")
def _(patch: Patch) -> Plant:
    patch(actors, "refusal_of", lambda catalogue, version_set: None)
    return lambda world: world.registry.down.append((1.0, 1000.0))


@_around("a set is started before its quorum is ready", 10, "nodes had prepared", controller, "_prepared")
def _(prepared_by: Any, state: Any, plan: Any, facts: Any) -> Any:
    plan = copy.copy(plan)
    object.__setattr__(plan, "quorum", 0)
    return prepared_by(state, plan, facts)


@_around("a gateway takes damaged weights", 10, "of which a member is damaged", gateways.Gateway, "_open_engine")
def _(_: Any, self: gateways.Gateway, member: Any, spec: Any) -> gateways.SimulatedEngine:
    return gateways.SimulatedEngine(self.world, gateways._BY_VERSION[member.model_version])


@_defect("an entry is edited", 11, "entry 1")
def _(patch: Patch) -> Plant:
    def edit(world: World) -> None:
        key = f"rollout/{NAME}/journal/00000001.json"
        body = json.dumps(world.disk.json(key) | {"at": 0.0}).encode()
        world.disk.objects[key] = world.disk.objects[key]._replace(body=body)

    return lambda world: world.scheduler.at(world.seconds + 5.0, lambda: edit(world))


_defect("a verification believes everything", 11, "was not found out")(_another(Journal, "verify", lambda self: 0))


@_around("a controller repeats a step after a crash", 12, "killed at calls", crashes, "_roll_out")
def _(roll_out: Any, store: Any, scheduler: Any, aliases: Any) -> None:
    """Acts like a controller that does not know what it did."""
    journal = Journal(store, NAME, SimulatedClock(scheduler))
    entries = journal.entries()
    if entries and entries[-1].event in ("started", "advanced"):
        journal.append("reweighted", entries[-1].fields, expected=len(entries))
    roll_out(store, scheduler, aliases)
