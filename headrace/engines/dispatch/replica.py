"""A turn under way and its replica: what was seen of both, and how many turns a replica works on at once.

A replica's slots are learned from turns that do not begin while others make progress. Without such a turn, no limit is
known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from headrace.engines.dispatch.health import Health
from headrace.engines.dispatch.rates import Rates
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.fairness import NOBODY, WorkClass

# How long a replica counts as full after a turn was last seen to wait.
_SLOTS_BELIEVED_SECONDS = 1.0


class TurnState(Enum):
    HELD = "held"
    LIVE = "live"
    # Its attempt must be closed; then the turn is held again.
    LEAVING = "leaving"
    GIVEN_UP = "given up"
    DONE = "done"


@dataclass(eq=False)
class Ticket:
    """One turn under way. Only the dispatcher changes it."""

    number: int
    num_tokens_max: int
    entered_at: float
    # Whether its answer comes in pieces. A whole answer shows nothing before its end, so it never seems to wait.
    is_in_pieces: bool = True
    num_prompt_characters: int = 0
    # For whom it is asked; and how long it takes at a replica of usual speed, as of when it was held last.
    work_class: WorkClass = "live"
    costs: Mapping[str, float] = field(default_factory=lambda: NOBODY)
    expected_seconds: float = 0.0
    state: TurnState = TurnState.HELD
    replica: int = -1
    is_given_out: bool = False
    num_failures: int = 0
    num_moves: int = 0
    # Replicas where an attempt of this turn failed: used again only if there is no other.
    avoided: set[int] = field(default_factory=set)
    sent_at: float = 0.0
    # Of its replica, to bring its model, as the replica said when the turn was sent.
    come_seconds: float = 0.0
    heard_at: float = 0.0
    has_begun: bool = False
    was_sent_to_idle: bool = False
    # Its number among the replica's sent turns, and whether the replica was full when it was sent.
    send_number: int = 0
    was_extra: bool = False
    num_characters: int = 0
    # Output tokens, estimated from characters: servers report counts only at the end.
    num_tokens: int = 0
    last_failure: str = ""
    # When to try again, if it was given up because all replicas are busy.
    retry_after_seconds: float | None = None

    def __lt__(self, other: "Ticket") -> bool:
        return self.number < other.number


@dataclass(eq=False)
class Replica:
    """One server as the dispatcher sees it."""

    index: int
    name: str
    health: Health
    rates: Rates = field(default_factory=Rates)
    live: set[Ticket] = field(default_factory=set)
    # How many turns it works on at once, known after one was seen to wait; None: no known limit.
    num_slots: int | None = None
    # When a turn was last seen to wait.
    waited_at: float = float("-inf")
    # Its last sign of work, or the time when it got work after none.
    heard_at: float = 0.0
    is_heard: bool = False
    # Before then no sign is expected of it, since its turns read their prompts; as of the last look.
    due_at: float = 0.0
    # By what factor its turns are late at least, since not one has begun when it should have; 0: none is late.
    shown_lateness: float = 0.0
    # Until its model could work, as it said at `told_at`; 0: it is there.
    come_seconds: float = 0.0
    told_at: float = 0.0
    num_sent: int = 0
    # The highest `send_number` among its turns that were seen to be worked on.
    begun_number: int = 0
    is_silent: bool = False

    @property
    def num_begun(self) -> int:
        """The turns that it visibly works on, and all turns with whole answers, which show nothing before their end."""
        return sum(ticket.has_begun or not ticket.is_in_pieces for ticket in self.live)

    @property
    def is_full(self) -> bool:
        """It has one turn more than it works on; otherwise it would idle between two turns."""
        return self.num_slots is not None and len(self.live) > self.num_slots

    @property
    def has_free_slot(self) -> bool:
        return self.num_slots is None or len(self.live) < self.num_slots

    def num_slots_at(self, now: float) -> int:
        """One more than known if no turn was seen to wait lately: the known number may be outdated."""
        assert self.num_slots is not None
        return self.num_slots + (now - self.waited_at > _SLOTS_BELIEVED_SECONDS)

    def told(self, now: float, come_seconds: float) -> None:
        """It says how long its model takes to come."""
        self.come_seconds, self.told_at = come_seconds, now

    def come_seconds_left(self, now: float) -> float:
        """A model comes when it is asked for."""
        return max(0.0, self.come_seconds - (now - self.told_at)) if self.live else self.come_seconds

    def send(self, ticket: Ticket, now: float) -> None:
        if not self.live:
            self.heard_at = now
        ticket.was_sent_to_idle = not self.live
        self.num_sent += 1
        ticket.send_number = self.num_sent
        ticket.was_extra = self.is_full
        ticket.state, ticket.replica = TurnState.LIVE, self.index
        ticket.sent_at = ticket.heard_at = now
        if not self.live and self.come_seconds:
            # From now on it comes.
            self.told_at = now
        ticket.come_seconds = self.come_seconds_left(now)
        self.live.add(ticket)
        ticket.has_begun, ticket.num_tokens, ticket.num_characters = False, 0, 0

    def release(self, ticket: Ticket) -> None:
        self.live.discard(ticket)
        if not self.live:
            self.is_silent = False

    def heard(self, now: float) -> None:
        # A silence that counted against it must not become normal.
        if not self.is_silent:
            self.rates.saw_pause(max(0.0, now - max(self.heard_at, self.due_at)), now)
        self.heard_at, self.is_heard, self.is_silent = now, True, False
        self.due_at = self.shown_lateness = self.come_seconds = 0.0
        self.health.worked()

    def look(self, now: float, usual_seconds: Callable[[Ticket], float], lateness: float) -> None:
        """Notes when a sign of its work is due, and whether all its turns are late.

        Args: usual_seconds: until a turn begins at a replica of usual speed; lateness: this one's known factor.
        """
        self.due_at = self.shown_lateness = 0.0
        waiting = [ticket for ticket in self.live if ticket.is_in_pieces and not ticket.has_begun]
        if not waiting or len(waiting) < len(self.live):
            return
        usual = [(ticket.sent_at + ticket.come_seconds, usual_seconds(ticket)) for ticket in waiting]
        self.due_at = min(begun_at + lateness * seconds for begun_at, seconds in usual)
        shown = max((now - begun_at) / seconds for begun_at, seconds in usual)
        if shown > lateness:
            # As late again as it is already: nobody knows.
            self.shown_lateness = shown + (shown - lateness)

    def silence(self, now: float, settings: DispatchSettings) -> tuple[float, float]:
        """How long it has been silent though a sign of its work was due, and how long is normal, in seconds."""
        if not self.live:
            return 0.0, settings.silent_seconds_min
        limit = max(settings.silent_seconds_min, settings.silent_factor * self.rates.pause_seconds)
        return now - max(self.heard_at, self.due_at), limit if self.is_heard else settings.silent_seconds_unheard

    def saw_begun(self, ticket: Ticket) -> None:
        """Servers take turns in order: if a younger turn begins first, an older one is not waiting for a slot."""
        self.begun_number = max(self.begun_number, ticket.send_number)
        if self.num_slots is not None and any(
            other.is_in_pieces and not other.has_begun and other.send_number < ticket.send_number for other in self.live
        ):
            self.num_slots = None

    def learn_slots(self, now: float, usual_seconds: Callable[[Ticket], float], lateness: float) -> None:
        """Lowers `num_slots` if a turn has not begun long after it should have, while others made progress: it waits
        for a slot, unless a younger one has begun. Args: as `look`."""
        num_begun = self.num_begun
        if self.is_silent or not num_begun or num_begun == len(self.live):
            return
        if any(
            ticket.is_in_pieces
            and not ticket.has_begun
            and ticket.send_number > self.begun_number
            and self.heard_at - ticket.sent_at > 3 * max(lateness * usual_seconds(ticket), 0.02)
            for ticket in self.live
        ):
            self.num_slots, self.waited_at = num_begun, now
