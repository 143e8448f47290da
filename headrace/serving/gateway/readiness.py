"""Whether this gateway should get traffic, and why not; and its view of the rollout.

Not ready: it should get no units. Degraded: it answers units, but only with the stable set if the plan is not fresh or
the candidate is not loaded here; a load balancer may prefer other gateways.
"""

from typing import Any

from headrace.serving.gateway.prepared_sets import PreparedSets
from headrace.serving.plan_lease import PlanLease
from headrace.serving.service import Service


class Readiness:
    def __init__(self, service: Service, *, lease: PlanLease, sets: PreparedSets) -> None:
        self._service = service
        self._lease = lease
        self._sets = sets
        self.is_draining = False

    @property
    def is_ready(self) -> bool:
        return not self._missing()

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and body of `/readyz`."""
        missing, degraded = self._missing(), self._degraded()
        status = "not ready" if missing else "degraded" if degraded else "ready"
        body = {"status": status, "reasons": missing + degraded, "degraded": bool(degraded)}
        return (503 if missing else 200), body

    def rollout(self) -> dict[str, Any]:
        """The body of `/v1/rollout`, for people."""
        state, table = self._lease.state(), self._lease.table()
        return {
            "service": self._service.name,
            "entry": table.head if table else None,
            "fresh": self._lease.fresh(),
            "stable": table.stable if table else None,
            "candidate": table.candidate if table else None,
            "weight": state.weight if state else None,
            "cap": table.cap if table else None,
            "paused": state.paused if state else None,
            "trial": table.trial if table else None,
            "proposed": state.proposed if state else None,
            "loaded": sorted(self._sets.ids),
        }

    def _missing(self) -> list[str]:
        if self.is_draining:
            return ["draining"]
        table = self._lease.table()
        if table is None:
            return [f"no plan: the journal of {self._service.name} could not be read, or names no stable set yet"]
        missing: list[str] = []
        if self._sets.get(table.stable) is None:
            missing.append(self._not_loaded("stable", table.stable))
        # If a candidate cannot be loaded here, the gateway stays ready: the stable set takes its units.
        if table.candidate and self._sets.get(table.candidate) is None and self._sets.failure(table.candidate) is None:
            missing.append(self._not_loaded("candidate", table.candidate))
        return missing

    def _degraded(self) -> list[str]:
        degraded: list[str] = []
        table = self._lease.table()
        if table is not None and not self._lease.fresh():
            degraded.append("the plan could not be read for a second: units start on the stable set alone")
        if table and table.candidate and self._sets.get(table.candidate) is None:
            degraded.append(self._not_loaded("candidate", table.candidate))
        return degraded

    def _not_loaded(self, what: str, set_id: str) -> str:
        # Anybody may read this; the reason of a failure is in the log.
        failed = self._sets.failure(set_id) is not None
        return (
            f"the {what} set {set_id[:12]} {'could not be loaded; the log says why' if failed else 'is not loaded yet'}"
        )
