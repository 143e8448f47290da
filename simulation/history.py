"""A rollout's history in the promises' terms, replayed from the raw journal objects without library code.

The oracle must not share a mistake with what it judges, so chain, transitions and states are written a second time,
from the description of the journal's entries. The simulated disk, not the entry, says when an entry was made.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simulation.disk import Kept


class Broken(Exception):
    """The journal is not a chain, or an entry cannot follow its predecessors."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Which sets get units from entry `number` on, which was made at `since` (simulated seconds)."""

    number: int
    since: float
    stable: str
    candidate: str | None = None
    proposed: str | None = None
    proposal: int = 0
    weight: float = 0.0
    cap: int | None = None
    paused: bool = False
    trial: int = 0
    aborted: frozenset[str] = frozenset()
    evicted: frozenset[str] = frozenset()

    @property
    def head(self) -> int:
        return self.number


def words_of(stand: Any) -> dict[str, Any]:
    """The facts that every correct replay must give, from this one's stand or the library's state."""
    found = {word: getattr(stand, word) for word in _WORDS}
    return {word: sorted(value) if isinstance(value, frozenset) else value for word, value in found.items()}


_WORDS = ("head", "stable", "candidate", "proposed", "weight", "cap", "paused", "trial", "aborted", "evicted")


@dataclass(slots=True)
class History:
    """Stands in order of entries; `events[number]` is the entry's event with its fields."""

    name: str
    stands: list[Stand] = field(default_factory=list)
    events: dict[int, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    aborted_at: dict[str, float] = field(default_factory=dict)
    _since: list[float] = field(default_factory=list)

    def at(self, seconds: float) -> Stand | None:
        """The stand at a moment; None: nothing was rolled out yet."""
        index = bisect_right(self._since, seconds)
        return self.stands[index - 1] if index else None

    def between(self, begin: float, end: float) -> list[Stand]:
        """Every stand that was in force at some moment from `begin` to `end`."""
        return self.stands[max(bisect_right(self._since, begin) - 1, 0) : bisect_right(self._since, end)]

    def of(self, number: int) -> Stand | None:
        return self.stands[number - 1] if 0 < number <= len(self.stands) else None

    def replaced_at(self, number: int) -> float:
        """When the entry after `number` was made."""
        return self._since[number] if number < len(self._since) else float("inf")


def read_history(objects: Mapping[str, Kept], name: str) -> History:
    """Raises: Broken: the raw objects are not a journal."""
    prefix = f"rollout/{name}/journal/"
    kept = {key.removeprefix(prefix): one for key, one in objects.items() if key.startswith(prefix)}
    # The mark that an append leaves beside its entry.
    kept = {name: one for name, one in kept.items() if not name.endswith(".made")}
    history = History(name)
    before = "0" * 64
    for number in range(1, len(kept) + 1):
        one = kept.get(f"{number:08d}.json")
        if one is None:
            raise Broken(f"entry {number} of {len(kept)} is missing")
        body = json.loads(one.body)
        digest = body.pop("digest")
        del body["format"], body["sha256"]
        spelt = json.dumps({"journal": name, **body}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(spelt.encode()).hexdigest() != digest or body["prev"] != before or body["number"] != number:
            raise Broken(f"entry {number} is not what was appended, or not there")
        before = digest
        stand = _next(history.stands[-1] if history.stands else None, number, one.at, body["event"], body["fields"])
        history.stands.append(stand)
        history.events[number] = (body["event"], body["fields"])
        history._since.append(one.at)
        if body["event"] == "aborted":
            history.aborted_at[body["fields"]["version_set"]] = one.at
    return history


def _next(stand: Stand | None, number: int, since: float, event: str, fields: Mapping[str, Any]) -> Stand:
    named = fields.get("version_set")
    if stand is None:
        if event != "initialized" or not isinstance(named, str):
            raise Broken(f"entry {number} ({event}) begins a journal")
        return Stand(number, since, named)
    later = replace(stand, number=number, since=since)
    on_trial = {"weight": 0.0, "cap": None, "paused": False, "trial": 0, "candidate": None}
    if event in ("proposed", "started"):
        if stand.candidate or named == stand.stable or named in stand.aborted:
            raise Broken(f"entry {number} ({event}) while a candidate is on its way, or of a set that cannot be one")
        if event == "proposed":
            if stand.proposed:
                raise Broken(f"entry {number} proposes a second set")
            return replace(later, proposed=named, proposal=number)
        if stand.proposed not in (None, named):
            raise Broken(f"entry {number} starts another set than the proposal")
        trial = {"weight": float(fields["weight"]), "cap": fields.get("cap"), "trial": number, "candidate": named}
        return replace(later, proposed=None, proposal=0, **trial)
    if event == "withdrawn":
        if named != stand.proposed:
            raise Broken(f"entry {number} withdraws what is not proposed")
        return replace(later, proposed=None, proposal=0)
    if named != stand.candidate or named is None:
        raise Broken(f"entry {number} ({event}) is about {str(named)[:12]}, which is no candidate")
    if stand.paused and event in ("advanced", "promoted", "paused"):
        raise Broken(f"entry {number} ({event}) although the candidate is paused")
    if event == "advanced":
        if float(fields["weight"]) <= stand.weight:
            raise Broken(f"entry {number} advances to a weight that is not higher")
        return replace(later, weight=float(fields["weight"]), cap=fields.get("cap"))
    if event == "reweighted":
        return replace(later, weight=float(fields["weight"]), cap=fields.get("cap", stand.cap))
    if event in ("paused", "resumed"):
        return replace(later, paused=event == "paused")
    if event == "approved":
        return later
    if event == "promoted":
        return replace(later, stable=named, **on_trial)
    if event == "aborted":
        evicted = stand.evicted | {named} if fields.get("evict", True) else stand.evicted
        return replace(later, aborted=stand.aborted | {named}, evicted=evicted, **on_trial)
    raise Broken(f"entry {number} is of an event {event!r} that nobody described")
