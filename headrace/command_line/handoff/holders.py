"""Lists who holds leases, and so keeps versions from garbage collection."""

from collections import defaultdict
from dataclasses import dataclass

from headrace.command_line.bodies.handoffs import HolderBody
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store import leases
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import read_object


@dataclass(frozen=True, kw_only=True)
class Holder:
    """`until`: seconds since the epoch; a live holder extends it."""

    host: str
    pid: int
    until: float

    @property
    def text(self) -> str:
        return f"{self.host} pid {self.pid}"

    @property
    def body(self) -> HolderBody:
        return HolderBody(host=self.host, pid=self.pid, until=self.until)


def holders_by_nonce(objects: ObjectStore, now: float) -> dict[str, list[Holder]]:
    """Leases that are in force, or may be by their holder's clock, by nonce."""
    found: dict[str, dict[str, Holder]] = defaultdict(dict)
    for entry in objects.entries(leases.ROOT):
        _, nonce, *names = entry.key.split("/", 2)
        if not names or (name := names[0]).startswith("."):
            continue  # left by a file system or a desktop: not a lease
        until = leases.expires_at(name)
        if until + leases.CLOCK_SKEW_SECONDS <= now:
            continue
        try:
            body = read_object(objects, entry.key, leases.HOLDER)
        except (ObjectMissing, HandoffCorrupt):
            continue  # released, a probe, or damaged: the key alone protects
        # A renewal creates the later key before it deletes the earlier one.
        found[nonce][name.rpartition("-")[0]] = Holder(host=body.host, pid=body.pid, until=until)
    return {nonce: sorted(held.values(), key=lambda holder: holder.text) for nonce, held in found.items()}
