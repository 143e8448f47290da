"""A schedule's records for the oracle, as a gateway, a controller or a worker would log them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class StepRecord:
    """One role's part in a unit. `version_set`: the set of the answering engine, from the engine itself."""

    role: str
    version_set: str
    at: float


@dataclass(slots=True)
class UnitRecord:
    """One live unit of work, or one turn of a session. Times are simulated seconds."""

    router: str
    unit: str
    begun_at: float
    session: str | None = None
    # The router's answer, and its time.
    version_set: str = ""
    entry: int = 0
    reason: str = ""
    trial: int = 0
    is_pinned: bool = False
    started_at: float = 0.0
    # Whether the candidate's engines were loaded there.
    has_candidate: bool = True
    # The registry's state when the unit came.
    registry: str = "well"
    steps: list[StepRecord] = field(default_factory=list)
    # Refusals that the client caused (an unknown set as override) do not count.
    failure: str = ""


@dataclass(slots=True)
class AppendRecord:
    """An event that was decided at entry `expected`. `number`: its entry; None: refused."""

    by: str
    event: str
    expected: int
    number: int | None
    at: float


@dataclass(slots=True)
class TickRecord:
    """One tick of a controller. `registry`: its state when the tick began."""

    by: str
    begun_at: float
    registry: str
    kinds: tuple[str, ...] = ()
    failure: str = ""


@dataclass(slots=True)
class OrderRecord:
    """A person's abort or promotion, and when it returned. `outcome`: "done", or why not."""

    kind: str
    begun_at: float
    registry: str
    store_was_well: bool = True
    ended_at: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class TryRecord:
    """One try of a run at a bulk partition. `outcome`: sealed, repin, killed, or the obstacle."""

    worker: str
    run: str
    partition: str
    begun_at: float
    claim: str = ""
    version_set: str = ""
    inputs_digest: str = ""
    attempt: int = 0
    outcome: str = ""


@dataclass(slots=True)
class ShareRecord:
    """`num_candidate` of `num` distinct keys at entry `entry`, asked at once; `exact`: partitions, by count."""

    entry: int
    num: int
    num_candidate: int
    exact: bool = False


@dataclass(slots=True)
class Log:
    """All records of one schedule."""

    units: list[UnitRecord] = field(default_factory=list)
    appends: list[AppendRecord] = field(default_factory=list)
    ticks: list[TickRecord] = field(default_factory=list)
    orders: list[OrderRecord] = field(default_factory=list)
    tries: list[TryRecord] = field(default_factory=list)
    shares: list[ShareRecord] = field(default_factory=list)
    # The library's replay at the end: its state, in the oracle's terms.
    final: dict[str, Any] = field(default_factory=dict)
    # Verification of tampered journals: the edit → whether it was found.
    tampered: dict[str, bool] = field(default_factory=dict)
    # The library's results on crashes in a separate rollout: None, or what differed.
    crash_equal: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
