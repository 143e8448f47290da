"""`GET /v1/events/results?campaign=NAME`: results of events as server-sent events, in one order for good.

The id of each is its position. A client that comes back with the last one (`Last-Event-ID`, as browsers do by
themselves, or `after=`) goes on exactly behind it, on any gateway of this store and log. Without one it begins with the
first result; `after=now` waits for what comes. A comment every 15 seconds keeps proxies from closing the connection.

An API key reads the results of events whose tenant has its name; those that the campaign's file calls readers, and
everybody where the gateway has no keys, read all.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic_core import to_json

from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput, StoreUnavailable, Transient, reason_of
from headrace.inbox.feed import PlacedResult, Position, ResultFeed
from headrace.inbox.rules import InboxRules
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.http_messages import Request
from headrace.serving.gateway.limits import CountedStreams
from headrace.serving.gateway.openapi_events import RESULTS_QUERY
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready, overloaded
from headrace.store.objects import ObjectStore

# Results that are in memory for one client at once.
_NUM_AT_ONCE = 100
_NUM_THREADS = 2
# Proxies close what is silent for a minute, some for half of one.
_COMMENT_SECONDS = 15.0
_NOW = "now"
_T = TypeVar("_T")


class ResultStreams:
    """The streams of one gateway. Used from its event loop."""

    def __init__(
        self, store: ObjectStore, rules: Mapping[str, InboxRules], *, counted: CountedStreams, records: Records
    ) -> None:
        self._store, self._rules, self._counted, self._records = store, rules, counted, records
        self._threads = DaemonThreads(_NUM_THREADS, "results")
        # Set when there is something new, or nobody to tell it to; by campaign.
        self._waiting: dict[str, set[asyncio.Event]] = {name: set() for name in rules}
        self._is_ending = False

    def tell(self, campaign: str) -> None:
        """Further windows are finished."""
        for woken in self._waiting[campaign]:
            woken.set()

    def end(self) -> None:
        """Streams end after what they are sending; their clients come back elsewhere, or later."""
        self._is_ending = True
        for campaign in self._waiting:
            self.tell(campaign)

    async def serve(self, request: Request, *, reads_all: bool) -> None:
        """Args: reads_all: nobody needs a key here.

        Raises: Refusal: nothing was sent.
        """
        campaign, after = self._asked(request)
        key = request.key or ""
        tenant = None if reads_all or key in self._rules[campaign].results.readers else key
        if self._is_ending:
            raise not_ready("The gateway goes down; come back elsewhere, or later.", code="draining")
        if not self._counted.take(key):
            raise overloaded(
                "This key has as many streams of results as it may; end one of them.", retry_after_seconds=15.0
            )
        try:
            feed = await self._feed(campaign, after)
            await self._stream(request, feed, campaign, tenant)
        finally:
            self._counted.give_back(key)

    def _asked(self, request: Request) -> tuple[str, str]:
        """The campaign and what is asked to begin behind. Raises: Refusal: 400 or 404."""
        pairs = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True)
        query = dict(pairs)
        other = sorted(query.keys() - RESULTS_QUERY.keys())
        if len(query) < len(pairs) or other:
            wrong = repr(other[0]) if other else "one of them twice"
            raise invalid(f"The URL's query takes {' and '.join(RESULTS_QUERY)}, once each, got {wrong}.")
        campaign = query.get("campaign", "")
        if campaign not in self._rules:
            raise Refusal(
                404 if campaign else 400,
                f"campaign must name one that takes events here ({', '.join(self._rules)}), got {campaign!r:.80}.",
                param="campaign",
            )
        last = request.headers.get(b"last-event-id", b"").decode("latin-1")
        return campaign, last or query.get("after", "")

    async def _feed(self, campaign: str, after: str) -> ResultFeed:
        """Raises: Refusal: 400, or 503."""
        try:
            position = Position() if after in ("", _NOW) else Position.parse(after)
        except InvalidInput as error:
            raise invalid(str(error), param="after") from None
        feed = ResultFeed(self._store, campaign, position)
        try:
            newest = await self._in_thread(feed.newest)
        except (HandoffCorrupt, StoreUnavailable, Transient) as error:
            raise not_ready("The store does not tell results now; come back later.", detail=reason_of(error)) from error
        if after == _NOW:
            feed.position = Position(newest + 1)
        elif position.finished > newest + 1:
            raise invalid(
                f"No result of {campaign} has the id {position}: the newest begins with {newest}. It is another "
                "store's, or another campaign's.",
                param="after",
            )
        return feed

    async def _stream(self, request: Request, feed: ResultFeed, campaign: str, tenant: str | None) -> None:
        woken, lost = asyncio.Event(), asyncio.Event()

        def lose() -> None:
            lost.set()
            woken.set()

        self._waiting[campaign].add(woken)
        request.connection.when_lost = lose
        try:
            await request.start_events(request.answer_headers)
            # The head goes with the first bytes, and a client that waits for it must not wait for a result.
            await request.event(b": results\n\n")
            while not lost.is_set() and not self._is_ending:
                woken.clear()
                before = feed.position
                try:
                    found = await self._in_thread(partial(feed.read, _NUM_AT_ONCE))
                except (HandoffCorrupt, HandoffMissing, StoreUnavailable, Transient) as error:
                    self._records.event("results not read", campaign=campaign, error=reason_of(error))
                    break
                own = [one for one in found if tenant in (None, one.result.tenant)]
                if own:
                    await request.event(b"".join(map(_event, own)))
                elif feed.position != before:
                    # Others' results: the client need not be shown the same ones again when it comes back.
                    await request.event(b"id: %s\n\n" % str(feed.position).encode())
                if feed.position == before:
                    await self._wait(request, woken)
            if not lost.is_set():
                await request.event(b"", last=True)
        finally:
            request.connection.when_lost = None
            self._waiting[campaign].discard(woken)

    async def _wait(self, request: Request, woken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_COMMENT_SECONDS):
                await woken.wait()
        except TimeoutError:
            await request.event(b":\n\n")

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _event(one: PlacedResult) -> bytes:
    return b"id: %s\nevent: result\ndata: %s\n\n" % (str(one.position).encode(), to_json(one.result))
