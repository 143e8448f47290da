"""The gateway's figures in Prometheus's form, in their own registry. Version sets are labelled by 12 characters.

Labels have few values on purpose: a set, a role, an outcome. Units and sessions are in the log.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:  # only a gateway with an inbox loads it, and Arrow with it
    from headrace.inbox.events import Event

# A cached answer or an echo takes milliseconds, a large model's long answer takes minutes.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SHORT = 12
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()


class Metrics:
    def __init__(self) -> None:
        # It would add an unused series for each of ours.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of_units = ("version_set", "reason", "status")
        self._units = self._counter(
            "units", "Units of work that ended, by set, reason of the pin and status.", of_units
        )
        self._unit_seconds = self._histogram("unit_seconds", "From the pin to the last byte.", ("version_set",))
        self._first_piece = self._histogram("first_piece_seconds", "From the pin to the first piece.", ("version_set",))
        self._step_seconds = self._histogram("step_seconds", "One role's answer.", ("version_set", "role"))
        self._tokens = self._counter("output_tokens", "Tokens made, by set and role.", ("version_set", "role"))
        self._refused = self._counter("refused_requests", "Requests that never became a unit, by status.", ("status",))
        self._cut = self._counter("cut_connections", "Connections that were ended, by reason.", ("reason",))
        self._shadows = self._counter("shadow_units", "Copies sent to the candidate, by outcome.", ("outcome",))
        self._judgements = self._counter("judgements", "Answers given to the judge, by outcome.", ("outcome",))
        self._preparations = self._counter("preparations", "Sets prepared here, by outcome.", ("outcome",))
        self._judged = self._histogram(
            "judged_quality", "Scores from 0 to 1.", ("version_set",), buckets=tuple(tenth / 10 for tenth in range(11))
        )
        self._events = self._counter(
            "inbox_events", "Events by campaign and outcome: taken, or repeated.", ("campaign", "outcome")
        )
        self._batch_lines = self._counter(
            "batch_lines", "Lines of batches that were settled, by outcome.", ("outcome",)
        )
        self._deliveries = self._counter(
            "inbox_deliveries",
            "Attempts to send a result to a webhook: delivered, failed, refused, or gone (no result is wanted).",
            ("campaign", "verdict"),
        )
        self._missing = self._counter(
            "inbox_missing_messages",
            "Messages that streams had lost before they were read.",
            ("campaign",),
        )
        # One dictionary look-up instead of prometheus_client's own, which builds a tuple of texts under a lock.
        self._unit_child = cache(lambda key, *labels: self._units.labels(key[:_SHORT], *labels))
        self._pair = cache(
            lambda key: (self._unit_seconds.labels(key[:_SHORT]), self._first_piece.labels(key[:_SHORT]))
        )
        self._events_child = cache(lambda campaign, new: self._events.labels(campaign, "taken" if new else "repeated"))
        self._step_pair = cache(
            lambda key, role: (self._step_seconds.labels(key[:_SHORT], role), self._tokens.labels(key[:_SHORT], role))
        )

    def unit(self, version_set: str, reason: str, status: int, seconds: float, first_piece: float | None) -> None:
        self._unit_child(version_set, reason, str(status)).inc()
        whole, first = self._pair(version_set)
        whole.observe(seconds)
        if first_piece is not None:
            first.observe(first_piece)

    def step(self, version_set: str, role: str, seconds: float, num_tokens: int | None) -> None:
        duration, tokens = self._step_pair(version_set, role)
        duration.observe(seconds)
        tokens.inc(num_tokens or 0)

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def cut(self, reason: str) -> None:
        self._cut.labels(reason).inc()

    def shadow(self, outcome: str) -> None:
        self._shadows.labels(outcome).inc()

    def judgement(self, outcome: str) -> None:
        self._judgements.labels(outcome).inc()

    def judged(self, version_set: str, score: float) -> None:
        self._judged.labels(version_set[:_SHORT]).observe(score)

    def prepared(self, outcome: str) -> None:
        self._preparations.labels(outcome).inc()

    def inbox_events(self, events: "Sequence[Event]", is_new: Sequence[bool]) -> None:
        if len(events) == 1:  # most requests: a tally costs more than the rest
            self._events_child(events[0].campaign, is_new[0]).inc()
            return
        tally = Tally((event.campaign, new) for event, new in zip(events, is_new, strict=True))
        for (campaign, new), number in tally.items():
            self._events_child(campaign, new).inc(number)

    def batch_lines(self, outcome: str, number: int) -> None:
        self._batch_lines.labels(outcome).inc(number)

    def inbox_deliveries(self, campaign: str, verdict: str) -> None:
        self._deliveries.labels(campaign, verdict).inc()

    def inbox_missing(self, campaign: str, number: int) -> None:
        self._missing.labels(campaign).inc(number)

    def watch_inboxes(self, read: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        """Adds figures of inboxes: campaign → name → value, computed when the metrics are requested."""
        self.registry.register(_Inboxes(read))

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Adds a figure that is computed when the metrics are requested."""
        Gauge(f"headrace_gateway_{name}", meaning, registry=self.registry).set_function(read)

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"headrace_gateway_{name}", meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(f"headrace_gateway_{name}", meaning, labels, registry=self.registry, buckets=buckets)


_INBOX = {
    "unsealed_events": "Events that are taken and in no sealed window yet.",
    "waiting_events": "Events that are not worked off, in sealed windows or not.",
    "lag_seconds": "How long the oldest event or window that waits has waited.",
    "backlog_seconds": "Seconds that waiting events take at the measured drain; NaN: some wait, none was measured yet.",
    "undelivered_results": "Results that a webhook has not taken yet, and that are tried again.",
    "given_up_results": "Results that no webhook has taken, and that nobody tries any more.",
    "delivering": "1: results are sent to the webhook. 0: its receiver takes none now; the log says why.",
    "stream_messages": "Messages of the campaign's stream that are not read; NaN: nobody knows yet.",
    "stream_refused_messages": "Messages of the stream that are no events, and are kept: `headrace inbox refused`.",
    "stream_reading": "1: the stream is read. 0: not now; the log says why.",
    "sealing": "1: windows are sealed. 0: they are not any more; the log says why.",
}


class _Inboxes:
    def __init__(self, read: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        figures = self._read()
        for name, meaning in _INBOX.items():
            family = GaugeMetricFamily(f"headrace_gateway_inbox_{name}", meaning, labels=["campaign"])
            for campaign, values in figures.items():
                if name in values:
                    family.add_metric([campaign], values[name])
            yield family
