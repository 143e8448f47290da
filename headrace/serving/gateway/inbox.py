"""`POST /v1/events`: events of campaigns, taken for good once they are answered. See docs/inbox.md.

A body is one event in JSON, a JSON list of events, or lines of JSON (`Content-Type: application/x-ndjson`), at most
1,000. Each event is judged by itself: what is broken, or comes while its class has to wait, is in the answer's list of
refused ones, with its index and the reason, and everything else is on the disk. A request of one event alone that is
refused gets the error itself.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from headrace.clock import Clock
from headrace.errors import InvalidInput, reason_of
from headrace.inbox.backlog import Backlog
from headrace.inbox.events import Event, Refused, event_of, lines_of, read_event, usual_event
from headrace.inbox.finished import FinishedWindows
from headrace.inbox.intake import CampaignStanding, Intake, IntakeFull
from headrace.inbox.log import LogUnavailable
from headrace.inbox.quotas import Quotas
from headrace.inbox.rules import NUM_EVENTS_MAX, InboxRules, campaigns_of_files
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.byte_room import SharedRoom
from headrace.serving.gateway.http_messages import JSON, Request, json_body
from headrace.serving.gateway.http_protocol import Answer
from headrace.serving.gateway.inbox_results import ResultStreams
from headrace.serving.gateway.inbox_webhook import WebhookSender
from headrace.serving.gateway.limits import CountedStreams
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready, overloaded
from headrace.serving.service import Limits
from headrace.store.objects import ObjectStore

if TYPE_CHECKING:
    from headrace.serving.gateway.inbox_nats import StreamReader

# Of one request: 1,000 events of 8 KiB.
REQUEST_BYTES_MAX = 8 * 2**20
# Of all requests that are being read or written, and of one client's. Their events take about three times as much.
_BYTES_UNDER_WAY_MAX, _ONES_BYTES_MAX, _WAITING_SECONDS_MAX = 16 * 2**20, 8 * 2**20, 10.0
# Reading so many takes about a millisecond; then others have their turn.
_NUM_A_TURN = 200
# Of an event that is read where its connection is: a few microseconds.
_ONE_BYTES_MAX = 16 * 1_024
_LOOK_SECONDS = 5.0
_RETRY_SECONDS_MAX = 3_600.0
_LINES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")


class Inbox:
    """The inboxes of one gateway. In its event loop."""

    def __init__(
        self,
        rules: Mapping[str, InboxRules],
        backlogs: Mapping[str, Backlog],
        intake: Intake,
        store: ObjectStore,
        *,
        limits: Limits,
        clock: Clock,
        records: Records,
        metrics: Metrics,
    ) -> None:
        """Args: rules: of the campaigns that the intake takes events for."""
        self._rules, self._backlogs, self._intake = rules, backlogs, intake
        self._store, self._clock, self._records = store, clock, records
        self._finished = {
            name: FinishedWindows(store, name, clock, keeps_late=rules.late == "keep")
            for name, rules in self._rules.items()
        }
        self._quotas = {name: Quotas(name, rules.tenants) for name, rules in self._rules.items() if rules.tenants}
        self._standings: dict[str, CampaignStanding] = {}
        self._senders = {
            name: WebhookSender(
                intake.directory,
                store,
                name,
                rules.results.webhook,
                environment=os.environ,
                clock=clock,
                records=records,
                count=metrics.inbox_deliveries,
            )
            for name, rules in self._rules.items()
            if rules.results.webhook is not None
        }
        self._readers = self._readers_of_streams(records, metrics)
        self.results = ResultStreams(store, self._rules, counted=CountedStreams(limits), records=records)
        self._room = SharedRoom(_BYTES_UNDER_WAY_MAX, _WAITING_SECONDS_MAX, one_bytes_max=_ONES_BYTES_MAX)
        self._count = metrics.inbox_events
        metrics.watch_inboxes(self._figures)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the requests, each until it is cancelled."""
        work = [*self._senders.values(), *self._readers.values()]
        return [self._keep_looking(), *(one.run() for one in work)]

    def _readers_of_streams(self, records: Records, metrics: Metrics) -> "dict[str, StreamReader]":
        """Raises: InvalidInput: what they need is not installed, or not there."""
        streams = {name: rules.nats for name, rules in self._rules.items() if rules.nats is not None}
        if not streams:
            return {}
        try:
            from headrace.serving.gateway.inbox_nats import StreamReader
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"Events of {', '.join(streams)} are read from NATS, which needs {error.name}, and it is not "
                "installed. Run pip install 'headrace[nats]'."
            ) from error
        return {
            name: StreamReader(
                name,
                stream,
                self._intake,
                refusal_of=lambda event: (
                    self._refusal_of(event.campaign, event.event_class) or self._quota_refusal(event)
                ),
                environment=os.environ,
                clock=self._clock,
                records=records,
                metrics=metrics,
            )
            for name, stream in streams.items()
        }

    async def _keep_looking(self) -> None:
        """Follows what is worked off and finished, until it is cancelled; one that hangs stops only this."""
        thread, told = DaemonThreads(1, "backlog"), dict[str, str]()
        while True:
            for campaign in self._rules:
                try:
                    is_news = await asyncio.get_running_loop().run_in_executor(thread, self._look, campaign)
                    told[campaign] = ""
                    if is_news:
                        self.results.tell(campaign)
                        if campaign in self._senders:
                            self._senders[campaign].wake()
                except Exception as error:  # noqa: BLE001 (the next look goes on)
                    if (reason := reason_of(error)) != told.get(campaign):
                        told[campaign] = reason
                        self._records.event("store not looked at", campaign=campaign, error=reason)
            await asyncio.sleep(_LOOK_SECONDS)

    def _look(self, campaign: str) -> bool:
        """Whether further windows of it are finished."""
        self._backlogs[campaign].look()
        return self._finished[campaign].look() > 0

    async def serve(self, request: Request) -> None:
        """Answers one request, whose key is known.

        Raises:
            Refusal: nothing of it was taken.
        """
        length = request.headers.get(b"content-length", b"")
        num_bytes = min(int(length), REQUEST_BYTES_MAX) if length.isdigit() else REQUEST_BYTES_MAX
        async with self._room.room_of(request.key or "", num_bytes):
            is_alone, outcomes = await self._outcomes(request)
        if is_alone and isinstance(alone := outcomes[0], Refused):
            raise _refusal(alone)
        refused = [
            {"index": index, "reason": outcome.reason, "retry_after_seconds": outcome.retry_after_seconds}
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, Refused)
        ]
        waits = [one["retry_after_seconds"] for one in refused if one["retry_after_seconds"] is not None]
        if len(waits) == len(outcomes):
            reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)}
            said = "All of these have to wait" if len(reasons) > 1 else reasons.pop()
            raise _refusal(Refused(f"{said}; come back later.", max(waits)))
        taken = Counter(outcome for outcome in outcomes if isinstance(outcome, bool))
        await request.respond(200, _said(taken, refused), request.answer_headers)

    def take_one(self, request: Request, body: bytes, answer: Answer, refuse: Callable[[Exception], None]) -> bool:
        """Takes a request whose body is one usual event, and answers it once that is on the disk.

        Returns: False: nothing was done, and `serve` has to look at it.
        """
        if len(body) > _ONE_BYTES_MAX or _kind_of(request) in _LINES:
            return False
        event = usual_event(body, tenant=request.key or "")
        if event is None or self._refusal_of(event.campaign, event.event_class) or not self._room.take_now(len(body)):
            return False
        try:
            taking = None if self._quota_refusal(event) else self._intake.begin([event])
        except LogUnavailable:
            taking = None
        if taking is None:
            self._room.give_back(len(body))
            return False

        def answer_it(taken: "asyncio.Future[list[bool]]") -> None:
            self._room.give_back(len(body))
            if taken.cancelled():
                return
            if isinstance(error := taken.exception(), LogUnavailable):
                refuse(_not_kept(error))
                return
            self._count([event], taken.result())
            answer(_said({taken.result()[0]: 1}, []), [*request.answer_headers, JSON])

        taking.add_done_callback(answer_it)
        return True

    async def _outcomes(self, request: Request) -> tuple[bool, list[Refused | bool]]:
        """Whether it is one event alone; of each event True: taken, False: it was before, or why it is refused."""
        body = await request.body(REQUEST_BYTES_MAX)
        is_alone, read = _events_of(body, _kind_of(request), tenant=request.key or "")
        outcomes: list[Refused | bool] = []
        events: list[Event] = []
        places: list[int] = []
        # Campaign and class → why they have to wait: the same for a whole request.
        waits: dict[tuple[str, str], Refused | None] = {}
        for number, event in enumerate(read):
            if number and number % _NUM_A_TURN == 0:
                await asyncio.sleep(0)
            if isinstance(event, Refused):
                outcomes.append(event)
                continue
            named = (event.campaign, event.event_class)
            if named not in waits:
                waits[named] = self._refusal_of(*named)
            refused = waits[named] or self._quota_refusal(event)
            outcomes.append(refused or True)
            if refused is None:
                events.append(event)
                places.append(number)
        if events:
            for place, is_new in zip(places, await self._take(events), strict=True):
                outcomes[place] = is_new
            self._count(events, [bool(outcomes[place]) for place in places])
        return is_alone, outcomes

    async def _take(self, events: list[Event]) -> list[bool]:
        try:
            return await self._intake.take(events)
        except LogUnavailable as error:
            raise _not_kept(error) from error

    def _refusal_of(self, campaign: str, event_class: str) -> Refused | None:
        """Why such events cannot be taken now; None: they can."""
        rules = self._rules.get(campaign)
        if rules is None:
            return Refused(f"campaign {campaign!r} takes no events here; {', '.join(self._rules)} does")
        limit = rules.backlog_seconds.get(event_class)  # pyright: ignore[reportArgumentType]
        seconds = self._backlog_seconds(campaign)
        if limit is None or seconds is None or seconds <= limit:
            return None
        return Refused(
            f"{event_class} events of {campaign} have to wait: working off those before them takes "
            f"{seconds:.0f} s, the limit is {limit:.0f} s",
            min(max(seconds - limit, 1.0), _RETRY_SECONDS_MAX),
        )

    def _quota_refusal(self, event: Event) -> Refused | None:
        """Why its tenant has to wait; None: it does not, and the event counts."""
        quotas = self._quotas.get(event.campaign)
        if quotas is None:
            return None
        backlog, standing = self._backlogs[event.campaign], self._intake.standings.get(event.campaign)
        if standing is not None and standing is not self._standings.get(event.campaign):
            self._standings[event.campaign] = standing
            quotas.look(Counter(standing.tenants) + Counter(backlog.tenants))
        return quotas.refusal(event.tenant, time.monotonic(), backlog.drain)

    def _backlog_seconds(self, campaign: str) -> float | None:
        standing = self._intake.standings.get(campaign)
        return self._backlogs[campaign].seconds(standing.num_waiting if standing else 0)

    def _figures(self) -> dict[str, dict[str, float]]:
        """Campaign → figure → value."""
        now, figures = self._clock.now(), dict[str, dict[str, float]]()
        for campaign, backlog in self._backlogs.items():
            standing = self._intake.standings.get(campaign, CampaignStanding())
            oldest = min(filter(None, (standing.oldest, backlog.oldest)), default=None)
            seconds = self._backlog_seconds(campaign)
            figures[campaign] = {
                "unsealed_events": standing.num_waiting,
                "waiting_events": standing.num_waiting + backlog.num_events,
                "lag_seconds": 0.0 if oldest is None else max(now - oldest, 0.0),
                "backlog_seconds": float("nan") if seconds is None else seconds,
                "sealing": 0.0 if standing.stopped else 1.0,
            }
            if campaign in self._senders:
                figures[campaign] |= self._senders[campaign].figures()
            if campaign in self._readers:
                figures[campaign] |= self._readers[campaign].figures()
        return figures


