"""The input and output of a decision: plain values, so that equal moments decide equally."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.placements import Placement
from headrace.placement.residency import Residency


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What is known of a run in any state. `expected_seconds` is a guess, and is treated as one."""

    run_id: str
    demand: Demand
    expected_seconds: float
    queue: str = "default"
    priority: int = 0
    stage: str = ""
    preemptible: bool = False
    # Names of the models that it needs; empty: unknown, or none.
    loads: frozenset[str] = frozenset()
    # Keeps preemption from going in circles.
    num_preemptions: int = 0
    # How long a queue served in order of submission would keep it waiting (`fifo_waits`); 0: nobody has measured it,
    # and the run goes by age from the start.
    fifo_wait_seconds: float = 0.0
    # Whether it may pass those that have waited too long (`short_runs`).
    is_short: bool = False

    def told(self, fifo_wait_seconds: float, *, is_short: bool = False) -> Self:
        """The same run with these. `dataclasses.replace` takes five times as long, and queues are told often."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), fifo_wait_seconds=fifo_wait_seconds, is_short=is_short)
        return twin


@dataclass(frozen=True, kw_only=True)
class Waiting(PlannedRun):
    """A queued run. `submitted`, and `preempted_at` of its last attempt (0: of none), in seconds since the epoch.

    `ran_seconds`: how long earlier attempts ran since `submitted`; that time it did not wait.
    """

    submitted: float
    preempted_at: float = 0.0
    ran_seconds: float = 0.0

    def started(self, placement: Placement, now: float) -> "Running":
        known = {name: getattr(self, name) for name in _OF_ANY_RUN}
        waited = max(0.0, now - self.submitted - self.ran_seconds)
        return Running(placement=placement, started=now, waited_seconds=waited, **known)


@dataclass(frozen=True, kw_only=True)
class Running(PlannedRun):
    """A run that holds its placement: admitted, starting, running, or ended with processes that remain."""

    placement: Placement
    started: float
    waited_seconds: float = 0.0  # before it started
    # It is ending (canceled, preempted, finished): its place returns by itself.
    ending: bool = False


_OF_ANY_RUN = tuple(field.name for field in fields(PlannedRun))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """`waiting` in order of submission."""

    inventory: Inventory
    # Includes machines and GPUs that are gone now: a run that fits only there is held, not impossible. None:
    # `inventory`.
    ever_seen: Inventory | None = None
    waiting: tuple[Waiting, ...] = ()
    running: tuple[Running, ...] = ()
    # Run → why Dagster's own limits hold it back (a pool, a tag limit, a paused location). Never placed.
    blocked: dict[str, str] = field(default_factory=dict)
    # How many more may start (`max_concurrent_runs`); None: no limit.
    num_slots: int | None = None
    residency: Residency = field(default_factory=Residency)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why a run waits. `sentence` is complete text for people."""

    run_id: str
    sentence: str
    waits_for: tuple[str, ...] = ()  # run ids whose end would let it start
    latest: float | None = None  # seconds since the epoch, by the runs' own estimates; None: unknown


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """Stop `run_id` (it is queued again) so that `for_run_id` can start."""

    run_id: str
    for_run_id: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Eviction:
    """Have a node's host take its models off a device: `for_run_id` starts there once they have left.

    `models`: what leaves, for people.
    """

    node: str
    device: str
    models: tuple[str, ...]
    for_run_id: str


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Devices for a blocked run: nothing that could keep it waiting is put there."""

    run_id: str
    devices: frozenset[tuple[str, str]]  # (node, device)
    latest: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    admissions: dict[str, Placement] = field(default_factory=dict)  # by run, in the order of admission
    preemptions: tuple[Preemption, ...] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)  # by run: why the fleet can never give what it asks for
    reservations: tuple[Reservation, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    # When the decision may change without any event (ageing, a stage policy's hours); None: never.
    look_again_at: float | None = None
