"""Power loss over numbered chains: a journal, places under a cap, pins of sessions, snapshots of evidence."""

from collections.abc import Callable
from typing import Any

from headrace.clock import SystemClock
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace.rollout.live_evidence import EvidenceWriter, read_live
from headrace.rollout.routing import Pin, RoutingTable
from headrace.rollout.states import ABORTED, ADVANCED, INITIALIZED, PROPOSED, STARTED, fold
from headrace.serving.sessions import KEPT_SECONDS, SessionPins
from headrace.store.local import LocalStore
from simulation.faults.cases import Later, Tally

NAME = "answers"
_STABLE, _CANDIDATE, _SECOND = "a" * 64, "b" * 64, "c" * 64
_CAP = 50
_SESSION_SECONDS = 60.0
_EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    (INITIALIZED, {"version_set": _STABLE}),
    (PROPOSED, {"version_set": _CANDIDATE}),
    (STARTED, {"version_set": _CANDIDATE, "step": 0, "weight": 0.1, "cap": _CAP, "num_rows": 0}),
    (ADVANCED, {"version_set": _CANDIDATE, "step": 1, "weight": 0.5, "cap": _CAP, "num_rows": 0}),
    (ABORTED, {"version_set": _CANDIDATE, "evict": True}),
    (PROPOSED, {"version_set": _SECOND}),
    (STARTED, {"version_set": _SECOND, "step": 0, "weight": 0.1, "cap": None, "num_rows": 0}),
)


def journal_work(store: LocalStore, tell: Callable[..., None]) -> None:
    clock = SystemClock()
    journal, caps = Journal(store, NAME, clock), CapLeases(store, NAME, clock)
    evidence = EvidenceWriter(store, NAME, "gateway-0", clock)
    for number, (event, fields) in enumerate(_EVENTS):
        entry = journal.append(event, {"weights_digest": "w", "reason": "measured", **fields}, expected=number)
        tell("appended", number=entry.number, digest=entry.digest)
        if number in (2, 3):
            taken = caps.take(3, _CAP, count=7, by="gateway-0")
            tell("leased", places=taken)
            tell("leased", places=int(caps.take_for(3, _CAP, f"unit {number}")))
            _hold(store, clock, f"session {number}", tell)
            evidence.record(3, _CANDIDATE, {"latency_ms": float(number)}, client="one", entry=3)
            evidence.flush()
            tell("measured", num=number - 1)
    # A directory that is deleted and made again is a new one.
    for key in ("notes/today/1", "notes/today/2"):
        store.create(key, key.encode())
        tell("created", key=key)
        if key.endswith("1"):
            tell("deleting", key=key)
            store.delete_prefix("notes")
    # A day later they are swept, and one returns.
    tell("sweeping")
    later = Later(2 * KEPT_SECONDS)
    _pins(store, later).sweep()
    _hold(store, later, "session 2", tell)


def journal_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    clock = SystemClock()
    journal = Journal(store, NAME, clock)
    journal.verify()
    entries = journal.entries()
    for one in told:
        if one["what"] == "appended" and [one["digest"]] != [
            entry.digest for entry in entries[one["number"] - 1 : one["number"]]
        ]:
            tally.wrong("lost", f"journal entry {one['number']} is not the one that was appended")
    gone = {one["key"] for one in told if one["what"] == "deleting"}
    for key in (one["key"] for one in told if one["what"] == "created" and one["key"] not in gone):
        if not store.exists(key) or store.read(key) != key.encode():
            tally.wrong("lost", f"object {key} is not there")
    state = fold(entries)
    # All writers continue from what is there.
    for number in range(len(entries), len(_EVENTS)):
        event, fields = _EVENTS[number]
        journal.append(event, {"weights_digest": "w", "reason": "again", **fields}, expected=number)
    if len(journal.entries()) != len(_EVENTS) or (state and state.head != len(entries)):
        tally.wrong("lost", "the journal does not go on")
    _check_caps(store, told, tally)
    _check_sessions(store, told, tally)
    measured = max((one["num"] for one in told if one["what"] == "measured"), default=0)
    found = read_live(store, NAME, 3).get(_CANDIDATE, {}).get("latency_ms")
    if measured and (found is None or found.num < measured):
        tally.wrong("lost", f"{measured} measurements were written, {found} is there")


def _check_caps(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    leased = sum(one["places"] for one in told if one["what"] == "leased")
    caps = CapLeases(store, NAME, SystemClock())
    left = caps.take(3, _CAP, count=_CAP, by="gateway-1")
    if leased + left > _CAP:
        tally.wrong("lost", f"{leased} places were leased before, {left} of {_CAP} after")
    if caps.take(3, _CAP, count=1, by="gateway-1"):
        tally.wrong("lost", "a place above the cap was leased")


def _check_sessions(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    held: dict[str, int] = {}
    for one in told:
        if one["what"] == "sweeping":
            held = {}
        elif one["what"] == "held":
            held[one["session"]] = one["number"]
    pins = _pins(store, SystemClock())
    for session, number in held.items():
        newest = pins.newest(session)
        if newest is None or newest.number < number or newest.version_set != _STABLE:
            tally.wrong("lost", f"pin {number} of {session} is not there: {newest}")
    for session in ("session 2", "session 3"):
        _hold(store, SystemClock(), session, lambda what, **facts: None)


def _hold(store: LocalStore, clock: Any, session: str, tell: Callable[..., None]) -> None:
    table = RoutingTable(head=1, salt="salt", stable=_STABLE)
    pins = _pins(store, clock)

    held = pins.hold(session, lambda: table, lambda last: pins.chosen(Pin(_STABLE, 1, "weight", 0)))
    tell("held", session=session, number=held.record.number)


def _pins(store: LocalStore, clock: Any) -> SessionPins:
    return SessionPins(store, NAME, clock, lease_seconds=_SESSION_SECONDS, by="gateway-0")
