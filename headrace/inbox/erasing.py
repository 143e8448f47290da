"""Erasures of the store, carried out in the logs of its inboxes: each log says so in the store once it has.

`erasures/logs/LOG/00000001.json`: until that is there, the log may still seal what the erasure is of. Whoever has the
log looks for erasures as long as it runs: the gateway, or the command that opens the log of a gateway that is gone.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.errors import InvalidInput, ObjectMissing
from headrace.handoff.erasures import ROOT, Erasure, data_of, erasure_chain
from headrace.inbox.intake import Intake
from headrace.inbox.log import EventLog
from headrace.inbox.schema import FILE
from headrace.inbox.sealing import OWNER, owner_key
from headrace.keys import feed_service, partition_from_path
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object


@dataclass(frozen=True, kw_only=True)
class LogErased:
    """A log has nothing any more of what an erasure is of. `num_events`: that it blanked then."""

    log: str
    number: Annotated[int, Ge(1)]
    num_events: Annotated[int, Ge(0)]
    at: str


LOG_ERASED = Kind(
    "Erasure in a log", LogErased, "Delete it, and run `headrace erase` again while the gateway with that log runs."
)


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


def note_erased(objects: ObjectStore, clock: Clock, log: str, number: int, num_events: int) -> None:
    said = LogErased(log=log, number=number, num_events=num_events, at=iso(clock.now()))
    create_object(objects, log_erased_key(log, number), LOG_ERASED, said)


def erase_in_intake(objects: ObjectStore, clock: Clock, intake: Intake) -> list[tuple[int, int]]:
    """Has a running gateway's log carry out what it has not. Returns each erasure's number, and how many events.

    Raises: LogUnavailable, StoreUnavailable: to be tried again.
    """
    done: list[tuple[int, int]] = []
    for number in unfinished(objects, intake.nonce, intake.erased):
        num_events = intake.erase(number, data_of(objects, number)).result()
        note_erased(objects, clock, intake.nonce, number, num_events)
        done.append((number, num_events))
    return done


def erase_in_log(objects: ObjectStore, clock: Clock, directory: Path) -> None:
    """Carries out all erasures in the log of a gateway that does not run.

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
        for number in unfinished(objects, log.nonce, log.erased()):
            note_erased(objects, clock, log.nonce, number, log.erase(number, data_of(objects, number)))
    finally:
        log.close()


def waiting_logs(objects: ObjectStore, erasure: Erasure) -> dict[str, str]:
    """Campaign → its log, of those that have not carried out the erasure.

    Raises:
        HandoffCorrupt: nobody can tell whose log a campaign's is.
    """
    found: dict[str, str] = {}
    of_calls = [name for name in inboxes(objects) if feed_service(name) in erasure.campaigns]
    for campaign in sorted({*erasure.campaigns, *of_calls}):
        try:
            log = read_object(objects, owner_key(campaign), OWNER).log
        except ObjectMissing:
            continue  # its prompts are files
        if not objects.exists(log_erased_key(log, erasure.number)):
            found[campaign] = log
    return found


def inboxes(objects: ObjectStore) -> list[str]:
    """Campaigns whose events a log takes."""
    names = map(partition_from_path, objects.children("inbox"))
    return [name for name in names if objects.exists(owner_key(name))]
