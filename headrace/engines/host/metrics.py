"""A host's table as figures in Prometheus's text form. Models are labelled by what they are for people, and by their
key's first characters."""

from collections.abc import Iterator

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from headrace.engines.host.table_view import ModelRow, Table

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SHORT = 12
# Name, meaning, the row's field.
_GAUGES = (
    ("state_seconds", "How long it has been in that state.", "state_seconds"),
    ("memory_mib", "What its process held when it was measured last.", "mib"),
    ("reserved_mib", "What it has of the place's memory.", "reserved_mib"),
    ("shared_mib", "Of that, files that others have mapped, too: they are in memory once.", "shared_mib"),
    ("kept", "1: a live service keeps it.", "is_kept"),
    ("bring_seconds", "How long it took to come the last time.", "bring_seconds"),
    ("wake_seconds", "How long it took to wake the last time.", "wake_seconds"),
    ("next_out", "1: the first to leave if another needs room.", "next_out"),
)
# The same, by class: live, flex or batch.
_BY_CLASS = (
    ("at_work", "Requests that it answers now.", "at_work_by_class"),
    ("waiting", "Requests that it is not here for yet, or that give way to others.", "waiting_by_class"),
)
_COUNTERS = (
    ("hits", "Requests that it was here for.", "hits"),
    ("loads", "How often it was loaded.", "loads"),
    ("wakes", "How often it was woken.", "wakes"),
)
_LABELS = ("model", "key", "place")


def page(table: Table) -> bytes:
    """All of `families`, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Rows(table))
    return generate_latest(registry)


class _Rows(Collector):
    def __init__(self, table: Table) -> None:
        self._table = table

    def collect(self) -> Iterator[Metric]:
        return families(self._table)


def families(table: Table) -> Iterator[Metric]:
    """Every metric of a host, with the samples of this table: also those of which it has none."""
    for name, meaning, field in (
        ("memory_mib", "Memory for all models of a place together.", "mib"),
        (
            "promised_mib",
            "Of it, promised to models that are here, come or leave, or sleep elsewhere; what is shared, once.",
            "reserved_mib",
        ),
    ):
        gauge = GaugeMetricFamily(f"headrace_host_place_{name}", meaning, labels=("place",))
        for account in table.accounts:
            gauge.add_metric((account.place,), getattr(account, field))
        yield gauge
    state = GaugeMetricFamily("headrace_host_model_state", "1: it is in this state.", labels=(*_LABELS, "state"))
    for row in table.data:
        state.add_metric((*_labels(row), row.state), 1)
    yield state
    for name, meaning, field in _GAUGES:
        gauge = GaugeMetricFamily(f"headrace_host_model_{name}", meaning, labels=_LABELS)
        for row in table.data:
            if (value := getattr(row, field)) is not None:
                gauge.add_metric(_labels(row), float(value))
        yield gauge
    for name, meaning, field in _BY_CLASS:
        gauge = GaugeMetricFamily(f"headrace_host_model_{name}", meaning, labels=(*_LABELS, "class"))
        for row in table.data:
            for work_class, num in getattr(row, field).items():
                gauge.add_metric((*_labels(row), work_class), num)
        yield gauge
    for name, meaning, field in _COUNTERS:
        counter = CounterMetricFamily(f"headrace_host_model_{name}", meaning, labels=_LABELS)
        for row in table.data:
            counter.add_metric(_labels(row), getattr(row, field))
        yield counter


def _labels(row: ModelRow) -> tuple[str, str, str]:
    return row.model, row.id[:_SHORT], row.place
