"""A unit's version set and its engines: the router chooses the set, always one that is loaded here.

If the plan gives a unit to a candidate that this gateway has not loaded (yet), the unit goes to the stable set. A
session's turn waits until its set is loaded, since a session keeps its set.
"""

import asyncio

from headrace.errors import HeadraceError, InvalidInput
from headrace.rollout.routing import Pin, RoutingTable
from headrace.serving.gateway.prepared_sets import LoadedSet, PreparedSets
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready
from headrace.serving.plan_lease import PlanLease
from headrace.serving.router import Router
from headrace.serving.service import Service

# How many sets a session's turn tries: each may be rolled back while it loads.
_NUM_PINS_MAX = 3


class Pinning:
    def __init__(self, service: Service, *, router: Router, lease: PlanLease, sets: PreparedSets) -> None:
        self._service = service
        self._router = router
        self._lease = lease
        self._sets = sets

    async def pin(
        self, name: str, *, session: str | None, override: str | None, is_drawn: bool
    ) -> tuple[Pin, LoadedSet]:
        """The set and engines for the unit `name`, or for its session's next turn.

        Args:
            is_drawn: whether the gateway itself drew the unit's name, and nothing in the request fits one set alone.

        Raises:
            PlanUnknown: there is no plan yet.
            Refusal: no set that the unit may have is loaded here, or the unit cannot have the set that `override`
                names.
        """
        try:
            return await self._pin(name, session, override, is_drawn)
        except InvalidInput as error:
            # The router's text concerns version sets that the client named itself.
            raise invalid(str(error)) from error

    def routed(self) -> list[LoadedSet]:
        """The sets between which units are drawn now, as far as they are loaded here."""
        table = self._lease.table()
        names = [] if table is None else [table.stable, *([table.candidate] if table.candidate else [])]
        return [loaded for name in names if (loaded := self._sets.get(name)) is not None]

    async def _pin(self, name: str, session: str | None, override: str | None, is_drawn: bool) -> tuple[Pin, LoadedSet]:
        if session is not None:
            return await self._pin_session(session, override)
        pin = self._router.resolve(name, override=override, is_drawn=is_drawn)
        loaded = self._sets.get(pin.version_set)
        if loaded is not None:
            return pin, loaded
        if override is not None:
            raise not_ready(
                f"Version set {pin.version_set[:12]} is not loaded on this gateway; send the request again."
            )
        return self._on_stable(pin)

    async def _pin_session(self, session: str, override: str | None) -> tuple[Pin, LoadedSet]:
        for _ in range(_NUM_PINS_MAX):
            pin = await self._router.resolve_session(session, override=override)
            loaded = self._sets.get(pin.version_set)
            if loaded is None:
                loaded = await self._load(pin)
                # Loading takes long. If the set was rolled back meanwhile, the turn is pinned again.
                if not self._may_still_start(pin, loaded.id):
                    continue
            loaded.pinned_until = max(loaded.pinned_until, pin.expires_at)
            return pin, loaded
        raise not_ready("The session's version set was rolled back; send the request again.")

    def _may_still_start(self, pin: Pin, version_set: str) -> bool:
        table = self._lease.table()
        if table is None or version_set in table.evicted:
            return False
        return pin.reason == "session" or version_set in (table.stable, table.candidate)

    async def _load(self, pin: Pin) -> LoadedSet:
        try:
            async with asyncio.timeout(self._service.limits.waiting_seconds_max):
                return await self._sets.ensure(pin.version_set)
        except (HeadraceError, TimeoutError) as error:
            raise not_ready(
                f"The session's version set {pin.version_set[:12]} is not loaded here; send the request again later.",
                retry_after_seconds=5.0,
                detail=str(error),
            ) from error

    def _on_stable(self, pin: Pin) -> tuple[Pin, LoadedSet]:
        table: RoutingTable | None = self._lease.table()
        assert table is not None
        loaded = self._sets.get(table.stable)
        if loaded is None:
            raise self._nothing_here(table.stable)
        return Pin(table.stable, pin.entry, "degraded", 0, is_fair=False), loaded

    def _nothing_here(self, stable: str) -> Refusal:
        failed = self._sets.failure(stable)
        return not_ready(
            f"The stable version set {stable[:12]} is not loaded here; send the request again later.",
            detail=str(failed or ""),
        )
