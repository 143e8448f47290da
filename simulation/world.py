"""One schedule's world: sets, plan, troubles, registry, clocks, and the processes on their disk.

Everything random comes from the schedule's seed.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from headrace.errors import HandoffCorrupt, RegistryUnavailable
from headrace.generation.campaign import Campaign
from headrace.keys import ContentPartition
from headrace.rollout.candidates import Wanted
from headrace.rollout.gates import GateSettings
from headrace.rollout.plan import Plan, Step
from headrace.rollout.states import RolloutState
from headrace.version_sets.sets import Decoding, EngineSpec, Member, VersionSet
from simulation.campaign_site import DAY, make_campaign
from simulation.disk import Disk, Ill, Trouble
from simulation.oracle import Site
from simulation.records import Log
from simulation.registry import Aliases
from simulation.scheduler import EPOCH, Process, Scheduler, SimulatedClock
from simulation.stores import SimulatedStore

NAME = "glossary"
ROLES = ("writer", "painter", "speaker")
NUM_SHARDS = 6
SESSION_SECONDS = 8.0
_DECODING = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)


def make_set(number: int) -> VersionSet:
    """Set `number`; all three roles differ from every other set's."""
    members = tuple(
        Member(
            role=role,
            model_name=f"model-{role}",
            model_version=str(number),
            weights_digest=f"weights-{role}-{number}",
            weights_uri=f"simulated://weights/{role}-{number}",
            system_prompt="",
            user_template="{text}",
            decoding=_DECODING,
        )
        for role in ROLES
    )
    return VersionSet(members=members, engine=EngineSpec(name="echo"), code_version="1")


# The same in every schedule, since making one costs as much as some store calls.
SETS = tuple(make_set(number) for number in range(1, 8))


@dataclass
class Registry(Aliases):
    """MLflow for the library: versions by digest, and one mutable row for each alias.

    `down`, `slow`: times (begin, end) in which no call succeeds, or in which one takes 30 s.
    """

    world: "World" = field(kw_only=True)
    down: list[tuple[float, float]] = field(default_factory=list)
    slow: list[tuple[float, float]] = field(default_factory=list)
    num_calls: int = 0

    def mode(self, seconds: float | None = None) -> str:
        now = self.world.scheduler.now if seconds is None else seconds
        if any(begin <= now < end for begin, end in self.down):
            return "dead"
        return "slow" if any(begin <= now < end for begin, end in self.slow) else "well"

    def changed_since(self, seconds: float) -> bool:
        """Whether it died, returned, or became slow or fast since then, perhaps more than once."""
        edges = [edge for window in (*self.down, *self.slow) for edge in window]
        return any(seconds < edge <= self.world.scheduler.now for edge in edges)

    def find_by_digest(self, model_name: str, weights_digest: str) -> str | None:
        self._ask()
        return weights_digest.rpartition("-")[2] if weights_digest.startswith("weights-") else None

    def aliases(self, model_name: str) -> dict[str, str]:
        self._ask()
        return super().aliases(model_name)

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        self._ask()
        super().set_alias(model_name, alias, version)

    def move_behind_our_back(self) -> None:
        """Points every alias at another version, as anybody with MLflow's UI can."""
        for aliases in self.found.values():
            for alias in aliases:
                aliases[alias] = "7"

    def _ask(self) -> None:
        self.num_calls += 1
        mode = self.mode()
        if mode == "dead":
            self.world.scheduler.sleep(0.5)
            raise RegistryUnavailable("simulated: MLflow does not answer.")
        self.world.scheduler.sleep(30.0 if mode == "slow" else 0.02)


@dataclass(frozen=True, kw_only=True)
class ScriptedSets:
    """Candidates: the sets in order, each once."""

    num_sets: int
    missing: str = "Every set was tried."

    def first(self) -> Wanted | None:
        return Wanted(version_set=SETS[0], reason="the first one")

    def following(self, state: RolloutState) -> Wanted | None:
        for number, version_set in enumerate(SETS[: self.num_sets], 1):
            if version_set.id not in state.considered:
                return Wanted(version_set=version_set, reason=f"set {number}")
        return None


# The seed steers a schedule towards one of these; the rest of it stays random.
Scenario = Literal["anything", "nearly used caps", "aborts unseen", "newer prompts", "many steps"]
_SCENARIOS: tuple[Scenario, ...] = (
    "anything", "newer prompts", "nearly used caps", "anything",
    "aborts unseen", "many steps", "anything", "newer prompts",
)  # fmt: skip

_SOAK_SECONDS: dict[Scenario, float] = {"nearly used caps": 8.0, "aborts unseen": 8.0, "many steps": 1.0}


