"""Of `headrace queue` and `headrace why`. Unknown values are null; times are UTC, ISO 8601."""

from dataclasses import dataclass
from typing import Literal

State = Literal[
    "next", "held", "impossible", "admitted", "starting", "running", "silent", "ending", "uncounted", "finished"
]


@dataclass(frozen=True, kw_only=True)
class DemandBody:
    """What a run asks for."""

    text: str
    """In words."""
    num_gpus: int
    gpu_share: float
    """Of each GPU; 1: whole ones."""
    gpu_memory_mib: int
    gpu_models: tuple[str, ...]
    """Any of these; empty: any model."""
    gang: str
    """node: all on one node; any: on any nodes."""
    cpus: float
    memory_mib: int


@dataclass(frozen=True, kw_only=True)
class GpuShareBody:
    node: str
    device: str
    share: float


@dataclass(frozen=True, kw_only=True)
class HostShareBody:
    node: str
    cpus: float
    memory_mib: int


@dataclass(frozen=True, kw_only=True)
class PlacementBody:
    """What a run holds, or will."""

    gpus: tuple[GpuShareBody, ...]
    hosts: tuple[HostShareBody, ...]


@dataclass(frozen=True, kw_only=True)
class WaitedForBody:
    run_id: str
    name: str | None
    job: str | None
    partition: str | None
    until: str | None


@dataclass(frozen=True, kw_only=True)
class DeviceBody:
    node: str
    device: str


@dataclass(frozen=True, kw_only=True)
class QueuedRunBody:
    """A run: `headrace why --json`, and one of `headrace queue --json`."""

    run_id: str
    name: str | None
    job: str | None
    partition: str | None
    state: State
    status: str | None
    """Dagster's."""
    why: str
    """One sentence."""
    demand: DemandBody | None
    queue: str | None
    priority: int | None
    stage: str | None
    submitted: str | None
    since: str | None
    """When it got its placement."""
    until: str | None
    """When it should end, by its own estimate."""
    ended: str | None
    latest: str | None
    """When it starts at the latest."""
    placement: PlacementBody | None
    waits_for: tuple[WaitedForBody, ...]
    reserved: tuple[DeviceBody, ...]
    """Kept for it while it waits."""
    makes_room_for: str | None
    """A run's id: this one is about to be stopped for it."""


@dataclass(frozen=True, kw_only=True)
class HeldShareBody:
    run_id: str
    share: float


@dataclass(frozen=True, kw_only=True)
class GpuBody:
    device: str
    model: str | None
    memory_mib: int | None
    health: Literal["healthy", "sick", "gone"]
    free: float
    """The share that nobody holds."""
    reserved_for: str | None
    """A waiting run's id."""
    held_by: tuple[HeldShareBody, ...]
    loaded: tuple[str, ...] = ()
    """The models that an engine host has there."""


@dataclass(frozen=True, kw_only=True)
class NodeBody:
    node: str
    cpus: float
    cpus_held: float
    memory_mib: int
    memory_mib_held: int
    gpus: tuple[GpuBody, ...]


@dataclass(frozen=True, kw_only=True)
class QueueBody:
    """`headrace queue --json`."""

    at: str
    daemon_silent_seconds: float | None
    """null: it has reported lately; -1: never."""
    nodes: tuple[NodeBody, ...]
    running: tuple[QueuedRunBody, ...]
    queued: tuple[QueuedRunBody, ...]
    """In order, as many as --limit allows."""
    num_queued: int
    """All of them."""
