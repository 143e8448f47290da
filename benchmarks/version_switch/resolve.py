"""How long a gateway takes to choose a unit's version set: `Router.resolve`, one key after another."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.clock import SystemClock
from headrace.rollout.journal import Journal
from headrace.rollout.states import INITIALIZED, PROPOSED, STARTED
from headrace.serving.plan_lease import PlanLease
from headrace.serving.router import Router
from headrace.store.local import LocalStore

NUM_KEYS = 200_000
_NUM_KEYS_A_ROUND = 10_000


@dataclass(frozen=True, kw_only=True)
class Routed:
    name: str = "answers"
    session_seconds: float = 60.0


def resolve_us(directory: Path, *, cap: int | None = None) -> dict[str, float]:
    """Microseconds a call, the timer's own included: p50, p99 and p99.9 over distinct keys at weight 0.3."""
    store, clock, service = LocalStore(directory), SystemClock(), Routed()
    journal = Journal(store, service.name, clock)
    journal.append(INITIALIZED, {"version_set": "a" * 64, "weights_digest": "a"}, expected=0)
    journal.append(PROPOSED, {"version_set": "b" * 64, "weights_digest": "b"}, expected=1)
    started = {"version_set": "b" * 64, "weights_digest": "b", "step": 0, "weight": 0.3, "cap": cap, "num_rows": 0}
    journal.append(STARTED, started, expected=2)
    lease = PlanLease(store, service.name, "salt")
    router = Router(store=store, service=service, lease=lease, gateway="benchmark", clock=clock)
    lease.start()
    router.start()
    while not lease.fresh():
        time.sleep(0.01)
    keys = [f"unit {number}" for number in range(NUM_KEYS)]
    nanoseconds: list[int] = []
    candidate = 0
    now, resolve = time.perf_counter_ns, router.resolve
    for first in range(0, NUM_KEYS, _NUM_KEYS_A_ROUND):
        for key in keys[first : first + _NUM_KEYS_A_ROUND]:
            began = now()
            pin = resolve(key)
            nanoseconds.append(now() - began)
            candidate += pin.version_set == "b" * 64
    lease.close()
    router.close()
    assert candidate, "no unit went to the candidate: nothing was measured"
    cuts = statistics.quantiles(nanoseconds, n=1000)
    return {"p50": cuts[499] / 1000, "p99": cuts[989] / 1000, "p99.9": cuts[998] / 1000, "candidate": candidate}
