"""Who goes next: decides on a snapshot what starts, what is stopped for it, and why everything else waits.

All or nothing for a gang. Small runs fill what larger ones cannot use. Whoever waited too long goes by age, and the
first of them that does not fit gets a place kept free, so that nothing waits for ever under any stream of others. Knows
nothing of Dagster or Kubernetes, and treats every expected duration as a guess: a wrong one costs waiting, never a
broken promise.
"""

from collections.abc import Collection

from headrace.placement.decision import Decision
from headrace.placement.queue_policy import Preempting, QueuePolicy
from headrace.placement.snapshot import Plan, Reservation, Snapshot

__all__ = ["Preempting", "QueuePolicy", "plan"]


def plan(snapshot: Snapshot, policy: QueuePolicy, now: float, promised: Collection[Reservation] = ()) -> Plan:
    """Decide what starts now, what is stopped for it, and why everything else waits.

    The same arguments give the same plan. `now` is in seconds since the epoch.

    Args:
        promised: the reservations of the plan before, if its maker still knows them: a run then keeps its place as
            long as that will do. Without them the place is chosen anew, by the estimates of now.
    """
    return Decision(snapshot, policy, now, promised).plan()
