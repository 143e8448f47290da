"""What waits of a service's batches, read from the store alone."""

from dataclasses import dataclass

from headrace.errors import HandoffCorrupt
from headrace.inbox.batches.kept import Batches, Kept
from headrace.inbox.batches.places import services_with_batches
from headrace.store.objects import ObjectStore


@dataclass(frozen=True, kw_only=True)
class BatchesStatus:
    """One service's batches that have not ended."""

    service: str
    num_open: int
    num_validating: int
    """Of which nothing is known yet, but their files' length."""
    num_lines: int
    """Of the others."""
    num_lines_waiting: int
    """Without an outcome."""
    oldest_seconds: float | None
    """Since the oldest of them was made; null: there is none."""
    soonest_end_seconds: float | None
    """Until the first window ends; negative: it has ended."""
    problem: str | None
    """Why a batch cannot be read; null: they can."""


def batches_status(objects: ObjectStore, service: str, now: float) -> BatchesStatus:
    """Args: now: seconds since the epoch."""
    batches, found, problem = Batches(objects, service), list[Kept](), None
    for one in batches.open():
        try:
            kept = batches.find(*one)
        except HandoffCorrupt as error:
            problem = str(error)
            continue
        if kept and not kept.batch.is_final:
            found.append(kept)
    all_of_them = [kept.batch for kept in found]
    num_lines = sum(batch.num_lines for batch in all_of_them)
    return BatchesStatus(
        service=service,
        num_open=len(found),
        num_validating=sum(batch.status == "validating" for batch in all_of_them),
        num_lines=num_lines,
        num_lines_waiting=num_lines - sum(_num_settled(batches, kept) for kept in found),
        oldest_seconds=max((now - batch.created_at for batch in all_of_them), default=None),
        soonest_end_seconds=min((batch.expires_at - now for batch in all_of_them), default=None),
        problem=problem,
    )


def batches_statuses(objects: ObjectStore, now: float) -> tuple[BatchesStatus, ...]:
    """Of all services that ever had a batch in this store."""
    return tuple(batches_status(objects, service, now) for service in services_with_batches(objects))


def _num_settled(batches: Batches, kept: Kept) -> int:
    batch = kept.batch
    if batch.status == "finalizing":
        return batch.num_lines
    parts = batches.settled_parts(kept.tenant, batch.id)
    return sum(min(batch.lines_a_part, batch.num_lines - part * batch.lines_a_part) for part in parts)
