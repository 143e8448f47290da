"""The run tags that are the coordinator's only memory, and what it requires of a device-giving launcher."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement
from headrace.store.small_objects import Record
from headrace_dagster.run_records import TaggedRun, own_record

if TYPE_CHECKING:
    from dagster import DagsterRun

GATE_TAG = "headrace/gate"
"""`held` or `admitted`. A tag limit of 0 keeps the stock daemon from launching runs with the value `held`."""
HELD = "held"
ADMITTED = "admitted"
# For our own use: the UI hides tags with this prefix.
NEEDS_TAG = ".dagster/headrace/needs"
"""What the run needs, read once from its steps' and its own tags."""
PLACEMENT_TAG = ".dagster/headrace/placement"
"""The devices that the run was given."""
WHY_TAG = "headrace/why"
"""For people, in the UI: why a queued run waits, and where an admitted one is."""
PREEMPTED_TAG = "headrace/preempted"
"""When the run was last stopped for another, and how many times; its retry is queued."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A run's placement from the moment when it was promised, in seconds since the epoch."""

    run_id: str
    at: float
    placement: Placement

    def to_json(self) -> str:
        return json.dumps({"run_id": self.run_id, "at": self.at, "placement": self.placement.to_json()})


@dataclass(frozen=True, kw_only=True)
class _Tag:
    """As `Admission.to_json` writes it."""

    run_id: str
    at: float
    placement: str


_RECORD = Record("Admission", _Tag)


def admission_of(run: TaggedRun) -> Admission | None:
    """The admission of this very run, if there is one."""
    tag = own_record(run, PLACEMENT_TAG, _RECORD)
    try:
        return Admission(run_id=tag.run_id, at=tag.at, placement=Placement.from_json(tag.placement)) if tag else None
    except ValueError:
        return None


@runtime_checkable
class DeviceLauncher(Protocol):
    """A run launcher that gives each run the devices of its admission."""

    def admission_tags(self, run: "DagsterRun", needs: RunNeeds, placement: Placement) -> Mapping[str, str]:
        """Tags to write with the admission, for the launch."""
        ...

    def occupied_run_ids(self) -> set[str]:
        """Runs that still have a process (or pod), whatever their status: their devices are not free."""
        ...

    def reap(self, run_ids: Collection[str]) -> None:
        """Ends what remains of runs that have ended for Dagster, after a grace; returns at once."""
        ...

    def evict(self, run: "DagsterRun", reason: str) -> None:
        """Begins to end a run so that Dagster retries it; returns at once."""
        ...

    def finish_evictions(self) -> Collection[str]:
        """Finishes, at a daemon's start, what its killed predecessor began."""
        ...

    def refusal(self, inventory: Inventory) -> str | None:
        """Why the launcher cannot serve that inventory, in one sentence."""
        ...


@runtime_checkable
class ClusterLauncher(DeviceLauncher, Protocol):
    """A launcher on a cluster, which reports its machines itself."""

    @property
    def hands_over(self) -> bool:
        """Whether the cluster's own queue admits; then every run is admitted here at once, and nothing is counted."""
        ...

    def inventory(self, held: Mapping[str, Collection[str]] | None = None) -> Inventory:
        """What the nodes can give now. `held`: our runs' devices, by node."""
        ...

    def demand_on(self, inventory: Inventory, demand: Demand) -> Demand:
        """Translates a demand to this cluster.

        Raises:
            InvalidInput: the cluster can never give it.
        """
        ...
