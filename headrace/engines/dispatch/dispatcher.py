"""Decides which replica works on which turn: the one that is expected to finish it first.

Pure: it knows a clock and what it is told of turns, pieces and failures; its driver sends, reads and closes. It
promises, for any order of events:
- A turn has at most one live attempt. It is sent elsewhere only after `closed` reported that its attempt is gone.
- A turn is never sent again after a part of its answer was given out.
- Each turn is answered, given up with a reason, or left by its client. Of waiting turns live ones go first, then flex,
  then batch, but each class gets its share; tenants of a class take fair turns, and of one tenant's the oldest is next.
  But the youngest goes where a model must come, once that takes less than it would wait.

A replica whose model is not in memory may say how long it takes to come: then a turn there is expected to take so much
longer, and its silence until then means nothing.

It learns from pieces: seconds a token, seconds to the first one by the prompt's length, how many turns a replica works
on at once, and its longest silence when a sign was due. It expects answers to be as long as recent ones. It does not
know which prompts a replica has cached, nor the load that other clients put on it, except that it slows down.

Turns wait here, not in a full replica, where they would queue behind others or die with it. A replica that falls silent
gets no new turns, and then loses its turns to the others. A turn is moved if another replica has room and would finish
it much sooner, even though its work so far is lost.
"""

from collections.abc import Callable, Sequence

from headrace.engines.asker import Asker
from headrace.engines.dispatch.health import Health, Standing
from headrace.engines.dispatch.held import Held
from headrace.engines.dispatch.lengths import AnswerLengths
from headrace.engines.dispatch.prompts import PromptSeconds
from headrace.engines.dispatch.replica import Replica, Ticket, TurnState
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.openai.meaning import FailureKind
from headrace.errors import InvalidInput

# Assumed slowdown of a replica by each further turn: spreads turns over equal replicas before more is known.
_CROWDING = 0.05
# If more time passed since the last look, this process itself was delayed.
_LATE_SECONDS = 0.15
_LIVE = Asker(work_class="live")
# How long a replica with an owner's mistake (wrong key, address or model) is left alone.
_UNUSABLE_SECONDS = 5.0


