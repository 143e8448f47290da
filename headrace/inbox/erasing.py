"""Erasures of the store, carried out in the logs of its inboxes: each log says so in the store once it has.

`erasures/logs/LOG/00000001.json`: until that is there, the log may still seal what the erasure is of. Whoever has the
log looks for erasures as long as it runs: the gateway, or the command that opens the log of a gateway that is gone.
"""

import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.errors import InvalidInput, ObjectMissing
from headrace.handoff.erasures import ROOT, Erasure, data_of, erasure_chain
from headrace.inbox.delivery_tables import erase_deliveries
from headrace.inbox.log import EventLog
from headrace.inbox.schema import FILE
from headrace.inbox.sealing import OWNER, owner_key
from headrace.keys import feed_service, partition_from_path
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object

EndedCalls = Callable[[ObjectStore, str, list[tuple[str, int, int]]], Mapping[str, tuple[int, int]]]


@dataclass(frozen=True, kw_only=True)
class LogErased:
    """A log has nothing any more of what an erasure is of.

    Attributes:
        num_events: that it blanked then.
        is_lost: somebody has said that the log is gone for good, with its disk.
    """

    log: str
    number: Annotated[int, Ge(1)]
    num_events: Annotated[int, Ge(0)]
    at: str
    is_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class CallsLog:
    """A log that has turn events of calls. `host`, `directory`: where it was first."""

    log: str
    host: str
    directory: str


LOG_ERASED = Kind(
    "Erasure in a log", LogErased, "Delete it, and run `headrace erase` again while the gateway with that log runs."
)


CALLS_LOG = Kind("Log of calls", CallsLog, "Delete it: the gateway makes it again when it is started.")


def calls_log_key(log: str) -> str:
    return f"{ROOT}/calls/{log}.json"


def note_calls_log(objects: ObjectStore, log: str, directory: Path) -> None:
    """Says that a log has turn events, before its first one: whoever erases calls waits for it."""
    said = CallsLog(log=log, host=socket.gethostname(), directory=str(directory.absolute()))
    create_object(objects, calls_log_key(log), CALLS_LOG, said)


def log_erased_key(log: str, number: int) -> str:
    return f"{ROOT}/logs/{log}/{number:08d}.json"


def unfinished(objects: ObjectStore, log: str, erased: Collection[int]) -> list[int]:
    """Numbers of erasures that a log has not carried out, or has not told of. One listing, two where there are any.

    Args: erased: what the log says itself; one that was restored from a backup has carried out fewer than it told.
    """
    newest = erasure_chain(objects).newest()
    told = objects.children(f"{ROOT}/logs/{log}") if newest else []
    done = {int(name.removesuffix(".json")) for name in told} & {*erased}
    return [number for number in range(1, newest + 1) if number not in done]


def note_erased(
    objects: ObjectStore, clock: Clock, log: str, number: int, num_events: int, *, is_lost: bool = False
) -> None:
    said = LogErased(log=log, number=number, num_events=num_events, at=iso(clock.now()), is_lost=is_lost)
    create_object(objects, log_erased_key(log, number), LOG_ERASED, said)


def erase_in_log(objects: ObjectStore, clock: Clock, directory: Path, *, ended_calls: EndedCalls) -> None:
    """Carries out all erasures in the log of a gateway that does not run, and in its undelivered results.

    Args: ended_calls: as `headrace.voice.erasing.ended_calls`.

    Raises:
        InvalidInput: there is no log, or a gateway has it.
        LogUnavailable: it cannot be written now.
    """
    if not (directory / FILE).is_file():
        raise InvalidInput(
            f"There is no inbox's log in {directory}: name the directory that --inbox-log of its gateway named."
        )
    log = EventLog(directory, {})
    try:
        with closing(log.reader()) as reader:
            turns = reader.calls()
        log.forget_turns(ended_calls(objects, log.nonce, turns))
        for number in unfinished(objects, log.nonce, log.erased()):
            data = data_of(objects, number)
            num_events = log.erase(number, data)
            erase_deliveries(directory, data)
            note_erased(objects, clock, log.nonce, number, num_events)
    finally:
        log.close()


def waiting_logs(objects: ObjectStore, erasure: Erasure) -> dict[str, str]:
    """Logs that have not carried out the erasure → whose each is.

    Raises:
        HandoffCorrupt: nobody can tell whose log a campaign's is.
    """
    found: dict[str, str] = {}
    of_calls = [name for name in inboxes(objects) if feed_service(name) in erasure.campaigns]
    for campaign in sorted({*erasure.campaigns, *of_calls}):
        service = feed_service(campaign)
        whose = f"campaign {campaign}" if service is None else f"calls of {service}"
        try:
            found.setdefault(read_object(objects, owner_key(campaign), OWNER).log, whose)
        except ObjectMissing:
            continue  # its prompts are files
    # Turn events of a call may be in any of these, since it may have gone from one gateway to another.
    names = objects.children(f"{ROOT}/calls") if erasure.asked in ("tenant", "call") else []
    for name in names:
        place = read_object(objects, calls_log_key(name.removesuffix(".json")), CALLS_LOG)
        found.setdefault(place.log, f"calls on {place.host} in {place.directory}")
    return {log: whose for log, whose in found.items() if not objects.exists(log_erased_key(log, erasure.number))}


def inboxes(objects: ObjectStore) -> list[str]:
    """Campaigns whose events a log takes."""
    names = map(partition_from_path, objects.children("inbox"))
    return [name for name in names if objects.exists(owner_key(name))]