def rules_of(directory: Path) -> dict[str, InboxRules]:
    """The campaigns of a directory that take events.

    Raises: InvalidInput: none does, or nobody can tell which do.
    """
    found = campaigns_of_files(directory)
    if found.problems:
        raise InvalidInput("\n  ".join(found.problems))
    rules = {campaign.name: campaign.rules for campaign in found if campaign.rules is not None}
    if not rules:
        there = ", ".join(campaign.name for campaign in found) or "none"
        raise InvalidInput(
            f"No campaign in {directory} takes events (campaigns there: {there}). Give one a section prompts.inbox, or "
            "leave --inbox out."
        )
    return rules


def _events_of(body: bytes, kind: bytes, *, tenant: str) -> tuple[bool, Iterable[Event | Refused]]:
    """Whether it is one event alone, and the events, each read when it is asked for.

    Raises:
        Refusal: it is no JSON, or has too many events or none.
    """
    if kind in _LINES:
        lines = lines_of(body)
        _check_number(len(lines))
        return False, (read_event(line, tenant=tenant) for line in lines)
    if body.startswith(b"{") and (event := usual_event(body, tenant=tenant)) is not None:
        return True, [event]
    try:
        content: Any = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(
            f"The request's body must be an event in JSON, or with Content-Type application/x-ndjson an event a line: "
            f"{error}.",
            code="invalid_json",
        ) from None
    if isinstance(content, list):
        _check_number(len(content))
        return False, (event_of(one, tenant=tenant) for one in content)
    return True, [event_of(content, tenant=tenant)]


