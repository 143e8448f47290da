"""Each stage's GPUs in one plan, compared with its floor and its ceiling."""

from collections import Counter

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.explain import at_ceiling, behind_in_stage, kept_for_floors, kept_for_older
from headrace.placement.fleet import Fleet
from headrace.placement.preemption import may_be_stopped
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Running, Snapshot, Waiting


class StageLedger:
    def __init__(self, fleet: Fleet, snapshot: Snapshot, policy: QueuePolicy, now: float) -> None:
        self._policy, self._now = policy, now
        self._limits = policy.stages.limits(now, snapshot.inventory.num_gpus) if policy.stages.rules else {}
        self._held: Counter[str] = Counter()
        self._free = 0
        # Stage → its older run that waits for the ceiling.
        self._waits_in: dict[str, str] = {}
        self._waits_for_floors: str | None = None
        if self._limits:
            for run in snapshot.running:
                self._held[run.stage] += sum(share.milli for share in run.placement.gpus)
            self._free = sum(
                fleet.free_milli(node.name, gpu.device) for node in snapshot.inventory.nodes for gpu in node.gpus
            )

    @property
    def has_limits(self) -> bool:
        return bool(self._limits)

    def add(self, stage: str, gpu_milli: int) -> None:
        self._held[stage] += gpu_milli
        self._free -= gpu_milli

    def keep(self, run: Waiting, kept_milli: int) -> None:
        """Notes a kept place: it counts in its stage already, and others may not have `kept_milli` of what is free."""
        self._held[run.stage] += asked_milli(run.demand)
        self._free -= kept_milli

    def refusal(self, run: Waiting, *, aged: bool, may_borrow: bool) -> str | None:
        """Why the stages' limits hold a run back; None: they do not."""
        milli = asked_milli(run.demand)
        if not self._limits or not milli:
            return None
        if run.stage in self._waits_in:
            return behind_in_stage(run, self._waits_in[run.stage])
        limit = self._limits.get(run.stage)
        if limit and limit.ceiling is not None and self._held[run.stage] + milli > limit.ceiling * WHOLE:
            # The stage drains for its oldest run, unless that run needs other hours.
            if aged and milli <= limit.ceiling * WHOLE:
                self._waits_in[run.stage] = run.run_id
            return at_ceiling(run, limit, self._held[run.stage], self._now)
        if may_borrow or milli <= self._unmet(run.stage):
            return None
        if self._waits_for_floors is not None:
            return kept_for_older(self._waits_for_floors)
        kept = {stage: self._unmet(stage) for stage in self._limits if stage != run.stage and self._unmet(stage)}
        if kept and self._free - sum(kept.values()) < milli <= self._free:
            if aged:
                self._waits_for_floors = run.run_id
            return kept_for_floors(run.demand, self._free, {stage: -(-gpus // WHOLE) for stage, gpus in kept.items()})
        return None

    def lends(self, victim: Running, run: Waiting) -> bool:
        """Whether `victim` borrows GPUs that are kept for the stage of `run`."""
        if not self._limits:
            return False
        milli = asked_milli(run.demand)
        return (
            bool(milli)
            and milli <= self._unmet(run.stage)
            and victim.stage != run.stage
            and not victim.ending
            and may_be_stopped(victim, self._policy)
            and self._held[victim.stage] > self._floor(victim.stage)
        )

    def changes(self) -> list[float]:
        """When a limit may change next, in seconds since the epoch."""
        return [limit.until for limit in self._limits.values() if limit.until is not None]

    def _floor(self, stage: str) -> int:
        return self._limits[stage].floor * WHOLE if stage in self._limits else 0

    def _unmet(self, stage: str) -> int:
        return max(0, self._floor(stage) - self._held[stage])


def asked_milli(demand: Demand) -> int:
    """Thousandths of GPUs; a share that grows on a small GPU counts as requested."""
    if not demand.num_gpus:
        return 0
    return demand.gpu_milli if demand.is_shared else demand.num_gpus * WHOLE
