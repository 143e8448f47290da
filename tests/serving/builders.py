"""Builders for live services: what a test does not mention is plain and valid."""

import concurrent.futures
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from headrace.clock import Clock, FixedClock
from headrace.engines.roles import EngineSettings, Role
from headrace.errors import JournalConflict, StoreUnavailable
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.states import RolloutState
from headrace.serving.plan_lease import PlanLease
from headrace.serving.router import Router
from headrace.serving.service import Service
from headrace.version_sets.sets import Decoding
from tests.handoff.simulated_store import MemoryStore
from tests.rollout.builders import state_of

SERVICE = "glossary"
STABLE, CANDIDATE, THIRD = "a" * 64, "b" * 64, "c" * 64


def make_service(name: str = SERVICE, **changes: Any) -> Service:
    """One role on the echo engine, which needs no weights."""
    decoding = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)
    settings: dict[str, Any] = {
        "roles": {"writer": Role(model="tiny", decoding=decoding, engine=EngineSettings(name="echo"))},
        "chain": ("writer",),
        "session_seconds": 600.0,
    }
    return Service(name=name, **(settings | changes))


class Plans:
    """Writes a rollout's journal, an event a call, as a controller would."""

    def __init__(self, store: Any, name: str = SERVICE, clock: Clock | None = None) -> None:
        self.journal = Journal(store, name, clock or FixedClock())

    @property
    def state(self) -> RolloutState:
        return state_of(self.journal)

    def initialize(self, version_set: str = STABLE) -> Entry:
        return self.add("initialized", version_set=version_set, weights_digest=f"weights {version_set[:4]}")

    def start(self, version_set: str = CANDIDATE, *, weight: float = 0.5, cap: int | None = None) -> Entry:
        fields = {"weights_digest": f"weights {version_set[:4]}", "step": 0, "num_rows": 0}
        return self.add("started", version_set=version_set, weight=weight, cap=cap, **fields)

    def advance(self, *, weight: float, cap: int | None = None) -> Entry:
        step = self.state.step + 1
        return self.add("advanced", version_set=self.state.candidate, step=step, weight=weight, cap=cap, num_rows=0)

    def reweight(self, *, weight: float, **cap: int | None) -> Entry:
        return self.add("reweighted", version_set=self.state.candidate, weight=weight, **cap)

    def promote(self) -> Entry:
        return self.add("promoted", version_set=self.state.candidate, num_rows=0)

    def abort(self, *, evict: bool = True) -> Entry:
        return self.add("aborted", version_set=self.state.candidate, num_rows=0, evict=evict)

    def add(self, event: str, **fields: Any) -> Entry:
        return self.journal.append(event, {**fields, "reason": "a test"}, expected=self.journal.head())

    def add_at(self, expected: int, event: str, **fields: Any) -> Entry | None:
        """What a controller appends that decided at entry `expected`; None: it came too late."""
        try:
            return self.journal.append(event, {**fields, "reason": "a test"}, expected=expected)
        except JournalConflict:
            return None


class TroubledStore(MemoryStore):
    """One process's sight of a store: what becomes of its next calls is told beforehand.

    `fates` of creates, and `read_fates` of everything else, in order; when there are none left, all is well:
    "well"; "refused": no effect, and an error; "lost": the effect, and an error; "told there": the effect, and the
    answer to its repetition (the object is there already).
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(FixedClock())
        super().__init__(self.store.clock, self.store.disk)
        self.fates: deque[str] = deque()
        self.read_fates: deque[str] = deque()
        self.num_reads = 0
        # Called with each key that is to be created, before anything happens to it.
        self.before_create: Callable[[str], None] = lambda key: None

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        self.before_create(key)
        fate = self.fates.popleft() if self.fates else "well"
        if fate == "refused":
            raise StoreUnavailable("503 Service Unavailable")
        made = self.store.create(key, body)
        if fate == "lost":
            raise StoreUnavailable("The reply was lost.")
        return made and fate != "told there"

    def _begin(self, call: str, key: str) -> None:
        if call in ("read", "exists", "children", "entries"):
            self.num_reads += 1
            if (self.read_fates.popleft() if self.read_fates else "well") != "well":
                raise StoreUnavailable("503 Service Unavailable")


class HandClock:
    """Monotonic seconds that move only when told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class InlineThreads(concurrent.futures.Executor):
    """Threads that have done their work before anybody looks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **keywords: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **keywords))
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            future.set_exception(error)
        return future


class Site:
    """One gateway's lease and router on a store, nothing started: a test does each round of the background itself."""

    def __init__(
        self, store: Any, *, gateway: str = "gateway-1", session_seconds: float = 600.0, clock: Clock | None = None
    ) -> None:
        self.monotonic = HandClock()
        self.clock = clock or FixedClock()
        self.not_loaded: set[str] = set()
        self.lease = PlanLease(store, SERVICE, SERVICE, monotonic=self.monotonic, clock=self.clock)
        self.router = Router(
            store=store,
            service=make_service(session_seconds=session_seconds),
            lease=self.lease,
            gateway=gateway,
            clock=self.clock,
            threads=InlineThreads(),
            is_loaded=lambda version_set: version_set not in self.not_loaded,
            draw=map(f"draw {{}} of {gateway}".format, count()).__next__,
        )

    def pass_time(self, seconds: float) -> None:
        """On both clocks, as it does."""
        self.monotonic.seconds += seconds
        assert isinstance(self.clock, FixedClock)
        self.clock.advance(seconds)

    def look(self) -> None:
        """One round: the plan, then places under the cap."""
        self.lease.poll()
        self.router.replenish()