def _kind_of(request: Request) -> bytes:
    return request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _said(taken: Mapping[bool, int], refused: list[dict[str, Any]]) -> bytes:
    """The answer. Args: taken: how many of the events were (True), and had been before (False)."""
    new, repeated = taken.get(True, 0), taken.get(False, 0)
    return json_body({"object": "events", "taken": new, "repeated": repeated, "refused": refused})


def _not_kept(error: LogUnavailable) -> Refusal:
    if isinstance(error, IntakeFull):
        message = "More events wait for the disk than it takes in some seconds; come back later."
        return overloaded(message, retry_after_seconds=1.0, detail=str(error))
    message = "The events could not be kept, none of them; send them again later."
    return not_ready(message, code="inbox_unavailable", detail=str(error))


def _check_number(num_events: int) -> None:
    if num_events == 0:
        raise invalid("The request has no event; send at least one.")
    if num_events > NUM_EVENTS_MAX:
        raise Refusal(
            413,
            f"A request may have {NUM_EVENTS_MAX:,} events, got {num_events:,}; send them in several requests.",
            code="request_too_large",
        )


def _refusal(refused: Refused) -> Refusal:
    if refused.retry_after_seconds is not None:
        return overloaded(refused.reason, retry_after_seconds=refused.retry_after_seconds)
    return invalid(f"The event was not taken: {refused.reason}.")
