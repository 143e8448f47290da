"""Which results go to a campaign's webhook next, and what becomes of them: each at least once, none left out.

Results are taken in the order of `headrace.inbox.finished`, several at once. One that its receiver does not take is put
aside, durably, and tried again later, so that the others go on. What was taken and not settled when a process was
killed is taken again: its id is the same.

| the receiver | what it means | what follows |
|---|---|---|
| 2xx | it has the result | |
| 400, 413, 414, 415, 422 | it never wants this result | given up at once |
| 410 | it wants no result any more | nothing is sent until the gateway starts again |
| no answer in time, no connection, any other status | it cannot now | tried again |

A further attempt comes after 2 s, then twice as long each time, up to an hour, or as long as the receiver asks
(`Retry-After`); a result that was first tried `give_up_seconds` ago is given up.

After three new results in a row that failed the receiver counts as away: one result at a time is tried, an old and a
new one by turns, after a second, then twice as long each time, up to a minute. When one is taken, everything goes on at
once. So an outage costs a result nothing unless it was tried before or during it, and outlives `give_up_seconds`; and
results that only fail for themselves, however many, let new ones pass.

Used from one thread.
"""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic_core import to_json

from headrace.errors import HandoffCorrupt, HandoffMissing, reason_of
from headrace.handoff.erasures import Erasures
from headrace.inbox.delivery_tables import DeliveryTables, Undelivered
from headrace.inbox.feed import PlacedResult, Position, ResultFeed
from headrace.inbox.rules import Webhook
from headrace.inbox.webhook import message_id
from headrace.store.objects import ObjectStore

_RETRY_SECONDS, _RETRY_SECONDS_MAX = 2.0, 3_600.0
_AWAY_FAILURES = 3
_PROBE_SECONDS, _PROBE_SECONDS_MAX = 1.0, 60.0
# A receiver that asks for more patience than this is asked again nevertheless.
_ASKED_SECONDS_MAX = 3_600.0
# Results that may be settled behind one that is not, times those that are under way: what a kill repeats, at most.
_AHEAD = 8
_IDLE_SECONDS = 1.0

Verdict = Literal["delivered", "refused", "gone", "failed"]
_REFUSED, _GONE = frozenset({400, 413, 414, 415, 422}), 410


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one attempt. `reason`: empty if it was delivered. `after_seconds`: of patience that it asked for."""

    verdict: Verdict
    reason: str = ""
    after_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One result to send. `num_attempts`: before this one. `first_at`: of the first, seconds since the epoch."""

    position: Position
    message: str
    body: bytes
    event: str
    source: str
    num_attempts: int = 0
    first_at: float | None = None


def answer_of(status: int, after_seconds: float = 0.0) -> Answer:
    """What a receiver's status means."""
    if 200 <= status < 300:
        return Answer(verdict="delivered")
    verdict: Verdict = "refused" if status in _REFUSED else "gone" if status == _GONE else "failed"
    return Answer(verdict=verdict, reason=f"the receiver answered {status}", after_seconds=after_seconds)


