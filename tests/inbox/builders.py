"""Rules, events and logs for the inbox's tests."""

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from headrace.clock import FixedClock
from headrace.inbox.events import Event
from headrace.inbox.log import EventLog
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealing import Sealer
from headrace.store.local import LocalStore
from simulation.event_streams import START
from simulation.inbox_site import CAMPAIGN


def make_rules(**rules: Any) -> InboxRules:
    """Windows of 10 s, which allow 10 s of lateness."""
    return InboxRules(**({"window_seconds": 10, "lateness_seconds": 10.0, "idle_seconds": 45.0} | rules))


def make_event(event: str = "a", *, campaign: str = CAMPAIGN, **fields: Any) -> Event:
    usual: dict[str, Any] = {"source": "shop", "time": START, "key": "", "sequence": 0, "tenant": "tests"}
    usual |= {"event_class": "batch", "deadline": None, "data": f'{{"product":"{event}"}}'}
    return Event(campaign=campaign, id=event, **(usual | fields))


def make_log(directory: Path, **rules: Any) -> EventLog:
    return EventLog(directory / "log", {CAMPAIGN: make_rules(**rules)})


def make_sealer(directory: Path, log: EventLog, *, zone: str = "UTC") -> Sealer:
    return Sealer(LocalStore(directory / "store"), log.nonce, ZoneInfo(zone), FixedClock())
