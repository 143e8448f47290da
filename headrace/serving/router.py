"""Chooses the version set of each live unit of work at one gateway.

`resolve` decides by what is in memory: the plan and its lease, places under the candidate's cap, known session pins.
The store is only asked in the background, or in a thread while a session's first turn waits. The order: without a fresh
plan, the stable set (`degraded`); the set that the client asks for; the unit's rank against the candidate's weight. The
candidate also needs engines that are loaded here (otherwise `degraded`) and a place under its cap (otherwise `capped`).

A session is one unit, which starts with its first turn. Later turns follow its pin, whatever the plan's lease, unless
its set is known to be evicted. If the pin can be neither read nor written, a session that was seen here keeps its set
and a new one gets the stable set; both have `is_pinned=False`, and are pinned once the store is back.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from headrace.clock import Clock
from headrace.errors import InvalidInput
from headrace.rollout.caps import CapLeases
from headrace.rollout.routing import Pin, RoutingTable
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.plan_lease import PlanLease
from headrace.serving.routes import Routes
from headrace.serving.session_turns import SessionTurns
from headrace.serving.sessions import SessionPin, SessionPins
from headrace.store.objects import ObjectStore, new_nonce

# Concurrent store calls for session pins.
_NUM_THREADS = 16
# How often the background work runs if nothing wakes it.
_LOOK_SECONDS = 0.5
_SWEEP_SECONDS = 6 * 3600.0


class Routed(Protocol):
    """The part of a service that the router needs."""

    @property
    def name(self) -> str: ...

    @property
    def session_seconds(self) -> float: ...


class Router:
    """Created before its lease is started. Any thread may call `resolve`, one event loop `resolve_session`.

    `start` keeps it supplied in the background; `replenish` and `pin_remembered` are one round of that each, for
    callers with their own threads.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        service: Routed,
        lease: PlanLease,
        gateway: str,
        clock: Clock,
        threads: Executor | None = None,
        is_loaded: Callable[[str], bool] = lambda version_set: True,
        draw: Callable[[], str] = new_nonce,
    ) -> None:
        """Args:
        draw: returns a text that nobody knows beforehand; it draws a session's set.
        is_loaded: whether a unit may begin on a set here at once. Until a candidate is loaded, units and new sessions
        get the stable set (`degraded`).
        """
        self._is_loaded = is_loaded
        self._lease = lease
        self._monotonic = lease.monotonic
        self._gateway = gateway
        self._caps = CapLeases(store, service.name, clock)
        self._pins = SessionPins(store, service.name, clock, lease_seconds=service.session_seconds, by=gateway)
        self._turns = SessionTurns(
            self._pins,
            lease,
            lambda draw, override: self.resolve(draw, override=override),
            clock=clock,
            threads=threads or DaemonThreads(_NUM_THREADS, f"sessions-{service.name}"),
            is_loaded=is_loaded,
            draw=draw,
        )
        self._routes: Routes | None = None
        self._places_wanted = threading.Event()
        self._ended = threading.Event()
        lease.watch(self._follow)

    def resolve(self, key: str, *, override: str | None = None, is_drawn: bool = True) -> Pin:
        """The set of a unit without session. Each call is one unit.

        Args:
            is_drawn: whether the gateway drew the key after it had the whole request. If a client chose the name, it
                knows the set beforehand, so the unit proves nothing about one set against the other.

        Raises:
            PlanUnknown: there is no plan yet.
            InvalidInput: `override` is neither `stable`, `candidate` nor one of their ids.
        """
        # The lease before the plan: then the plan is as new as the lease, or newer.
        until = self._lease.until
        routes = self._routes
        if routes is None:
            raise self._lease.unknown()
        if override is not None:
            return self._overridden(routes, until, override)
        if routes.rank(key) < routes.threshold:
            if not self._is_loaded(routes.candidate.version_set) or self._monotonic() >= until:
                return routes.degraded
            if routes.places is None or routes.places.take():
                return routes.candidate if is_drawn else routes.candidate_named
            return routes.capped
        if self._monotonic() >= until:
            return routes.degraded
        return routes.stable if is_drawn and self._may_draw(routes) else routes.stable_alone

    async def resolve_session(self, session_id: str, *, override: str | None = None) -> SessionPin:
        """The set of a session's next turn.

        Raises:
            PlanUnknown: there is no plan yet.
            InvalidInput: `override` names no set of the plan, or another set than the session's.
        """
        return await self._turns.turn(session_id, override)

    def start(self) -> None:
        for work, name in ((self._replenish_always, "places"), (self._pin_always, "pins")):
            threading.Thread(target=work, name=f"router-{name}", daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._places_wanted.set()

    def replenish(self) -> None:
        """Leases places under the candidate's cap, if few are left.

        Raises:
            StoreUnavailable
        """
        places = self._routes.places if self._routes else None
        if places is not None and places.are_few and self._lease.fresh():
            places.lease(self._caps, by=self._gateway, now=self._monotonic())

    def pin_remembered(self) -> None:
        """Pins sessions that could not be pinned at their turn.

        Raises:
            StoreUnavailable
        """
        self._turns.pin_remembered()

    def sweep(self) -> int:
        """Deletes pins of sessions that ended a day ago; returns the number of sessions.

        Raises:
            StoreUnavailable
        """
        return self._pins.sweep()

    def _follow(self, table: RoutingTable) -> None:
        routes = Routes(table, self._routes, self._places_wanted.set)
        self._routes = routes
        if routes.places is not None and routes.places.are_few:
            self._places_wanted.set()

    def _may_draw(self, routes: Routes) -> bool:
        """Whether the candidate could have been drawn; otherwise a unit on the stable set is no comparison."""
        if routes.places is not None and not routes.places.units:
            return False
        return routes.threshold == 0 or self._is_loaded(routes.candidate.version_set)

    def _overridden(self, routes: Routes, until: float, override: str) -> Pin:
        table = routes.table
        if self._monotonic() >= until:
            return routes.degraded
        if override in ("stable", table.stable):
            return routes.stable_asked_for
        if table.candidate is not None and override in ("candidate", table.candidate):
            return routes.candidate_asked_for if routes.places is None or routes.places.take() else routes.capped
        raise InvalidInput(_no_such_set(override, table))

    def _replenish_always(self) -> None:
        while not self._ended.is_set():
            self._places_wanted.wait(_LOOK_SECONDS)
            self._places_wanted.clear()
            try:
                self.replenish()
            except Exception:  # noqa: BLE001 (units are capped meanwhile, and the next round tries again)
                self._ended.wait(_LOOK_SECONDS)

    def _pin_always(self) -> None:
        # Random, so that gateways that started together do not sweep together.
        sweep_at = self._monotonic() + _SWEEP_SECONDS * random.random()
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self.pin_remembered()
                if self._monotonic() >= sweep_at:
                    sweep_at = self._monotonic() + _SWEEP_SECONDS
                    self.sweep()
            except Exception:  # noqa: BLE001 (what is not pinned or swept now is next time)
                continue


def _no_such_set(override: str, table: RoutingTable) -> str:
    candidate = f", candidate ({table.candidate})" if table.candidate else "; there is no candidate now"
    return f"Version set must be stable ({table.stable}){candidate}, got {override!r}."
