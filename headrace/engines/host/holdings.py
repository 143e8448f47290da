"""What a table of residents holds: models, their copies, and which of them somebody has to look at. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.engines.host.account import Accounts
from headrace.engines.host.copies import Component, Copy, Model, State
from headrace.engines.host.rules import Rules
from headrace.engines.host.work import Kind, Ticket


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A model that somebody waits for where no copy could serve it. `ticket`: the longest waiting of one kind."""

    model: Model
    only_at: str | None
    ticket: Ticket
    rank: tuple[bool, float, int]


class Holdings:
    """Kept up to date by whoever changes a model or a copy, so that a look costs no look at everything."""

    def __init__(self, clock: Callable[[], float], accounts: Accounts, rules: Rules) -> None:
        self.clock, self.accounts, self.rules = clock, accounts, rules
        self.models: dict[str, Model] = {}
        # No model is known to need less.
        self.least_mib = float("inf")
        # Keys of models that live sets need.
        self.kept: frozenset[str] = frozenset()
        # Copies without work, awake and asleep, nobody's room; the one that has rested longest in front.
        self.idle: dict[Copy, None] = {}
        # Models whose waiting work may be able to begin.
        self.touched: dict[Model, None] = {}
        # Models that somebody waits for where no copy could serve, with what is asked of them there; and those that
        # somebody waits for at all.
        self.absent: dict[Model, list[Demand]] = {}
        self.awaited: dict[Model, None] = {}

    def note(self, model: Model) -> None:
        """Call it after every change of a model's waiting work, or of its copies' states."""
        self.absent.pop(model, None)
        if not model.waiting:
            self.awaited.pop(model, None)
            return
        self.awaited[model] = None
        if found := self._demands_for(model):
            self.absent[model] = found

    def touch(self, model: Model) -> None:
        """As `note`; and its waiting work is looked at."""
        self.note(model)
        if model.waiting:
            self.touched[model] = None

    def is_served(self, model: Model, target: str | None) -> bool:
        """By a copy that works there, or will."""
        if target is None:
            return any(copy.could_serve for copy in model.copies.values())
        copy = model.copies.get(target)
        return copy is not None and copy.could_serve

    def _demands_for(self, model: Model) -> list[Demand]:
        found: list[Demand] = []
        for ticket in model.waiting.oldest():
            if self.is_served(model, ticket.only_at):
                continue
            kind = ticket.kind
            ahead_seconds = (model.bring_seconds or 0.0) + ticket.expected_seconds if kind is Kind.LIVE else 0.0
            since = ticket.entered_at - ahead_seconds * self.rules.live_factor
            rank = (kind is not Kind.PART, since, ticket.number)
            found.append(Demand(model=model, only_at=ticket.only_at, ticket=ticket, rank=rank))
        return found

    def enters(self, copy: Copy, state: State) -> None:
        copy.state, copy.since = state, self.clock()
        if state is State.ON_DEVICE:
            copy.came_at = copy.since
            # What it let go on the way explains nothing that it holds from now on.
            copy.seen, copy.let_go_mib = dict(copy.mapped), 0
        self.rests(copy)
        self.touch(copy.model)

    def rests(self, copy: Copy) -> None:
        """Makes it one of those without work, if it is."""
        self.idle.pop(copy, None)
        if not copy.at_work and not copy.is_closed and copy.state in (State.ON_DEVICE, State.ASLEEP):
            self.idle[copy] = None

    def used(self, model: Model, num_uses: int) -> None:
        now = self.clock()
        model.uses, model.used_at = model.uses_at(now, self.rules.half_life_seconds) + num_uses, now

    def add(self, model: Model, place: str) -> Copy:
        """A copy that comes; its memory is set aside."""
        copy = Copy(model=model, place=place, used_at=self.clock())
        self.accounts.give(copy, *self.to_come(model, place))
        model.copies[place] = copy
        self.enters(copy, State.LOADING)
        return copy

    def remove(self, copy: Copy) -> None:
        """Its process has ended."""
        self.idle.pop(copy, None)
        self.accounts.give(copy, 0)
        self.accounts.give_at_home(copy, 0)
        copy.state, copy.model.gone_at = State.ABSENT, self.clock()
        del copy.model.copies[copy.place]
        self.touch(copy.model)

    def wanted_mib(self, model: Model, place: str) -> int:
        """For a copy itself, beside its components. A guess is no reason to end what live sets need: it is tried with
        the rest."""
        account = self.accounts.mib[place]
        wanted = model.wanted_mib(account)
        if model.work.num:
            return wanted
        rest = account - model.components_mib - self.kept_mib(place, beside=model)
        needed = max(model.own_mib, model.peak_mib - model.components_mib, min(wanted, rest))
        return model.beside_components(needed, account)

    def whole_mib(self, model: Model, place: str) -> int:
        """What a copy needs with its components, whether they are there or not."""
        return self.wanted_mib(model, place) + model.components_mib

    def to_come(self, model: Model, place: str) -> tuple[int, Mapping[Component, int]]:
        """The part and the components that its copy there is to have on the device."""
        wanted, copy = self.wanted_mib(model, place), model.copies.get(place)
        if copy is None:
            return wanted, model.components
        return max(wanted, copy.reserved_mib), {**self.accounts.components(copy, place), **model.components}

    def kept_mib(self, place: str, *, beside: Model) -> int:
        """What live sets' copies hold of a place, but for the components that this model has too."""
        if not self.kept:
            return 0
        kept = [one for one in self.accounts.holders(place) if one.model.key in self.kept and one.model is not beside]
        return self.accounts.held_mib(place, kept, beside=beside.components)
