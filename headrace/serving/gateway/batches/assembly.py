"""Builds the batches of a gateway: what answers its clients, and what works."""

from typing import TYPE_CHECKING

from headrace.clock import Clock
from headrace.errors import InvalidInput
from headrace.inbox.batches.files import Files
from headrace.inbox.batches.kept import Batches, CountsSoFar
from headrace.serving.gateway.batches.api import BatchApi, BatchOffer
from headrace.serving.gateway.batches.lines import LineAsking
from headrace.serving.gateway.batches.work import BatchWork
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.readers import readers_of
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.units import Units
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore

if TYPE_CHECKING:
    from headrace.serving.gateway.assembly import Settings


def batches_of(
    settings: "Settings",
    service: Service,
    store: ObjectStore,
    units: Units,
    outcomes: Outcomes,
    *,
    clock: Clock,
    records: Records,
    metrics: Metrics,
) -> tuple[BatchWork, BatchApi]:
    """Raises: InvalidInput: the service's answers fit into no line."""
    if service.makes == "speech":
        raise InvalidInput(
            f"--batches: the service {service.name!r} speaks, and a line of a batch's output holds JSON, no recording. "
            "Leave the option out; many texts are spoken by a campaign."
        )
    readers = readers_of(service)[service.makes]
    num_lines_max = settings.batch_lines or max(service.limits.num_units_max // 4, 1)
    kept, files = Batches(store, service.name), Files(store, service.name, clock)
    counts = CountsSoFar(kept)
    work = BatchWork(
        kept,
        files,
        counts,
        LineAsking(units, outcomes, readers),
        model=service.name,
        makes=service.makes,
        num_lines_max=min(num_lines_max, service.limits.num_units_max),
        clock=clock,
        record=records.event,
        count=metrics.batch_lines,
    )
    metrics.watch("batches_open", "Batches that have not ended.", lambda: work.num_open)
    metrics.watch("batch_lines_waiting", "Their lines without an outcome.", lambda: work.num_lines_waiting)
    metrics.watch(
        "batch_backlog_seconds",
        "How long those will take at the measured drain; NaN: none was measured yet.",
        lambda: float("nan") if (seconds := work.backlog_seconds()) is None else seconds,
    )
    offer = BatchOffer(endpoints=tuple(readers), days=settings.batch_days)
    return work, BatchApi(offer, kept, files, counts, work, clock=clock)
