"""The run tags that are the coordinator's whole memory, and what it asks of a launcher that gives devices to runs.

A re-execution copies its parent's tags (tests/upstream): every record here names its run, and one that names another
run counts as none.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dagster import DagsterRun

from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement

# The stock daemon launches no run that carries `held`: a tag limit of 0 says so.
GATE_TAG = "headrace/gate"
HELD = "held"
ADMITTED = "admitted"
# For us: the UI does not show tags of this prefix.
NEEDS_TAG = ".dagster/headrace/needs"
PLACEMENT_TAG = ".dagster/headrace/placement"
# For people, in the UI: why a queued run waits, where an admitted one is.
WHY_TAG = "headrace/why"
PREEMPTED_TAG = "headrace/preempted"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A run's placement from the moment that it was promised, in seconds since the epoch."""

    run_id: str
    at: float
    placement: Placement

    def to_json(self) -> str:
        return json.dumps({"run_id": self.run_id, "at": self.at, "placement": self.placement.to_json()})


def admission_of(run: DagsterRun) -> Admission | None:
    """What was promised to this very run, if anything was."""
    try:
        fields = json.loads(run.tags.get(PLACEMENT_TAG, ""))
        if fields["run_id"] != run.run_id:
            return None
        return Admission(run_id=run.run_id, at=float(fields["at"]), placement=Placement.from_json(fields["placement"]))
    except (TypeError, KeyError, ValueError):
        return None


@runtime_checkable
class DeviceLauncher(Protocol):
    """A run launcher that gives each run the devices it was admitted to."""

    def admission_tags(self, run: DagsterRun, needs: RunNeeds, placement: Placement) -> Mapping[str, str]:
        """Tags to write with the admission; the launch reads them."""
        ...

    def occupied_run_ids(self) -> set[str]:
        """Runs that have a process (or pod) left, whatever Dagster says of them: their devices are not free."""
        ...

    def reap(self, run_ids: Collection[str]) -> None:
        """End what is left of runs that Dagster says have ended, after a grace; returns at once."""
        ...

    def evict(self, run: DagsterRun, reason: str) -> None:
        """Begin to end a run so that Dagster retries it; returns at once."""
        ...

    def finish_evictions(self) -> Collection[str]:
        """At a daemon's start: what its predecessor began and was killed over."""
        ...

    def refusal(self, inventory: Inventory) -> str | None:
        """Why it cannot serve that inventory, in one sentence."""
        ...


@runtime_checkable
class ClusterLauncher(DeviceLauncher, Protocol):
    """A launcher whose machines are a cluster's, which says itself what there is."""

    @property
    def hands_over(self) -> bool:
        """Whether the cluster's own queue admits: then every run is admitted here at once, and nothing is counted."""
        ...

    def inventory(self, held: Mapping[str, Collection[str]] | None = None) -> Inventory:
        """What the nodes can give now. `held`: devices that our runs hold, by node."""
        ...

    def demand_on(self, inventory: Inventory, demand: Demand) -> Demand:
        """A demand as it must be placed there.

        Raises:
            InvalidInput: the cluster can never give it.
        """
        ...
