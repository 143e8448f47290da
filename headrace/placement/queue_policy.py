"""The settings of the queue: order, reservations, preemption, stages."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from headrace.placement.demand import Demand
from headrace.placement.packing import Packing
from headrace.placement.stage_policy import StagePolicy
from headrace.user_files.ranges import check_ranges

Seconds = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Le(1)]
QueueWeights = dict[str, Annotated[float, Gt(0)]]


@dataclass(frozen=True, kw_only=True)
class Preempting:
    """When runs with `headrace/preemptible` may be stopped for others.

    A run is stopped for a run of higher priority; for a run that it overtook and that has waited too long; with one GPU
    or less, for any gang that has waited too long; and for a stage whose floor it borrows. It must have run for
    `min_run_seconds` before, to make up for its start; a run that fills a place kept for another run does not get this
    time. `preemptions_max` ends every circle: a run that was stopped so often is not stopped again. A run that waited
    too long itself is stopped for gangs alone.
    """

    min_run_seconds: Seconds = 300.0
    preemptions_max: Annotated[int, Ge(1)] = 3

    def __post_init__(self) -> None:
        check_ranges(self)


# Of gangs and of all others; docs/decisions/0040 has what others of them do.
_SHARES, _SHARES_WITHOUT_PREEMPTION = (0.7, 0.95), (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """How runs are ordered, reserved for and preempted.

    Order: runs that have waited too long, by the time when that happened; then by priority; inside a priority by queue,
    the one with the smallest share of the fleet for its weight first; inside a queue by `order`. The first run that
    waited too long and does not fit is given a place: nothing that could keep it waiting is put there. If the order is
    `shortest_first`, runs that are so short that all of them together are a fiftieth of the work (`short_runs`) pass
    those that have waited too long and were promised no place.

    Too long is no number of seconds, but a share of what a queue served in order of submission would have kept the run
    waiting (`fifo_waits`): `gang_patience` of it for a run of several GPUs, which cannot use the gaps that others
    leave, and `patience` for all others. Smaller shares limit waiting more tightly; the price is GPUs that stand idle
    while a place drains, and short runs that wait for long ones. That price is higher where nobody may be stopped, so
    the shares are larger there, unless they are given.
    """

    packing: Packing = field(default_factory=Packing)
    # Dagster promises first in, first out; shortest first halves the mean wait.
    order: Literal["shortest_first", "submission"] = "submission"
    # None: 0.7 and 0.95; without preemption 0.9 and 0.98.
    gang_patience: Share | None = None
    patience: Share | None = None
    # By queue; queues that are not named weigh 1.
    queue_weights: QueueWeights = field(default_factory=dict)
    # None: no run is stopped for another.
    preemption: Preempting | None = None
    stages: StagePolicy = field(default_factory=StagePolicy)

    def __post_init__(self) -> None:
        check_ranges(self)

    def patience_of(self, demand: Demand) -> float:
        """The share of its `fifo_wait_seconds` that such a run may wait before it goes by age."""
        is_gang = demand.num_gpus > 1
        given = self.gang_patience if is_gang else self.patience
        if given is not None:
            return given
        gangs, others = _SHARES_WITHOUT_PREEMPTION if self.preemption is None else _SHARES
        return gangs if is_gang else others

    def weight(self, queue: str) -> float:
        return self.queue_weights.get(queue, 1.0)