class Dispatcher:
    """Serves the replicas of one model of one version set: no turn ever reaches another model."""

    def __init__(
        self,
        replicas: Sequence[str],
        clock: Callable[[], float],
        settings: DispatchSettings | None = None,
    ) -> None:
        """Args: clock: monotonic seconds.

        Raises: InvalidInput: no replica, or a duplicate.
        """
        if not replicas or len(set(replicas)) != len(replicas):
            raise InvalidInput(f"replicas must be different servers, at least one, got {list(replicas)!r}.")
        self._settings = settings or DispatchSettings()
        self._clock = clock
        self._replicas = [
            Replica(index=index, name=name, health=Health(settings=self._settings))
            for index, name in enumerate(replicas)
        ]
        self._lengths = AnswerLengths(self._settings.prior_num_tokens)
        self._prompts = PromptSeconds(self._settings.prior_first_seconds)
        self._held = Held()
        self._num_entered = 0
        self._looked_at = clock()
        # When the last usable replica was lost; None: one is usable.
        self._stranded_since: float | None = None

    @property
    def replicas(self) -> Sequence[Replica]:
        return self._replicas

    @property
    def num_held(self) -> int:
        return len(self._held)

    # --- turns ---

    def enter(
        self,
        num_tokens_max: int,
        *,
        num_prompt_characters: int = 0,
        is_in_pieces: bool = True,
        asker: Asker | None = None,
    ) -> Ticket:
        """Adds a turn; it is live at once if a replica has room and no turn waits.

        Args: asker: for whom; None: somebody who waits.
        """
        asker = asker or _LIVE
        ticket = Ticket(
            number=self._num_entered,
            num_tokens_max=num_tokens_max,
            entered_at=self._clock(),
            is_in_pieces=is_in_pieces,
            num_prompt_characters=num_prompt_characters,
            work_class=asker.work_class,
            costs=asker.tenants,
        )
        self._num_entered += 1
        self._hold(ticket)
        if len(self._held) == 1:
            self.assign()
        return ticket

    def assign(self) -> list[Ticket]:
        """Sends waiting turns, each when it is its turn, as far as replicas have room. Returns the sent ones."""
        now, sent = self._clock(), []
        self._note_stranding(now)
        while (ticket := self._held.first(now)) is not None:
            replica = self._best(ticket, now)
            if replica is None:
                break
            self._held.sent(ticket, now)
            replica.send(ticket, now)
            sent.append(ticket)
        if self._held and (replica := self._worth_bringing(now)) is not None:
            # The last one would wait for longest here.
            ticket = self._held.last()
            self._held.sent(ticket, now)
            replica.send(ticket, now)
            sent.append(ticket)
        return sent

    def heard(self, ticket: Ticket, num_characters: int) -> None:
        """Reports a sign of work on this turn: its output now has that many characters."""
        if ticket.state is not TurnState.LIVE:
            return
        now, replica = self._clock(), self._replicas[ticket.replica]
        replica.heard(now)
        num_tokens = round(num_characters * self._lengths.tokens_a_character)
        if not ticket.has_begun:
            ticket.has_begun = True
            replica.saw_begun(ticket)
            has_place = ticket.was_sent_to_idle or replica.num_slots is None or len(replica.live) <= replica.num_slots
            if has_place and not ticket.come_seconds:
                self._saw_first(replica, ticket, now)
            if replica.num_slots is not None:
                replica.num_slots = max(replica.num_slots, replica.num_begun)
        elif num_tokens > ticket.num_tokens:
            replica.rates.saw_tokens(now - ticket.heard_at, num_tokens - ticket.num_tokens, now)
        ticket.heard_at = now
        ticket.num_characters = num_characters
        ticket.num_tokens = max(ticket.num_tokens, num_tokens)

    def give_out(self, ticket: Ticket) -> None:
        """The client now gets a piece: from here on the turn is never moved."""
        assert ticket.state is TurnState.LIVE, ticket.state
        ticket.is_given_out = True

    def answered(self, ticket: Ticket, num_tokens: int) -> None:
        """The attempt returned the whole answer, with that many output tokens."""
        replica, now = self._replicas[ticket.replica], self._clock()
        if not ticket.has_begun:
            # A single piece: the time beyond a first token counts as its tokens' time.
            lateness = replica.rates.own_lateness()
            first_seconds = 0.0 if lateness is None else lateness * self._usual_seconds(ticket)
            replica.rates.saw_tokens(max(0.0, now - ticket.sent_at - first_seconds), max(1, num_tokens), now)
            replica.saw_begun(ticket)
            if ticket.was_extra and replica.num_slots is not None and self._was_not_held_up(ticket, num_tokens, now):
                replica.num_slots += 1
        replica.heard(now)
        self._lengths.add(num_tokens, ticket.num_characters)
        self._replicas[ticket.replica].release(ticket)
        ticket.state = TurnState.DONE

    def failed(
        self,
        ticket: Ticket,
        kind: FailureKind,
        why: str,
        *,
        retry_after_seconds: float | None = None,
        is_paid: bool = False,
    ) -> TurnState:
        """The attempt failed and its connection is gone. Returns the turn's new state: held, or given up.

        Args: is_paid: the replica made an answer, but an invalid one, and would charge for another.
        """
        replica, now = self._replicas[ticket.replica], self._clock()
        replica.release(ticket)
        ticket.last_failure = why
        ticket.avoided.add(ticket.replica)
        if kind == "busy":
            # Without Retry-After it is asked again once its queue has moved a little.
            replica.health.pause(now, 0.5 if retry_after_seconds is None else max(0.05, retry_after_seconds))
        elif kind == "not_started":
            replica.health.leave_alone(now, why)
        elif kind == "unusable":
            # Three in a row: one forbidden turn (some servers answer 403) must not exclude every replica.
            replica.health.struck(now, why, backoff_seconds_min=_UNUSABLE_SECONDS)
        else:
            replica.health.struck(now, why, weight=2 if kind == "broken" else 1)
            ticket.num_failures += 1
        no_better = (kind == "unusable" or is_paid) and len(ticket.avoided) == len(self._replicas)
        if ticket.is_given_out or no_better or ticket.num_failures >= self._settings.num_attempts:
            ticket.state = TurnState.GIVEN_UP
        else:
            self._hold(ticket)
        return ticket.state

    def refused(self, ticket: Ticket) -> None:
        """The replica refused the turn itself: the replica is healthy, and the turn is over."""
        self._replicas[ticket.replica].heard(self._clock())
        self._replicas[ticket.replica].release(ticket)
        ticket.state = TurnState.GIVEN_UP

    def closed(self, ticket: Ticket) -> None:
        """The abandoned attempt is gone and its connection closed: the turn waits again."""
        assert ticket.state is TurnState.LEAVING, ticket.state
        self._replicas[ticket.replica].release(ticket)
        self._hold(ticket)

    def left(self, ticket: Ticket) -> None:
        """The client is gone or out of time, and the attempt is gone too."""
        if ticket.state is TurnState.HELD:
            self._held.remove(ticket)
        elif ticket.state in (TurnState.LIVE, TurnState.LEAVING):
            self._replicas[ticket.replica].release(ticket)
        ticket.state = TurnState.DONE

    # --- time ---

    def to_abandon(self) -> list[Ticket]:
        """Attempts to close now: on silent replicas, and where others are much faster.

        Call it every 50 ms or so while there are turns.
        """
        now, leaving = self._clock(), []
        if now - self._looked_at > _LATE_SECONDS:
            # This process did not listen: replicas are not to blame for that silence.
            for replica in self._replicas:
                replica.heard_at = max(replica.heard_at, now - _LATE_SECONDS)
        self._looked_at = now
        for replica in self._replicas:
            lateness = self._lateness(replica, now)
            replica.look(now, self._usual_seconds, lateness)
            silent_seconds, limit = replica.silence(now, self._settings)
            replica.is_silent = silent_seconds > limit
            if silent_seconds > 1.5 * limit and self._others_can(replica, now):
                replica.health.leave_alone(now, f"silent for {silent_seconds:.1f} s with {len(replica.live)} turns")
                leaving += [ticket for ticket in replica.live if self._may_move(ticket)]
            replica.learn_slots(now, self._usual_seconds, lateness)
        if not leaving and not self._held:
            slow = self._slowest(now)
            leaving = [slow] if slow is not None else []
        for ticket in leaving:
            ticket.avoided.add(ticket.replica)
            ticket.num_moves += 1
            ticket.state = TurnState.LEAVING
        return sorted(leaving)

    def to_give_up(self) -> list[Ticket]:
        """Turns that waited too long for a replica that is alive or free. They are over."""
        now = self._clock()
        self._note_stranding(now)
        if not self._held:
            return []
        away = [replica.health.standing is Standing.AWAY for replica in self._replicas]
        if all(away):
            limit = self._settings.dead_seconds_max
            over = [ticket for ticket in self._held if now - max(ticket.entered_at, self._stranded_at(now)) >= limit]
        elif self._stranded_since is not None:
            # A replica is alive; use the time when it wants to be asked again.
            back_at = min(
                max(replica.health.paused_until, now)
                for replica, is_away in zip(self._replicas, away, strict=True)
                if not is_away
            )
            over = [ticket for ticket in self._held if back_at - ticket.entered_at > self._settings.busy_seconds_max]
            for ticket in over:
                ticket.retry_after_seconds = max(0.1, back_at - now)
        else:
            over = []
        for ticket in over:
            self._held.remove(ticket)
            ticket.state = TurnState.GIVEN_UP
        return over

    def probes_due(self) -> list[int]:
        """Replicas to probe now, by a request that is not a turn; then call `probed`."""
        now = self._clock()
        due = [index for index, replica in enumerate(self._replicas) if replica.health.probe_is_due(now)]
        for index in due:
            self._replicas[index].health.is_probed_now = True
        return due

    def probed(self, index: int, *, is_alive: bool) -> None:
        self._replicas[index].health.probed(self._clock(), is_alive=is_alive)

    def told(self, index: int, come_seconds: float) -> None:
        """A replica says how long its model takes to come before it can answer; 0: it is there."""
        self._replicas[index].told(self._clock(), come_seconds)

    @property
    def is_idle(self) -> bool:
        """No turn waits or runs, and no replica is away: time alone changes nothing."""
        return not self._held and all(
            not replica.live and replica.health.standing is not Standing.AWAY for replica in self._replicas
        )

    # --- choice ---

    def expected_seconds(self, index: int, num_tokens: float, num_prompt_characters: int = 0) -> float:
        """Time until this replica would finish a turn of that many tokens, if it got the turn now."""
        usual_seconds = self._prompts.expected(num_prompt_characters)
        return self._expected(self._replicas[index], num_tokens, usual_seconds, self._clock())

    def _best(self, ticket: Ticket, now: float) -> Replica | None:
        """The replica for the turn now; None: there is none, or waiting for a full one is better."""
        able = [replica for replica in self._replicas if self._is_able(replica, now)]
        # If all are silent none is better: they may be working.
        able = able or [one for one in self._replicas if one.health.may_get_turns(len(one.live), now)]
        if not able:
            return None
        fresh = [replica for replica in able if replica.index not in ticket.avoided]
        num_tokens = self._lengths.expected(ticket.num_tokens_max)
        usual_seconds = self._usual_seconds(ticket)
        best = min(
            fresh or able,
            key=lambda replica: (self._expected(replica, num_tokens, usual_seconds, now), replica.num_sent),
        )
        return None if best.is_full else best

    def _is_able(self, replica: Replica, now: float) -> bool:
        return not replica.is_silent and replica.health.may_get_turns(len(replica.live), now)

    def _expected(self, replica: Replica, num_tokens: float, usual_seconds: float, now: float) -> float:
        """Args: usual_seconds: until it begins at a replica of usual speed."""
        token_seconds, lateness = self._speeds(replica, now)
        run = lateness * usual_seconds + num_tokens * token_seconds
        num_live, come_seconds = len(replica.live), replica.come_seconds_left(now)
        if replica.num_slots is None or num_live < replica.num_slots_at(now):
            return come_seconds + run * (1 + _CROWDING * num_live)
        mean_run = self._mean_run(token_seconds, lateness)
        wait = (num_live - replica.num_slots + 1) * mean_run / replica.num_slots
        return come_seconds + run * (1 + _CROWDING * replica.num_slots) + wait

    def _mean_run(self, token_seconds: float, lateness: float) -> float:
        return lateness * self._prompts.mean + self._lengths.expected(1 << 30) * token_seconds

    def _worth_bringing(self, now: float) -> Replica | None:
        """An idle replica whose model could come sooner than the last waiting turn would begin elsewhere."""
        able = [replica for replica in self._replicas if self._is_able(replica, now)]
        avoided = self._held.last().avoided
        cold = [one for one in able if one.come_seconds and not one.live and one.index not in avoided]
        if not cold:
            return None
        soonest = min(cold, key=lambda replica: replica.come_seconds)
        ended_a_second = sum(
            len(replica.live) / self._mean_run(*self._speeds(replica, now)) for replica in able if replica.live
        )
        wait = len(self._held) / ended_a_second if ended_a_second else float("inf")
        return soonest if wait > soonest.come_seconds else None

    def _speeds(self, replica: Replica, now: float) -> tuple[float, float]:
        """Seconds a token, and how much later than usual the first one comes; the best of the others serves as the
        prior. Where all turns are late, both are as bad as that shows."""
        others = [other.rates for other in self._replicas if other is not replica]
        token = min((own for rates in others if (own := rates.own_token_seconds()) is not None), default=None)
        token_seconds = replica.rates.token_seconds(self._settings.prior_token_seconds if token is None else token, now)
        lateness = self._lateness(replica, now)
        if replica.shown_lateness <= lateness:
            return token_seconds, lateness
        if replica.rates.own_token_seconds() is None:
            token_seconds *= replica.shown_lateness / lateness
        return token_seconds, replica.shown_lateness

    def _lateness(self, replica: Replica, now: float) -> float:
        others = [other.rates for other in self._replicas if other is not replica]
        best = min((own for rates in others if (own := rates.own_lateness()) is not None), default=1.0)
        return replica.rates.lateness(best, now)

    def _usual_seconds(self, ticket: Ticket) -> float:
        """Until it begins at a replica of usual speed."""
        return self._prompts.expected(ticket.num_prompt_characters)

    # --- signs ---

    def _was_not_held_up(self, ticket: Ticket, num_tokens: int, now: float) -> bool:
        """A whole answer shows only its end: whether it came soon enough for a turn that did not wait for a slot."""
        token_seconds, lateness = self._speeds(self._replicas[ticket.replica], now)
        first_seconds = lateness * self._usual_seconds(ticket)
        return now - ticket.sent_at <= 2 * (first_seconds + num_tokens * token_seconds)

    def _saw_first(self, replica: Replica, ticket: Ticket, now: float) -> None:
        """A turn has begun that did not wait for a place."""
        seconds = now - ticket.sent_at
        best = min(
            (own for other in self._replicas if (own := other.rates.own_lateness()) is not None),
            default=None,
        )
        slowness = 1.0 if best is None else max(1.0, self._lateness(replica, now) / best)
        self._prompts.add(ticket.num_prompt_characters, seconds / slowness)
        replica.rates.saw_first(seconds, self._usual_seconds(ticket), now)

    def _may_move(self, ticket: Ticket) -> bool:
        return (
            ticket.state is TurnState.LIVE
            and not ticket.is_given_out
            and ticket.num_moves < self._settings.num_moves_max
        )

    def _others_can(self, replica: Replica, now: float) -> bool:
        return any(other is not replica and self._is_able(other, now) for other in self._replicas)

    def _slowest(self, now: float) -> Ticket | None:
        """The turn that gains most by a move, if it gains enough."""
        best_gain, found = self._settings.move_gain_seconds_min, None
        for replica in self._replicas:
            movable = [ticket for ticket in replica.live if self._may_move(ticket)]
            if not movable:
                continue
            token_seconds, _ = self._speeds(replica, now)
            goals = [
                other
                for other in self._replicas
                if other is not replica and self._is_able(other, now) and other.has_free_slot
            ]
            for ticket in movable:
                left = self._lengths.remaining(ticket.num_tokens, ticket.num_tokens_max)
                usual_seconds = self._usual_seconds(ticket)
                if ticket.has_begun:
                    stay = left * token_seconds
                else:
                    stay = max(0.0, self._expected(replica, left, usual_seconds, now) - (now - ticket.sent_at))
                for goal in goals:
                    there = self._expected(goal, ticket.num_tokens + left, usual_seconds, now)
                    if there < self._settings.move_share_max * stay and stay - there > best_gain:
                        best_gain, found = stay - there, ticket
        return found

    # --- bookkeeping ---

    def _hold(self, ticket: Ticket) -> None:
        ticket.state, ticket.replica = TurnState.HELD, -1
        known = [own for one in self._replicas if (own := one.rates.own_token_seconds()) is not None]
        token_seconds = min(known, default=self._settings.prior_token_seconds)
        num_tokens = self._lengths.expected(ticket.num_tokens_max)
        ticket.expected_seconds = self._usual_seconds(ticket) + num_tokens * token_seconds
        self._held.add(ticket)

    def _note_stranding(self, now: float) -> None:
        if any(self._is_alive_and_willing(replica, now) for replica in self._replicas):
            self._stranded_since = None
        elif self._stranded_since is None:
            self._stranded_since = now

    def _stranded_at(self, now: float) -> float:
        return now if self._stranded_since is None else self._stranded_since

    def _is_alive_and_willing(self, replica: Replica, now: float) -> bool:
        return replica.health.standing is not Standing.AWAY and now >= replica.health.paused_until
