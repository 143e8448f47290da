"""Who holds leases: what keeps a version from garbage collection."""

import json
from collections import defaultdict
from dataclasses import dataclass

from headrace.errors import ObjectMissing
from headrace.handoff import leases
from headrace.store.objects import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Holder:
    """`until`: seconds since the epoch; a live holder moves it on."""

    host: str
    pid: int
    until: float

    @property
    def text(self) -> str:
        return f"{self.host} pid {self.pid}"


def holders_by_nonce(objects: ObjectStore, now: float) -> dict[str, list[Holder]]:
    """Leases that are in force, or may be by their holder's clock, under the nonce of what they hold."""
    found: dict[str, dict[str, Holder]] = defaultdict(dict)
    for entry in objects.entries(leases.ROOT):
        _, nonce, name = entry.key.split("/", 2)
        until = leases.expires_at(name)
        if until + leases.CLOCK_SKEW_SECONDS <= now:
            continue
        try:
            body = json.loads(objects.read(entry.key) or b"{}")
        except (ObjectMissing, ValueError):
            continue  # released, or a probe
        if "pid" in body:
            # A renewal makes the later key before the earlier one goes.
            holder = Holder(host=body["host"], pid=body["pid"], until=until)
            found[nonce][name.rpartition("-")[0]] = holder
    return {nonce: sorted(held.values(), key=lambda holder: holder.text) for nonce, held in found.items()}
