"""Replicas, turns and time made up: drives a dispatcher as the engine does, thousands of times faster.

A replica works on as many turns at once as it has slots, first on the prompt, then token by token; others wait in it.
It may be slow, silent for a while, dead for a while (connections are refused, turns under way break), or say that it is
busy.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.engines.asker import Asker
from headrace.engines.dispatch.dispatcher import Dispatcher
from headrace.engines.dispatch.replica import Ticket, TurnState
from headrace.engines.dispatch.settings import DispatchSettings

TICK_SECONDS = 0.05
STEP_TOKENS = 16


@dataclass(eq=False)
class SimulatedReplica:
    """Spans of time in seconds: `silent` and `dead`."""

    token_seconds: float = 0.00125
    prompt_character_seconds: float = 0.0
    num_slots: int = 8
    # Until its model is there once it is asked for, and what it says of that.
    cold_seconds: float = 0.0
    said_seconds: float = 0.0
    there_at: float | None = None
    silent: list[tuple[float, float]] = field(default_factory=list)
    dead: list[tuple[float, float]] = field(default_factory=list)
    busy: list[tuple[float, float]] = field(default_factory=list)
    running: set["Work"] = field(default_factory=set)
    waiting: deque["Work"] = field(default_factory=deque)
    sent_at: list[float] = field(default_factory=list)


@dataclass(eq=False)
class Work:
    """One attempt of one turn at a replica."""

    turn: "SimulatedTurn"
    replica: SimulatedReplica
    num_made: int = 0
    is_closed: bool = False


@dataclass(eq=False)
class SimulatedTurn:
    number: int
    at: float
    num_tokens: int
    streams: bool = False
    num_prompt_characters: int = 0
    asker: Asker | None = None
    ticket: Ticket | None = None
    work: Work | None = None
    num_completed: int = 0
    ended_at: float | None = None

    @property
    def seconds(self) -> float:
        assert self.ended_at is not None
        return self.ended_at - self.at


class Simulation:
    def __init__(
        self,
        replicas: list[SimulatedReplica],
        turns: list[SimulatedTurn],
        settings: DispatchSettings | None = None,
    ) -> None:
        self.now = 0.0
        self.replicas, self.turns = replicas, turns
        self.dispatcher = Dispatcher([f"r{index}" for index in range(len(replicas))], lambda: self.now, settings)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        # Sent by the dispatcher, not begun yet.
        self._sent: list[Ticket] = []
        self._turn_of: dict[Ticket, SimulatedTurn] = {}
        for turn in turns:
            self._at(turn.at, lambda turn=turn: self._enter(turn))
        for index, replica in enumerate(replicas):
            self.dispatcher.told(index, replica.said_seconds)
            for begin, _ in replica.dead:
                self._at(begin, lambda replica=replica: self._break(replica))
        self._at(0.0, self._tick)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._start_sent()
        self.now = until

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _enter(self, turn: SimulatedTurn) -> None:
        turn.ticket = self.dispatcher.enter(1024, num_prompt_characters=turn.num_prompt_characters, asker=turn.asker)
        self._turn_of[turn.ticket] = turn
        self._sent.append(turn.ticket)

    def _tick(self) -> None:
        for ticket in self.dispatcher.to_abandon():
            self._close(self._turn_of[ticket])
            self.dispatcher.closed(ticket)
        for index in self.dispatcher.probes_due():
            replica = self.replicas[index]
            is_alive = not _within(replica.dead, self.now) and not _within(replica.silent, self.now)
            self._at(self.now + 0.01, lambda index=index, alive=is_alive: self.dispatcher.probed(index, is_alive=alive))
        self._sent += self.dispatcher.assign()
        for ticket in self.dispatcher.to_give_up():
            self._turn_of[ticket].ended_at = self.now
        self._at(self.now + TICK_SECONDS, self._tick)

    def _start_sent(self) -> None:
        """Begins the attempts that the dispatcher has sent meanwhile."""
        sent = self.dispatcher.assign() + self._sent
        self._sent = []
        for ticket in sent:
            turn = self._turn_of[ticket]
            if ticket.state is TurnState.LIVE and turn.work is None:
                replica = self.replicas[ticket.replica]
                replica.sent_at.append(self.now)
                if _within(replica.dead, self.now):
                    self._fail(turn, "not_started", "refused")
                elif _within(replica.busy, self.now):
                    self._fail(turn, "busy", "429")
                else:
                    turn.work = Work(turn, replica)
                    replica.waiting.append(turn.work)
                    self._fill(replica)

    def _fill(self, replica: SimulatedReplica) -> None:
        while replica.waiting and len(replica.running) < replica.num_slots:
            work = replica.waiting.popleft()
            replica.running.add(work)
            self._step_later(work, replica.prompt_character_seconds * work.turn.num_prompt_characters)

    def _step_later(self, work: Work, prompt_seconds: float = 0.0) -> None:
        replica = work.replica
        if replica.there_at is None:
            replica.there_at = self.now + replica.cold_seconds
        due = max(self.now, replica.there_at) + prompt_seconds + STEP_TOKENS * replica.token_seconds
        for begin, end in work.replica.silent:
            if begin <= due < end:
                due = end
        self._at(due, lambda: self._step(work))

    def _step(self, work: Work) -> None:
        if work.is_closed:
            return
        turn, ticket = work.turn, work.turn.ticket
        assert ticket is not None
        work.num_made = min(turn.num_tokens, work.num_made + STEP_TOKENS)
        if work.num_made == turn.num_tokens:
            turn.num_completed += 1
            turn.ended_at = self.now
            self._close(turn)
            self.dispatcher.answered(ticket, turn.num_tokens)
            return
        self.dispatcher.heard(ticket, 4 * work.num_made)
        if turn.streams and ticket.state is TurnState.LIVE:
            self.dispatcher.give_out(ticket)
        self._step_later(work)

    def _close(self, turn: SimulatedTurn) -> None:
        work = turn.work
        assert work is not None
        turn.work, work.is_closed = None, True
        work.replica.running.discard(work)
        if work in work.replica.waiting:
            work.replica.waiting.remove(work)
        self._fill(work.replica)

    def _break(self, replica: SimulatedReplica) -> None:
        for work in [*replica.running, *replica.waiting]:
            self._close(work.turn)
            self._fail(work.turn, "broken", "reset")

    def _fail(self, turn: SimulatedTurn, kind: str, why: str) -> None:
        assert turn.ticket is not None
        if self.dispatcher.failed(turn.ticket, kind, why) is TurnState.GIVEN_UP:  # pyright: ignore[reportArgumentType]
            turn.ended_at = self.now


def poisson_turns(
    *, seed: int, rate: float, seconds: float, mean_tokens: int = 200, mean_prompt_characters: int = 0
) -> list[SimulatedTurn]:
    draw, turns, at = random.Random(seed), [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        num_tokens = max(1, min(1000, round(draw.expovariate(1 / mean_tokens))))
        # From none to twice the mean.
        num_characters = draw.randrange(2 * mean_prompt_characters + 1)
        turns.append(SimulatedTurn(len(turns), at, num_tokens, num_prompt_characters=num_characters))
    return turns


def _within(spans: list[tuple[float, float]], moment: float) -> bool:
    return any(begin <= moment < end for begin, end in spans)