class Deliveries:
    """Attributes:
    problem: why the next result cannot be read; empty: it can. Those behind it wait.
    num_waiting, num_given_up: undelivered results, as of a second ago.
    """

    def __init__(
        self, directory: Path, store: ObjectStore, campaign: str, webhook: Webhook, *, draw: random.Random
    ) -> None:
        """Raises: InvalidInput, StoreRefused: the file in this directory cannot be used."""
        self.problem = ""
        self._store, self._campaign, self._webhook, self._draw = store, campaign, webhook, draw
        self._tables = DeliveryTables(directory)
        self._erasures = Erasures(store)
        self.num_waiting, self.num_given_up = self._tables.numbers(campaign)
        self._feed: ResultFeed | None = None
        # Of the feed's results, in its order: those that are not settled, and those behind them that are.
        self._line: deque[Position] = deque()
        self._settled: set[Position] = set()
        self._kept = Position()
        self._under_way: set[Position] = set()
        self._is_gone = False
        self._num_failures = self._num_probes = 0
        self._next_at = 0.0
        self._is_old_next = False
        self._counted_at, self._is_counted = 0.0, True

    @property
    def is_away(self) -> bool:
        """Whether the receiver takes nothing now."""
        return self._is_gone or self._num_failures >= _AWAY_FAILURES

    def close(self) -> None:
        self._tables.close()

    def take(self, now: float) -> list[Delivery]:
        """What is to be sent now; each of them is to be settled.

        Raises:
            StoreUnavailable, Transient: nobody can tell now.
        """
        if not self._is_counted and now >= self._counted_at + _IDLE_SECONDS:  # a million take a while
            self.num_waiting, self.num_given_up = self._tables.numbers(self._campaign)
            self._counted_at, self._is_counted = now, True
        num = self._webhook.concurrency - len(self._under_way)
        if self._is_gone or now < self._next_at or num <= 0:
            return []
        if not self.is_away:
            taken = self._old(now, num)
            taken += self._new(num - len(taken))
        elif self._under_way:
            return []
        else:
            self._is_old_next = not self._is_old_next
            taken = self._old(None, 1) if self._is_old_next else []
            taken = taken or self._new(1) or self._old(None, 1)
        self._under_way.update(one.position for one in taken)
        return taken

    def settle(self, answers: Iterable[tuple[Delivery, Answer]], now: float) -> None:
        """Keeps what came of deliveries, durably, in one transaction.

        Raises: LogUnavailable, StoreUnavailable: nothing was kept; call again with the same.
        """
        answers = list(answers)
        delivered = [one.position for one, answer in answers if answer.verdict == "delivered"]
        undelivered = [
            self._undelivered(one, answer, now) for one, answer in answers if answer.verdict in ("refused", "failed")
        ]
        settled = {*delivered, *(one.position for one in undelivered)}
        line, kept = deque(self._line), self._kept
        while line and (line[0] in settled or line[0] in self._settled):
            kept = line.popleft()
        self._tables.keep(self._campaign, kept, settled=delivered, undelivered=undelivered, is_erased=self._is_erased)
        self._line, self._kept = line, kept
        self._settled = {one for one in self._settled | settled if line and one >= line[0]}
        for one, answer in answers:
            self._under_way.discard(one.position)
            self._heed(answer, now, is_new=one.num_attempts == 0)
        self._is_counted = False

    def idle_seconds(self, now: float) -> float:
        """How long nothing is to be sent, if nothing is settled or finished meanwhile; at most a second."""
        return min(self._next_at - now, _IDLE_SECONDS) if self._next_at > now else _IDLE_SECONDS

    def _heed(self, answer: Answer, now: float, *, is_new: bool) -> None:
        match answer.verdict:
            case "gone":
                self._is_gone = True
            case "failed":
                # Those that were under way when it was lost are one failure, and each probe is another.
                self._num_probes += self.is_away and now >= self._next_at
                self._num_failures += is_new
                doubled = min(_PROBE_SECONDS * 2.0 ** min(self._num_probes, 16), _PROBE_SECONDS_MAX)
                pause = self._spread(doubled) if self.is_away else 0.0
                self._next_at = max(self._next_at, now + max(pause, min(answer.after_seconds, _ASKED_SECONDS_MAX)))
            case "delivered" | "refused":
                if self.is_away and not self._is_gone:
                    self._tables.try_now(self._campaign, now)
                self._num_failures, self._num_probes, self._next_at = 0, 0, 0.0

    def _undelivered(self, one: Delivery, answer: Answer, now: float) -> Undelivered:
        first_at = now if one.first_at is None else one.first_at
        pause = min(_RETRY_SECONDS * 2.0 ** min(one.num_attempts, 16), _RETRY_SECONDS_MAX)
        next_at = now + max(self._spread(pause), min(answer.after_seconds, _ASKED_SECONDS_MAX))
        return Undelivered(
            campaign=self._campaign,
            position=one.position,
            event=one.event,
            source=one.source,
            num_attempts=one.num_attempts + 1,
            first_at=first_at,
            next_at=next_at,
            is_given_up=answer.verdict == "refused" or now - first_at >= self._webhook.give_up_seconds,
            reason=answer.reason,
        )

    def _is_erased(self, one: Undelivered) -> bool:
        return self._erasures.all().has("event", one.campaign, one.source, one.event)

    def _spread(self, seconds: float) -> float:
        """Half of it at least: what failed together does not come together."""
        return seconds * self._draw.uniform(0.5, 1.0)

    def _new(self, num: int) -> list[Delivery]:
        """From the feed, as many as may be settled out of order."""
        num = min(num, _AHEAD * self._webhook.concurrency - len(self._line))
        if num <= 0:
            return []
        feed, found = self._opened(), list[PlacedResult]()
        try:
            while len(found) < num:
                before = feed.position
                found += feed.read(num - len(found))
                if feed.position == before:
                    break
            self.problem = ""
        except (HandoffCorrupt, HandoffMissing) as error:
            self.problem = reason_of(error)
        self._line.extend(one.position for one in found)
        return [_delivery(one) for one in found]

    def _opened(self) -> ResultFeed:
        if self._feed is None:
            position = self._tables.position(self._campaign)
            feed = ResultFeed(self._store, self._campaign, position or Position())
            if position is None:
                if self._webhook.begins == "now":
                    feed.position = Position(feed.newest() + 1)
                # At once: what is finished from now on is sent, however often this process is killed.
                self._tables.keep(self._campaign, feed.position)
            self._kept, self._feed = feed.position, feed
        return self._feed

    def _old(self, now: float | None, num: int) -> list[Delivery]:
        """Undelivered ones whose time has come; `now` None: whatever their time is."""
        found: list[Delivery] = []
        lost: list[Undelivered] = []
        erased: list[Position] = []
        for one in self._tables.waiting(self._campaign, num + len(self._under_way)):
            if len(found) == num or one.position in self._under_way or (now is not None and one.next_at > now):
                continue
            try:
                placed = ResultFeed(self._store, self._campaign, _before(one.position)).read(1)
                if placed and placed[0].position == one.position:
                    found.append(_delivery(placed[0], num_attempts=one.num_attempts, first_at=one.first_at))
                else:
                    erased.append(one.position)
            except (HandoffCorrupt, HandoffMissing) as error:
                lost.append(replace(one, is_given_up=True, reason=f"it cannot be read: {reason_of(error)}"))
        if lost or erased:
            self._tables.keep(self._campaign, self._kept, settled=erased, undelivered=lost, is_erased=self._is_erased)
        return found


def _before(position: Position) -> Position:
    return Position(position.finished, position.event - 1)


def _delivery(placed: PlacedResult, *, num_attempts: int = 0, first_at: float | None = None) -> Delivery:
    result = placed.result
    # The same bytes at every attempt: the position's window names its rows and their review.
    body = to_json(
        {
            "type": "event.result",
            "timestamp": placed.finished_at,
            "data": {"position": str(placed.position), **vars(result)},
        }
    )
    return Delivery(
        position=placed.position,
        message=message_id(result),
        body=body,
        event=result.event,
        source=result.source,
        num_attempts=num_attempts,
        first_at=first_at,
    )
