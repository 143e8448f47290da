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
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from headrace.clock import Clock
from headrace.errors import InvalidInput, reason_of
from headrace.inbox.backlog import Backlog
from headrace.inbox.erasing import erase_in_intake
from headrace.inbox.events import Event, Refused, event_of, lines_of, read_event
from headrace.inbox.finished import FinishedWindows
from headrace.inbox.intake import CampaignStanding, Intake, IntakeFull
from headrace.inbox.log import LogUnavailable
from headrace.inbox.quotas import Quotas
from headrace.inbox.rules import NUM_EVENTS_MAX, InboxRules, campaigns_of_files
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.byte_room import ByteRoom
from headrace.serving.gateway.http_messages import Request, json_body
from headrace.serving.gateway.inbox_results import ResultStreams
from headrace.serving.gateway.inbox_webhook import WebhookSender
from headrace.serving.gateway.limits import CountedStreams
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready, overloaded
from headrace.serving.service import Limits
from headrace.store.objects import ObjectStore

# Of one request: 1,000 events of 8 KiB.
REQUEST_BYTES_MAX = 8 * 2**20
# Of all requests that are being read or written. Their events take about three times as much.
_BYTES_UNDER_WAY_MAX, _WAITING_SECONDS_MAX = 16 * 2**20, 10.0
# Parsing so many takes about a millisecond; then others have their turn.
_NUM_A_TURN = 50
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
        self.results = ResultStreams(store, self._rules, counted=CountedStreams(limits), records=records)
        self._room = ByteRoom(_BYTES_UNDER_WAY_MAX, _WAITING_SECONDS_MAX)
        self._count = metrics.inbox_events
        metrics.watch_inboxes(self._figures)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the requests, each until it is cancelled."""
        return [self._keep_looking(), *(sender.run() for sender in self._senders.values())]

    async def _keep_looking(self) -> None:
        """Follows what is worked off, finished and erased, until it is cancelled; one that hangs stops only this."""
        thread, told = DaemonThreads(1, "backlog"), dict[str, str]()
        looks = {"": self._erase} | {campaign: partial(self._look, campaign) for campaign in self._rules}
        while True:
            for campaign, look in looks.items():
                try:
                    is_news = await asyncio.get_running_loop().run_in_executor(thread, look)
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

    def _erase(self) -> bool:
        """Has the log carry out the store's erasures; no campaign has news by that."""
        for number, num_events in erase_in_intake(self._store, self._clock, self._intake):
            self._records.event("inbox erased", erasure=number, num_events=num_events)
        return False

    async def serve(self, request: Request) -> None:
        """Answers one request, whose key is known.

        Raises:
            Refusal: nothing of it was taken.
        """
        length = request.headers.get(b"content-length", b"")
        num_bytes = min(int(length), REQUEST_BYTES_MAX) if length.isdigit() else REQUEST_BYTES_MAX
        async with self._room.room_for(num_bytes):
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
        body = {"object": "events", "taken": taken[True], "repeated": taken[False], "refused": refused}
        await request.respond(200, json_body(body), request.answer_headers)

    async def _outcomes(self, request: Request) -> tuple[bool, list[Refused | bool]]:
        """Whether it is one event alone; of each event True: taken, False: it was before, or why it is refused."""
        body = await request.body(REQUEST_BYTES_MAX)
        kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_alone, read = _reader_of(body, kind, tenant=request.key or "")
        outcomes: list[Refused | bool] = []
        events: list[Event] = []
        places: list[int] = []
        for number in range(len(read)):
            if number and number % _NUM_A_TURN == 0:
                await asyncio.sleep(0)
            event = read[number]()
            refused = event if isinstance(event, Refused) else self._refusal_of(event)
            outcomes.append(refused or True)
            if refused is None and isinstance(event, Event):
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
        except IntakeFull as error:
            message = "More events wait for the disk than it takes in some seconds; come back later."
            raise overloaded(message, retry_after_seconds=1.0, detail=str(error)) from error
        except LogUnavailable as error:
            message = "The events could not be kept, none of them; send them again later."
            raise not_ready(message, code="inbox_unavailable", detail=str(error)) from error

    def _refusal_of(self, event: Event) -> Refused | None:
        """Why the event cannot be taken now; None: it can."""
        rules = self._rules.get(event.campaign)
        if rules is None:
            return Refused(f"campaign {event.campaign!r} takes no events here; {', '.join(self._rules)} does")
        limit = rules.backlog_seconds.get(event.event_class)  # pyright: ignore[reportArgumentType]
        seconds = self._backlog_seconds(event.campaign)
        if limit is None or seconds is None or seconds <= limit:
            return self._quota_refusal(event)
        return Refused(
            f"{event.event_class} events of {event.campaign} have to wait: working off those before them takes "
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
        standing = self._intake.standings.get(campaign, CampaignStanding())
        return self._backlogs[campaign].seconds(standing.num_waiting)

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


def _reader_of(body: bytes, kind: bytes, *, tenant: str) -> tuple[bool, list[Callable[[], Event | Refused]]]:
    """Whether it is one event alone, and a reader of each event.

    Raises:
        Refusal: it is no JSON, or has too many events or none.
    """
    if kind in _LINES:
        lines = lines_of(body)
        _check_number(len(lines))
        return False, [lambda line=line: read_event(line, tenant=tenant) for line in lines]
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
        return False, [lambda one=one: event_of(one, tenant=tenant) for one in content]
    return True, [lambda: event_of(content, tenant=tenant)]


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
