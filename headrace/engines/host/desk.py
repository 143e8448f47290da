"""Which work begins at which copy: the one gate between live, flex and batch work and between tenants, and work that
needs parts beside its model.

A copy with a limit does live work first, then flex, then batch, where it has room left; who stands back gets a share
(`headrace.fairness`). One without a limit does what comes; but where live work of its model is at work, or a live set
needs it, one piece of bulk work of each class at a time, so that live work waits for few. Turns that are asked alone
are such a piece together, as many as a copy makes together.

Work that needs parts takes its model's copy first and then gathers them at its place, one piece of work a place at a
time, or two could each wait for what the other has.
"""

from headrace.engines.host.copies import Copy, Model
from headrace.engines.host.holdings import Holdings
from headrace.engines.host.parts import Parts
from headrace.engines.host.steps import Start, Step
from headrace.engines.host.work import CLASS_KINDS, Kind, Ticket, WorkSeconds


class Desk:
    def __init__(self, holdings: Holdings) -> None:
        self._holdings, self._parts = holdings, Parts(holdings)
        # Of all models' work.
        self.everybody = WorkSeconds()
        # Who gathers its parts, by place.
        self._gathering: dict[str, Ticket] = {}

    def add(self, ticket: Ticket) -> None:
        model = self._model(ticket)
        model.waiting.add(ticket)
        self._holdings.touch(model)

    def withdraw(self, ticket: Ticket, *, is_answered: bool) -> None:
        """It is done or given up, wherever it stood."""
        model = self._model(ticket)
        if ticket in model.waiting:
            model.waiting.remove(ticket, has_begun=False)
        if ticket.is_at_work and is_answered:
            model.num_crashes, model.pause_seconds = 0, 0.0
            model.num_hits += 1
            if ticket.belongs_to is None:
                seconds = self._holdings.clock() - ticket.begun_at
                model.work.add(seconds)
                model.divide()
                self.everybody.add(seconds)
        self._off(ticket, is_answered=is_answered)
        ticket.is_over = True
        self._holdings.used(model, 0)
        self._holdings.touch(model)

    def lost(self, copy: Copy) -> None:
        """Its process has ended. Work that it did is its caller's to end; what gathered its parts waits again."""
        for ticket in list(copy.at_work):
            whole = ticket.belongs_to or ticket
            if not whole.is_at_work:
                self._off(whole, is_answered=False)
                self.add(whole)
        copy.at_work.clear()

    def begun(self) -> list[Step]:
        """All work that can begin, begins."""
        steps: list[Step] = []
        touched = self._holdings.touched
        held_back: list[Model] = []
        while touched:
            del touched[model := next(iter(touched))]
            self._begin_for(model, steps)
            if model.waiting and any(copy.has_room for copy in model.copies.values()):
                # The gate opens as time passes, as live sets change, or once its place gathers no other parts.
                held_back.append(model)
        touched.update(dict.fromkeys(held_back))
        return steps

    def held_mib(self, ticket: Ticket, *, beside: Model) -> int:
        """Of its place, with its parts, as far as they are there, but for the components that this model has too."""
        copies = [self._model(one).copies.get(ticket.place) for one in (ticket, *ticket.holds)]
        there = [copy for copy in copies if copy is not None]
        return self._holdings.accounts.held_mib(ticket.place, there, beside=beside.components)

    # --- who is next ---

    def _begin_for(self, model: Model, steps: list[Step]) -> None:
        while model.waiting:
            choices = [
                (copy, ticket)
                for copy in model.copies.values()
                if copy.has_room and (ticket := self._next_at(copy)) is not None
            ]
            if not choices:
                break
            first = min((ticket for _, ticket in choices), key=lambda one: (one.kind, one.number))
            copy = min(
                (copy for copy, ticket in choices if ticket is first),
                key=lambda one: (self._missing_seconds(first, one.place), len(one.at_work), -one.used_at),
            )
            self._begin(first, copy, steps)
        self._holdings.note(model)

    def _next_at(self, copy: Copy) -> Ticket | None:
        model, rules = copy.model, self._holdings.rules
        part = model.waiting.first_for(copy.place, Kind.PART)
        if part is not None:
            return part if copy.has_room_for(part) else None
        heads = [head for kind in CLASS_KINDS if (head := model.waiting.first_for(copy.place, kind)) is not None]
        heads = [head for head in heads if not self._is_held_back(copy, head)]
        if model.live_is_beside:
            heads = [head for head in heads if copy.has_room_for(head)]
        found = copy.turns.next(heads, self._holdings.clock(), factor=rules.live_factor)
        if found is None or not copy.has_room_for(found):
            return None
        return None if found.parts and copy.place in self._gathering else found

    def _is_held_back(self, copy: Copy, ticket: Ticket) -> bool:
        """Bulk work, while other bulk work that is not less urgent is under way."""
        model = copy.model
        if ticket.is_live or (model.num_at_once is not None and not model.live_is_beside):
            return False
        before = copy.bulk_before(ticket.work_class)
        if not before or not (model.key in self._holdings.kept or any(one.is_live for one in copy.at_work)):
            return False
        are_alone = all(one.size == 1 for one in (*before, ticket))
        return not are_alone or 2 * len(before) >= (model.num_at_once or 0)

    def _missing_seconds(self, ticket: Ticket, place: str) -> float:
        """Until its parts would be there too."""
        models = (self._holdings.models[key] for key in ticket.parts)
        return sum(
            one.come_seconds(copy) for one in models if (copy := one.copies.get(place)) is None or not copy.is_open
        )

    # --- small steps ---

    def _begin(self, ticket: Ticket, copy: Copy, steps: list[Step]) -> None:
        now = self._holdings.clock()
        copy.model.waiting.remove(ticket, has_begun=True)
        ticket.place = copy.place
        copy.at_work.add(ticket)
        copy.used_at = now
        self._holdings.rests(copy)
        self._holdings.used(copy.model, 1)
        copy.turns.begun(ticket, now)
        if not ticket.parts:
            self._start(ticket, steps)
            return
        self._gathering[copy.place] = ticket
        ticket.holds = [
            Ticket(
                key=key,
                number=ticket.number,
                entered_at=ticket.entered_at,
                work_class=ticket.work_class,
                only_at=copy.place,
                belongs_to=ticket,
            )
            for key in ticket.parts
        ]
        for part in ticket.holds:
            self.add(part)

    def _start(self, ticket: Ticket, steps: list[Step]) -> None:
        ticket.is_at_work, ticket.begun_at = True, self._holdings.clock()
        whole = ticket.belongs_to
        if whole is None:
            steps.append(Start(ticket=ticket))
        elif all(one.is_at_work for one in whole.holds):
            del self._gathering[whole.place]
            self._start(whole, steps)

    def _off(self, ticket: Ticket, *, is_answered: bool) -> None:
        """Takes it, and its parts' tickets, off the copies that they are at."""
        for part in ticket.holds:
            self.withdraw(part, is_answered=is_answered)
        ticket.holds = []
        if self._gathering.get(ticket.place) is ticket:
            del self._gathering[ticket.place]
        copy = self._model(ticket).copies.get(ticket.place)
        if copy is not None and ticket in copy.at_work:
            copy.at_work.remove(ticket)
            copy.used_at = self._holdings.clock()
            if is_answered:
                self._parts.has_answered(copy)
            self._holdings.rests(copy)
        ticket.place, ticket.is_at_work = "", False

    def _model(self, ticket: Ticket) -> Model:
        return self._holdings.models[ticket.key]
