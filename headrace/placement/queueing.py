"""Decides on a snapshot which runs start, which are stopped for them, and why all others wait.

All or nothing for a gang. Small runs fill what larger ones cannot use. Runs that waited too long go by age, and the
first of them that does not fit gets a place kept free, so that no stream of other runs can keep a run waiting forever.
Knows nothing of Dagster or Kubernetes, and treats every expected duration as a guess: a wrong one costs waiting, never
a broken promise.
"""

from collections.abc import Collection

from headrace.placement.decision import Decision
from headrace.placement.line import Line
from headrace.placement.queue_policy import Preempting, QueuePolicy
from headrace.placement.snapshot import Plan, Reservation, Snapshot

__all__ = ["Line", "Preempting", "QueuePolicy", "plan"]


def plan(
    snapshot: Snapshot,
    policy: QueuePolicy,
    now: float,
    promised: Collection[Reservation] = (),
    line: Line | None = None,
) -> Plan:
    """Decides what starts now, what is stopped for it, and why everything else waits.

    The same arguments give the same plan. `now` is in seconds since the epoch.

    Args:
        promised: the previous plan's reservations, if known: a run then keeps its place while it stays suitable.
            Without them the place is chosen again, by present estimates.
        line: of the previous plan, to save the time of sorting a long queue again; it changes nothing else.
    """
    return Decision(snapshot, policy, now, promised, line).plan()