def seeds_of(scenario: Scenario | None, num_seeds: int) -> list[int]:
    """The first seeds of schedules with this scenario; None: with any."""
    seeds = (seed for seed in itertools.count() if scenario in (None, _SCENARIOS[seed % len(_SCENARIOS)]))
    return list(itertools.islice(seeds, num_seeds))


class World:
    """`seconds`: how long the schedule runs before everything comes to rest."""

    def __init__(self, seed: int, disk: Disk, *, trace: bool = False) -> None:
        self.seed = seed
        self.scenario: Scenario = _SCENARIOS[seed % len(_SCENARIOS)]
        self.chance = random.Random(seed)
        self.scheduler = Scheduler()
        self.disk = disk
        self.log = Log()
        self.trace = self.log.trace if trace else None
        self.seconds = self.chance.uniform(5.0, 14.0)
        self.num_gateways = self.chance.choice((1, 2, 2, 3))
        self.troubles: list[Trouble] = []
        self.registry = Registry(world=self)
        self.processes: dict[str, Process] = {}
        self.born: dict[str, float] = {}
        self.num_sets = self.chance.randint(3, 6)
        self.quorum = self.chance.randint(1, self.num_gateways)
        self.damaged = frozenset(one.id for one in SETS[1 : self.num_sets] if self.chance.random() < 0.1)
        # Candidates with bad evidence, and how long it takes to show.
        self.bad = frozenset(one.id for one in SETS[1 : self.num_sets] if self.chance.random() < 0.35)
        if self.scenario in ("nearly used caps", "aborts unseen", "many steps"):
            # These scenarios need a candidate that stays on trial.
            self.damaged = self.bad = frozenset()
        self.plan = self._plan()
        # What happens when `_foresee` strikes, after some seconds.
        self.interrupt: Callable[[float], None] = lambda seconds: None
        # Gives a worker's partition newer prompts, which another worker generates while the first one is held.
        self.overtake: Callable[[str], None] = lambda worker: None
        self._make_troubles()
        self._steer()

    @cached_property
    def campaign(self) -> Campaign:
        return make_campaign(
            model="model-writer",
            num_shards=NUM_SHARDS,
            decoding=_DECODING,
            rollout=Plan(salt=self.plan.salt, on_abort=self.plan.on_abort),
        )

    @property
    def is_dense(self) -> bool:
        """Whether many units come, from few keys and sessions."""
        return self.scenario in ("nearly used caps", "aborts unseen", "many steps")

    @property
    def partitions(self) -> list[ContentPartition]:
        return [ContentPartition(day=DAY, campaign=NAME, shard=shard) for shard in range(NUM_SHARDS)]

    def start(self, name: str) -> Process:
        """A process with this name; after a kill it is a new process."""
        process = self.processes[name] = Process(name)
        self.born[name] = self.scheduler.now
        self.say(name, "starts")
        return process

    def store(self) -> SimulatedStore:
        return SimulatedStore(self.disk, self.scheduler, self.chance, self.troubles, self.trace, self._foresee)

    def _foresee(self, call: str) -> float:
        """Aborts just when a bulk worker commits a batch, or hangs when it is about to seal."""
        process = self.scheduler.process()
        if self.scenario == "newer prompts" and process is not None and (held := self._overtaken(call, process)):
            return held
        if not call.startswith("create ") or process is None or not process.name.startswith("run-"):
            return 0.0
        place = "settled" if call.endswith(".settled.json") else call[7:14]
        chance = {"settled": 0.5 if self.scenario == "anything" else 0.2, "batches": 0.06}.get(place, 0.0)
        if not chance or self.chance.random() >= chance or self.scheduler.now >= self.seconds:
            return 0.0
        self.interrupt(self.chance.choice((0.0, 0.01, 0.3)))
        return self.chance.choice((0.0, 0.2, 2.0)) if place == "settled" else 0.0

    def _overtaken(self, call: str, process: Process) -> float:
        """Stops a worker before it commits, settles or publishes, until another has finished with newer prompts."""
        is_late = call.startswith(
            ("create batches", "create claims/", "create handoff/generated_content", "part handoff")
        )
        is_worker = process.name.startswith("run-") and self.scheduler.now < self.seconds
        if not is_late or not is_worker or self.chance.random() >= 0.08:
            return 0.0
        self.overtake(process.name)
        seconds = self.chance.choice((1.5, 4.0, 8.0))
        if self.chance.random() < 0.4:
            # Then its store is away, and its run tries again.
            begin = self.scheduler.now + seconds
            self.troubles.append(Trouble(kind="down", begin=begin, end=begin + 0.4, process=process.name))
        return seconds

    def clock(self) -> SimulatedClock:
        return SimulatedClock(self.scheduler)

    def wrong_clock(self) -> SimulatedClock:
        """A controller's clock: some are off by hours, since entries' times are only for people."""
        return SimulatedClock(self.scheduler, self.chance.choice((0.0, 0.0, 0.0, -7200.0, 5.0)))

    def prepare(self, version_set: VersionSet) -> None:
        """Fetches, verifies, loads and tries a set, as long as that takes."""
        self.scheduler.sleep(self.chance.uniform(0.05, 0.6))
        if version_set.id in self.damaged:
            raise HandoffCorrupt(f"simulated: the weights of {ROLES[1]} do not have the digest that the set names.")

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.scheduler.now:8.3f} {who:<14} {what}")

    def site(self) -> Site:
        return Site(
            name=NAME,
            roles=ROLES,
            quorum=self.plan.quorum,
            session_seconds=SESSION_SECONDS,
            damaged=self.damaged,
            troubles=tuple(self.troubles),
            born=dict(self.born),
            wall=lambda seconds: EPOCH + seconds,
        )

    def _plan(self) -> Plan:
        chance = self.chance
        weights = sorted(chance.sample((0.05, 0.1, 0.25, 0.5, 0.75, 1.0), chance.randint(1, 3)))
        if self.scenario == "many steps":
            weights = [0.25, 0.4, 0.5, 0.75]
        elif self.scenario != "anything" and self.scenario != "newer prompts":
            weights = [chance.choice((0.5, 0.75, 1.0))]
        caps: Sequence[int | None] = [None] * len(weights)
        if self.scenario == "nearly used caps":
            caps = [chance.choice((1, 2, 3, 5))]
        elif chance.random() < 0.5 and self.scenario in ("anything", "newer prompts"):
            caps = sorted(chance.choice((1, 2, 3, 5, 8, 20)) for _ in weights)
            if chance.random() < 0.5:
                caps = [*caps[:-1], None]
        return Plan(
            steps=tuple(
                Step(
                    weight=weight,
                    cap=cap,
                    soak_seconds=_SOAK_SECONDS.get(self.scenario) or chance.choice((0.0, 1.0, 3.0)),
                    approval=chance.random() < 0.1,
                )
                for weight, cap in zip(weights, caps, strict=True)
            ),
            salt=f"{NAME}-{self.seed}",
            gate=GateSettings(min_rows=1, pass_rate_margin=None, heldout_early=chance.random() < 0.5),
            quorum=self.quorum,
            prepare_seconds=10.0,
            on_abort=chance.choice(("repin", "repin", "repin", "finish_unpublished")),
            evict_sessions=chance.random() < 0.7,
        )

    def _steer(self) -> None:
        chance = self.chance
        if self.scenario == "aborts unseen":
            # Nothing else ends the trial.
            self.troubles.clear()
        elif self.scenario == "nearly used caps":
            self._lose_writes("/caps/", kinds=("losing replies", "late writes"))
        elif self.scenario == "many steps" and chance.random() < 0.7:
            self._lose_writes("/sessions/", kinds=("losing replies", "late writes", "stale listings"))
        elif self.scenario == "newer prompts" and chance.random() < 0.5:
            keys = chance.choice(("claims/", ".settled.json", "/runs/", "batches/"))
            self._lose_writes(keys, kinds=("losing replies", "late writes"))

    def _lose_writes(self, keys: str, kinds: Sequence[Ill]) -> None:
        """From some moment on, half of the calls on these keys go wrong."""
        begin = self.chance.uniform(0.0, 2.0)
        kind = self.chance.choice(kinds)
        self.troubles.append(Trouble(kind=kind, begin=begin, end=begin + 10.0, keys=keys, chance=0.5))

    def _make_troubles(self) -> None:
        chance = self.chance
        gateways = [f"gateway-{number}" for number in range(self.num_gateways)]
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            begin = chance.uniform(1.0, self.seconds)
            self.troubles.append(
                Trouble(
                    kind=chance.choice(("down", "down", "slow", "losing replies", "losing replies", "late writes")),
                    begin=begin,
                    end=begin + chance.choice((0.3, 1.5, 4.0)),
                    process=chance.choice((None, None, *gateways, "controller-0")),
                )
            )
        if chance.random() < 0.5:
            begin = chance.uniform(0.0, self.seconds)
            times = self.registry.down if chance.random() < 0.6 else self.registry.slow
            times.append((begin, begin + chance.choice((5.0, 100.0))))
        for _ in range(chance.choice((0, 0, 1, 2))):
            self.scheduler.at(chance.uniform(2.0, self.seconds), self.registry.move_behind_our_back)
