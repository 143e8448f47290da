"""What the table of residents tells its caller to do. A copy is named by its model's key and its place."""

from dataclasses import dataclass

from headrace.engines.host.work import Ticket
from headrace.errors import HeadraceError


@dataclass(frozen=True, kw_only=True)
class _OfCopy:
    key: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Load(_OfCopy):
    """Bring a copy of the model: its memory is set aside."""


@dataclass(frozen=True, kw_only=True)
class Stop(_OfCopy):
    """End the copy's process. `at_once`: it has outgrown its part."""

    why: str
    at_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Sleep(_OfCopy):
    """Take the copy's weights out of the place's memory; its process stays."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Wake(_OfCopy):
    """Bring back the weights of a copy that sleeps: their memory is set aside."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The ticket's work may begin, at `ticket.place`."""

    ticket: Ticket


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """The ticket is over: its model cannot come."""

    ticket: Ticket
    error: HeadraceError


Step = Load | Stop | Sleep | Wake | Start | Refuse
