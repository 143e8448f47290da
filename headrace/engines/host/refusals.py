"""Why work for a model is refused: it could not come, dies again and again, or is too large. Pure."""

from headrace.engines.host.address import ENGINE_HOST, HOST_MIB
from headrace.engines.host.copies import Model
from headrace.engines.host.holdings import Holdings
from headrace.engines.host.work import Ticket
from headrace.errors import EngineUnavailable, HeadraceError

# A model that could not come is tried anew after so long, then after twice as long.
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 30.0, 3600.0
# Ends of its process in a row, without an answer between them, after which a model counts as one that cannot come.
_NUM_CRASHES_MAX = 3
# The variable is of the run that starts the host, the option of who starts one by hand.
_MORE = f"Give it more ({HOST_MIB}, or --memory-mib where you start it)"
_MORE_OR_OFF = f"{_MORE}, or set {ENGINE_HOST}=off, so that each run opens its own."


class Refusals:
    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def has_come(self, model: Model) -> None:
        """Pauses begin anew with its first answer: one that comes and outgrows its place each time is tried seldom."""
        model.refusal = None

    def could_not_come(self, model: Model, error: HeadraceError) -> None:
        """For a while, everybody who asks is told why."""
        model.refusal = error
        model.pause_seconds = min(max(_PAUSE_SECONDS_MIN, 2 * model.pause_seconds), _PAUSE_SECONDS_MAX)
        model.tried_again_at = self._holdings.clock() + model.pause_seconds

    def crashed(self, model: Model) -> None:
        model.num_crashes += 1
        if model.num_crashes >= _NUM_CRASHES_MAX:
            error = EngineUnavailable(
                f"The process of {model.label} has ended {model.num_crashes} times in a row without an answer. The "
                "engine host's log says how."
            )
            self.could_not_come(model, error)
            model.num_crashes = 0

    def may_come(self, model: Model) -> bool:
        return model.refusal is None or self._holdings.clock() >= model.tried_again_at

    def now(self, model: Model, ticket: Ticket) -> HeadraceError | None:
        """Why this work cannot be done by any copy that may still come; None: it waits."""
        accounts = self._holdings.accounts
        places = model.places if ticket.only_at is None else (ticket.only_at,)
        if model.peak_mib > (most_mib := max(accounts.mib[place] for place in model.places)):
            if model.refusal is None:
                self.could_not_come(model, self._too_large(model, places[0]))
            elif self.may_come(model):
                # It held so much once. Perhaps that was one wild turn: it is tried with all that a place has.
                model.tried_with(most_mib)
        if not self.may_come(model):
            return model.refusal
        if all(model.peak_mib > accounts.mib[place] for place in places):
            return self._too_large(model, places[0])
        if not ticket.is_live and self._holdings.kept and all(self._is_kept_from(model, place) for place in places):
            return self._no_room_beside_live(model, places[0])
        return None

    def of_part(self, model: Model, ticket: Ticket, held_mib: int) -> HeadraceError | None:
        """Of a part, beside what the work that needs it holds already."""
        account = self._holdings.accounts.mib[ticket.only_at or ""]
        wanted = self._holdings.whole_mib(model, ticket.only_at or "")
        if wanted + held_mib <= account:
            return None
        return EngineUnavailable(
            f"{model.label} needs {wanted} MiB beside the {held_mib} MiB of what it is used with, and "
            f"{ticket.only_at} of this engine host has {account} MiB for models. {_MORE}."
        )

    def _is_kept_from(self, model: Model, place: str) -> bool:
        kept = self._holdings.kept_mib(place, beside=model)
        return self._holdings.whole_mib(model, place) + kept > self._holdings.accounts.mib[place]

    def _too_large(self, model: Model, place: str) -> EngineUnavailable:
        accounts = self._holdings.accounts
        return EngineUnavailable(
            f"{model.label} needs more than {model.peak_mib} MiB, and {place} of this engine host has "
            f"{accounts.mib[place]} MiB for models. {_MORE_OR_OFF}"
        )

    def _no_room_beside_live(self, model: Model, place: str) -> EngineUnavailable:
        holdings = self._holdings
        live = ", ".join(
            sorted(one.model.label for one in holdings.accounts.holders(place) if one.model.key in holdings.kept)
        )
        return EngineUnavailable(
            f"{model.label} needs {holdings.whole_mib(model, place)} MiB, and of the {holdings.accounts.mib[place]} "
            f"MiB that {place} of this engine host has for models, {holdings.kept_mib(place, beside=model)} are kept "
            f"for live traffic ({live}). {_MORE_OR_OFF}"
        )
